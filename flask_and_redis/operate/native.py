"""How redis-cli or valkey-cli connects to a prefix's server."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl

import click

from ..engines.messages import find_login_label
from ..exceptions import ConfigError
from ..registry import Registry
from ..spec.spec import Arguments
from ..spec.spec import Spec
from . import health
from .explain import explain
from .text import wrap_error

# Seconds to ask sentinels for the server, or a cluster for a node that answers.
_FIND_TIMEOUT = 5.0

_TLS_OPTIONS = {
    "ssl_ca_certs": "--cacert",
    "ssl_ca_path": "--cacertdir",
    "ssl_certfile": "--cert",
    "ssl_keyfile": "--key",
    "ssl_ciphers": "--tls-ciphers",
}


def _error(message: str) -> click.ClickException:
    return click.ClickException(wrap_error(message))


def find_program(spec: Spec) -> str:
    """The path of the native client that suits a prefix best.

    :param spec: The prefix's spec.
    :raises click.ClickException: If there is none on the PATH.
    """
    names = spec.engine.native_clients(spec)

    for name in names:
        if path := shutil.which(name):
            return path

    raise _error(
        f"Neither {names[0]} nor {names[1]} is on the PATH. Install one of them:"
        " they come with a server, or in a package such as redis-tools."
    )


def find_arguments(registry: Registry, spec: Spec) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment with which the native client connects.

    :param registry: The app's registry.
    :param spec: The prefix's spec.
    :raises click.ClickException: If there is no server, or it cannot be found.
    """
    connection = spec.engine.connection_arguments(spec)
    username, password = _find_login(spec, connection)

    if path := connection.get("unix_socket_path"):
        arguments = ["-s", path]
    else:
        host, port = _find_server(registry, spec, connection)
        tls = _find_tls(spec, connection, host)
        arguments = ["-h", host, "-p", str(port), *tls]

    arguments += spec.engine.native_arguments(spec)

    if username:
        arguments += ["--user", username]

    # Drop the password of the shell, which may be for another server.
    names = ("REDISCLI_AUTH", "VALKEYCLI_AUTH")
    environment = {k: v for k, v in os.environ.items() if k not in names}

    if password:
        environment |= dict.fromkeys(names, password)

    return arguments, environment


def _find_login(spec: Spec, connection: Arguments) -> tuple[str, str]:
    provider = connection.get("credential_provider")

    if provider is None:
        username, password = map(connection.get, ("username", "password"))
        return str(username or ""), str(password or "")

    try:
        # Nothing, if the server needs no login.
        *user, password = provider.get_credentials() or ("",)
    except ConfigError as error:
        raise _error(str(error)) from None
    except Exception as error:
        # Its message may quote anything.
        kind = type(error).__name__
    else:
        return str(*user), str(password)

    raise _error(f"{find_login_label(spec)} gives no password ({kind}).")


def _find_server(
    registry: Registry, spec: Spec, connection: Arguments
) -> tuple[str, int]:
    """Host and port. Sentinels or nodes of a cluster are asked for them."""
    prefix, engine = spec.prefix, spec.engine

    if engine.in_process:
        raise _error(
            f"{prefix} is fakeredis. Its data are inside each process of the app,"
            " so there is no server to open."
        )

    if engine.has_fixed_address(spec):
        return connection["host"], connection["port"]

    questions = health.make_questions(registry, spec, _FIND_TIMEOUT, engine.ask_address)
    answer = health.ask({prefix: questions}, _FIND_TIMEOUT)[prefix]

    if answer.value is None:
        why = explain(registry, prefix, answer.error)
        where = engine.describe_address(spec)
        raise _error(f"{prefix}, {where}: {why}")

    return answer.value


def _find_tls(spec: Spec, connection: Arguments, host: str) -> list[str]:
    if not connection.get("ssl"):
        return []

    if connection.get("ssl_ca_data"):
        raise _error(
            f"'{spec.prefix}_SSL_CA_DATA' cannot be passed to the native client,"
            " which only reads certificates from files: set"
            f" '{spec.prefix}_SSL_CA_CERTS' instead."
        )

    arguments = ["--tls"]

    for name, option in _TLS_OPTIONS.items():
        if connection.get(name):
            arguments += [option, str(connection[name])]

    if connection.get("ssl_cert_reqs") in ("none", ssl.CERT_NONE):
        arguments += ["--insecure"]

    try:
        ipaddress.ip_address(host)
    except ValueError:
        # The server may choose its certificate by the name.
        arguments += ["--sni", host]

    return arguments

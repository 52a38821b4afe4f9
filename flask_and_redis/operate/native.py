"""How redis-cli or valkey-cli connects to a prefix's server."""

from __future__ import annotations

import collections.abc as cabc
import ipaddress
import os
import shutil
import ssl
import typing as t

import click

from ..engines.library import Client
from ..engines.messages import find_login_label
from ..exceptions import ConfigError
from ..registry import Registry
from ..spec.spec import Arguments
from ..spec.spec import Spec
from . import health
from .explain import explain
from .text import wrap_error

R = t.TypeVar("R")

# Seconds to ask sentinels for the server, a cluster for a node that answers, or a
# server for the session.
_TIMEOUT = 5.0

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
    session = spec.engine.native_arguments(spec)

    if username:
        session += ["--user", username]

    if path := connection.get("unix_socket_path"):
        arguments = ["-s", path]
    else:
        host, port = _find_server(registry, spec, connection)
        tls = _find_tls(spec, connection, host)
        arguments = ["-h", host, "-p", str(port), *tls]

    # Where sentinels or nodes were asked for the server, the session was checked.
    if (session or password) and spec.engine.has_fixed_address(spec):
        _check_session(registry, spec)

    arguments += session

    # Drop the password of the shell, which may be for another server.
    names = ("REDISCLI_AUTH", "VALKEYCLI_AUTH")
    environment = {k: v for k, v in os.environ.items() if k not in names}

    # Without a password, not even an empty one, the native client would not log in.
    if username or password:
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

    answer = _ask(registry, spec, engine.ask_address)

    if answer.value is None:
        raise _failure(registry, spec, answer.error)

    return answer.value


def _check_session(registry: Registry, spec: Spec) -> None:
    """Raise if the server refuses the login or the database. The native client would
    run commands as the default user, or in database 0. It says itself that a server is
    down.
    """
    answer = _ask(registry, spec, spec.engine.check_session)

    if spec.engine.refuses_session(spec, answer.error):
        raise _failure(registry, spec, answer.error)


def _ask(
    registry: Registry, spec: Spec, question: cabc.Callable[[Client], R]
) -> health.Answer[R]:
    questions = health.make_questions(registry, spec, _TIMEOUT, question)
    return health.ask({spec.prefix: questions}, _TIMEOUT)[spec.prefix]


def _failure(
    registry: Registry, spec: Spec, error: BaseException | None
) -> click.ClickException:
    where = spec.engine.describe_address(spec)
    return _error(f"{spec.prefix}, {where}: {explain(registry, spec.prefix, error)}")


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

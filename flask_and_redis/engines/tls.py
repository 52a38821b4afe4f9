"""Checks of the settings of TLS. The client library uses them only when it opens a
connection, and its errors do not name them.
"""

from __future__ import annotations

import collections.abc as cabc
import os
import ssl
import typing as t

from ..spec.classes import check_installed
from ..spec.spec import Arguments
from ..spec.spec import Spec
from ..spec.spec import Value
from ..spec.spec import Values

# Arguments that are paths.
_PATHS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

# Arguments that turn on OCSP, and the packages that the client library imports for them
# when it opens a connection.
_OCSP = {
    "ssl_validate_ocsp": ("cryptography", "requests"),
    "ssl_validate_ocsp_stapled": ("cryptography", "requests", "OpenSSL"),
}

_CERTIFICATES = "the path of a file with certificates in PEM format"

# What an argument must be, and a function that raises if it is not.
_OPTIONS: dict[str, tuple[str, cabc.Callable[[ssl.SSLContext, t.Any], None]]] = {
    "ssl_ca_certs": (
        _CERTIFICATES,
        lambda context, path: context.load_verify_locations(cafile=path),
    ),
    "ssl_ca_data": (
        "text with certificates in PEM format",
        lambda context, text: context.load_verify_locations(cadata=text),
    ),
    "ssl_ciphers": (
        "ciphers that OpenSSL knows, such as ECDHE+AESGCM. Those of TLS 1.3 cannot be"
        " set",
        lambda context, ciphers: context.set_ciphers(ciphers),
    ),
}


def check_tls(spec: Spec, values: Values) -> None:
    """Check that settings of TLS have an effect, and can be used. redis-py would
    silently use plain text.

    :param spec: The spec.
    :param values: The values behind its arguments.
    :raises ConfigError: If nothing turns TLS on, or a socket is used, or a file or an
        option is wrong.
    """
    is_on = spec.arguments.get("ssl")

    if not is_on and spec.arguments.get("ssl_cert_reqs") in ("none", ssl.CERT_NONE):
        # It asks for nothing. redis-py refuses it together with a pool.
        del spec.arguments["ssl_cert_reqs"]

    tls = [values[name] for name in spec.arguments if name.startswith("ssl_")]

    if "unix_socket_path" in spec.arguments and (tls or is_on):
        raise (tls or [values["ssl"]])[0].error(
            "cannot be used with a socket: TLS needs a host."
        )

    if tls and not is_on:
        raise tls[0].error(
            "needs TLS, which is off: use a rediss:// URL, or set"
            f" '{spec.prefix}_SSL' to true."
        )

    if tls:
        check_files(spec.prefix, spec.arguments, values)

    if (pem := spec.arguments.get("ssl_ocsp_expected_cert")) is not None:
        # redis-py passes it to a function that accepts only bytes.
        spec.arguments["ssl_ocsp_expected_cert"] = pem.encode()


def check_files(prefix: str, arguments: Arguments, values: Values) -> None:
    """Check files and options that a connection with TLS needs. The client library
    reads the files for each connection, so that they can be renewed.

    :param prefix: The prefix.
    :param arguments: The arguments of a client.
    :param values: The values behind those that are to be checked.
    :raises ConfigError: If one of them is wrong.
    """
    _check_ocsp(prefix, arguments, values)

    for name in _PATHS:
        if name in arguments:
            check_path(name, values[name]._replace(value=arguments[name]))

    if not {"ssl_certfile", "ssl_keyfile", *_OPTIONS}.isdisjoint(arguments):
        # Without such an argument, this would only take time.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        for name, problem in _find_problems(prefix, context, arguments):
            raise values[name].error(problem)


def _check_ocsp(prefix: str, arguments: Arguments, values: Values) -> None:
    """Check the arguments that turn on OCSP. The client library does so only when it
    opens a connection.
    """
    used = [name for name in _OCSP if arguments.get(name)]

    if len(used) == 2:
        one, other = (values[name] for name in used)
        raise one.error(f"and {other.label} exclude each other: set only one of them.")

    for name in used:
        for package in _OCSP[name]:
            check_installed(values[name].label, package)

    # With stapling, redis-py opens a second connection with another context.
    stapled, needed = "ssl_validate_ocsp_stapled", {"ssl_certfile", "ssl_keyfile"}

    if stapled in used and "ssl_ocsp_context" not in arguments:
        if not needed.issubset(arguments):
            raise values[stapled].error(
                f"needs '{prefix}_SSL_CERTFILE' and '{prefix}_SSL_KEYFILE'."
            )


def check_path(name: str, value: Value) -> None:
    """Check that a path exists. If it does not, the first command would end with what
    looks like a connection error.

    :param name: The argument of the client.
    :param value: Its value, converted.
    :raises ConfigError: If it is not the path of a file or directory that can be read.
    """
    path = value.value
    wants_directory = name == "ssl_ca_path"
    # A pipe is no file: it can be read only once, and may block.
    is_right = os.path.isdir if wants_directory else os.path.isfile

    if not is_right(path) or not os.access(path, os.R_OK):
        kind = "directory" if wants_directory else "file"
        raise value.error(f"must be the path of a {kind} that exists and can be read.")


def _find_problems(
    prefix: str, context: ssl.SSLContext, arguments: Arguments
) -> cabc.Iterator[tuple[str, str]]:
    """Arguments that are wrong, each with the end of a message about it."""
    for name, (expected, load) in _OPTIONS.items():
        if name in arguments and _error_of(load, context, arguments[name]):
            yield name, f"must be {expected}."

    if "ssl_certfile" in arguments:
        yield from _find_problems_of_key(prefix, context, arguments)
    elif "ssl_keyfile" in arguments:
        yield "ssl_keyfile", f"needs its certificate: set '{prefix}_SSL_CERTFILE', too."


def _find_problems_of_key(
    prefix: str, context: ssl.SSLContext, arguments: Arguments
) -> cabc.Iterator[tuple[str, str]]:
    """Problems with the client's own certificate, and with its key."""
    certificate, key = map(arguments.get, ("ssl_certfile", "ssl_keyfile"))
    is_encrypted = False

    def give_password() -> str:
        # Without a function, OpenSSL would ask on the terminal.
        nonlocal is_encrypted
        is_encrypted = True
        return str(arguments.get("ssl_password", ""))

    error = _error_of(context.load_cert_chain, certificate, key, give_password)

    if error is None:
        return

    # The file with the certificate may have the key, too.
    of_key = "ssl_certfile" if key is None else "ssl_keyfile"
    no_key = "must be the path of a file with the certificate's key in PEM format."

    if key is None:
        no_key = f"has no key in PEM format: set '{prefix}_SSL_KEYFILE'."

    # OpenSSL does not say which of the two it cannot read.
    if _error_of(context.load_verify_locations, certificate):
        yield "ssl_certfile", f"must be {_CERTIFICATES}."
    elif reason := getattr(error, "reason", None):
        yield of_key, f"has a key that does not fit the certificate ({reason})."
    elif not is_encrypted:
        yield of_key, no_key
    elif "ssl_password" in arguments:
        yield "ssl_password", "is not the password of the certificate's key."
    else:
        yield of_key, f"has an encrypted key: set '{prefix}_SSL_PASSWORD'."


def _error_of(
    function: cabc.Callable[..., object], *arguments: object
) -> Exception | None:
    """What a function raises because of its arguments. The error that is raised because
    of it must not have it as its context.
    """
    try:
        function(*arguments)
    except (OSError, ValueError, TypeError) as error:
        # OpenSSL's errors are OSErrors.
        return error

    return None

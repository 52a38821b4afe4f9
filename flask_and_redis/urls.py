"""URLs and hosts, to arguments of the client."""

from __future__ import annotations

import collections.abc as cabc
import inspect
import ipaddress
import re
import typing as t
from urllib.parse import parse_qsl
from urllib.parse import SplitResult
from urllib.parse import unquote
from urllib.parse import urlsplit

from .exceptions import ConfigError
from .values import did_you_mean
from .values import is_unset

SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys", "fakeredis")
TLS_SCHEMES = ("rediss", "valkeys")


_ESCAPE = (
    "A '/', '?', '#', '@', '[' or space in its user name or password must be"
    " percent-encoded, as urllib.parse.quote(password, safe='') does."
)


# A value with the words that an error calls it by.
Given = dict[str, tuple[str, t.Any]]


def scheme_of(url: str) -> str:
    scheme, separator, _ = url.strip().partition("://")
    return scheme.lower() if separator else ""


def one_of_schemes() -> str:
    return f"{', '.join(f'{scheme}://' for scheme in SCHEMES[:-1])} or {SCHEMES[-1]}://"


def read_url(
    label: str, url: t.Any, accepted: cabc.Mapping[str, inspect.Parameter]
) -> tuple[str, str | None, Given]:
    """The scheme, the name of a fake server, and the arguments that a URL says."""
    if not isinstance(url, str):
        raise ConfigError(f"{label} must be text, such as redis://localhost:6379/0.")

    parts = _split_url(label, url.strip())
    scheme = parts.scheme
    fake_server = None
    given: Given = {}

    if scheme == "fakeredis":
        fake_server = _fake_server(label, parts)
    elif scheme == "unix":
        given["unix_socket_path"] = (label, _socket_path(label, parts))
    else:
        given |= _read_authority(label, parts)

    if scheme in TLS_SCHEMES:
        given["ssl"] = (label, True)

    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            given[name] = (f"The {name} in {label}", _unquote(label, value))

    if scheme != "unix" and parts.path.strip("/"):
        if not re.fullmatch(r"/[0-9]+/?", parts.path):
            raise ConfigError(
                f"{label} must end in the number of a database, such as /0, or in"
                f" nothing. {_ESCAPE}"
            )

        given["db"] = (f"The database in {label}", parts.path.strip("/"))

    given |= _read_query(label, parts.query, accepted, given)
    return scheme, fake_server, given


def _split_url(label: str, url: str) -> SplitResult:
    if scheme_of(url) not in SCHEMES:
        near = did_you_mean(scheme_of(url), SCHEMES, "{}://") if "://" in url else ""
        raise ConfigError(f"{label} must begin with {one_of_schemes()}.{near}")

    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None

    if parts is None:
        raise ConfigError(
            f"{label} must be like redis://user:password@host:6379/0, with a port from"
            f" 1 to 65535. {_ESCAPE}"
        )

    if (
        re.search(r"[\x00-\x20\x7f]", url)
        or "#" in url
        or ("@" in parts.path and parts.scheme != "unix")
    ):
        raise ConfigError(f"{label} cannot be read. {_ESCAPE}")

    return parts


def _fake_server(label: str, parts: SplitResult) -> str:
    if not re.fullmatch(r"[\w.-]*", parts.netloc):
        raise ConfigError(
            f"{label} must be like fakeredis://name/0: a name of letters and digits, or"
            " none, and the number of a database, or none."
        )

    return parts.netloc


def _socket_path(label: str, parts: SplitResult) -> str:
    if parts.netloc.rpartition("@")[2] or len(parts.path) < 2:
        raise ConfigError(
            f"{label} must be like unix:///path/to/redis.sock?db=0 or"
            f" unix://user:password@/path/to/redis.sock. {_ESCAPE}"
        )

    return _unquote(label, parts.path)


def _read_authority(label: str, parts: SplitResult) -> Given:
    if parts.netloc and not parts.hostname:
        raise ConfigError(
            f"{label} must name a host before the port or after the '@', such as"
            f" localhost. {_ESCAPE}"
        )

    host = _unquote(label, parts.hostname or "localhost")
    given: Given = {"host": (label, _check_host(label, host))}

    if parts.port is not None:
        given["port"] = (f"The port in {label}", parts.port)

    return given


def _unquote(label: str, text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass

    raise ConfigError(f"{label} must percent-encode text as UTF-8.")


def _read_query(
    label: str,
    query: str,
    accepted: cabc.Mapping[str, inspect.Parameter],
    before: Given,
) -> Given:
    """The options behind the question mark. Their names are not quoted in errors: a
    password with a question mark in it would stand there.
    """
    given: Given = {}

    try:
        options = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        options = [("", "")]

    for number, (name, value) in enumerate(options, 1):
        where = f"Option {number} in the query of {label}"

        if name in ("host", "port", "unix_socket_path", "ssl", "connection_pool"):
            raise ConfigError(f"{where} belongs in the part before the query.")

        if name not in accepted:
            raise ConfigError(
                f"{where} is no argument of the client."
                f"{did_you_mean(name, accepted)} {_ESCAPE}"
            )

        if name in given or (name in before and name != "db"):
            raise ConfigError(f"{where} repeats what the URL says before it.")

        if not is_unset(value):
            given[name] = (f"{name!r} in the query of {label}", value)

    if "db" in given and "db" in before and given["db"][1] != before["db"][1]:
        raise ConfigError(f"{label} names two databases, in its path and its query.")

    return given


def read_host(label: str, value: t.Any) -> Given:
    """HOST, which may be the path of a socket."""
    if not isinstance(value, str):
        raise ConfigError(f"{label} must be text: the name of a host.")

    host = value.strip()

    if host.startswith(("/", "file://")):
        path = host.removeprefix("file://")
        # None: said by nobody.
        return {"host": (label, None), "unix_socket_path": (label, path)}

    return {"host": (label, _check_host(label, host))}


def _check_host(label: str, host: str) -> str:
    try:
        ipaddress.ip_address(host)
        return host
    except ValueError:
        pass

    try:
        encoded = host.encode("idna")
    except UnicodeError:
        encoded = b"/"

    if re.search(rb"[\x00-\x20\x7f/:@?#\[\]\\]", encoded):
        raise ConfigError(
            f"{label} must name a host, such as localhost or 127.0.0.1, without scheme,"
            " port, database or password; or, for a socket, be a path that begins"
            " with '/'."
        )

    return host

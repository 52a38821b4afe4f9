"""URLs and hosts, to arguments of the client."""

from __future__ import annotations

import collections.abc as cabc
import contextlib
import inspect
import ipaddress
import re
import typing as t
from urllib.parse import parse_qsl
from urllib.parse import unquote
from urllib.parse import urlsplit

from .exceptions import ConfigError
from .values import did_you_mean
from .values import is_unset

#: Each scheme, and the port where its URL leaves it out.
SCHEMES: dict[str, int | None] = {
    "redis": 6379,
    "rediss": 6379,
    "unix": None,
    "valkey": 6379,
    "valkeys": 6379,
    "redis+cluster": 6379,
    "rediss+cluster": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
    "fakeredis": None,
}
TLS_SCHEMES = ("rediss", "valkeys", "rediss+cluster", "rediss+sentinel")


class Place(t.NamedTuple):
    """What a URL says beside the arguments of the client."""

    scheme: str = "redis"
    #: Host and port of each start-up node of a cluster, or of each sentinel.
    nodes: tuple[tuple[str, int], ...] = ()
    #: The name by which sentinels know the server.
    service: str = ""
    #: Whether to read from the replicas that sentinels know.
    replica: bool = False
    #: The name of a server of fakeredis.
    fake_server: str = ""


_ESCAPE = (
    "A '/', '?', '#', '@' or space in its user name or password must be"
    " percent-encoded, as urllib.parse.quote(password, safe='') does."
)


# What a URL says before its query.
IN_FRONT_OF_QUERY = (
    *("host", "port", "unix_socket_path", "ssl", "connection_pool"),
    *("startup_nodes", "url"),
)

# A value with the words that an error calls it by.
Given = dict[str, tuple[str, t.Any]]


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def scheme_of(url: str) -> str:
    scheme, separator, _ = url.strip().partition("://")
    return scheme.lower() if separator else ""


def one_of_schemes() -> str:
    *most, last = (f"{scheme}://" for scheme in SCHEMES)
    return f"{', '.join(most)} or {last}"


def read_url(
    label: str, url: t.Any, accepted: cabc.Mapping[str, inspect.Parameter]
) -> tuple[Place, Given]:
    """What a URL says: of the place, and arguments of the client.

    :param label: What an error calls the setting.
    :param url: The URL.
    :param accepted: The arguments that the client takes.
    :raises ConfigError: If it is wrong. The URL is not quoted.
    """
    if not isinstance(url, str):
        raise ConfigError(f"{label} must be text, such as redis://localhost:6379/0.")

    scheme, login, address, path, query = _split_url(label, url.strip())
    given: Given = {}
    username, _, password = login.partition(":")

    for name, value in (("username", username), ("password", password)):
        if value:
            given[name] = (f"The {name} in {label}", _unquote(label, value))

    if scheme in TLS_SCHEMES:
        given["ssl"] = (label, True)

    place = Place(scheme)

    if scheme == "unix":
        given["unix_socket_path"] = (label, _socket_path(label, address, path))
        path = ""
    elif scheme == "fakeredis":
        place = Place(scheme, fake_server=_fake_server(label, login + address))
    elif "+" in scheme and "@" in login:
        raise ConfigError(
            f"{label} must name its user once, before all hosts. {_ESCAPE}"
        )
    elif scheme.endswith("+cluster"):
        place = Place(scheme, _read_nodes(label, scheme, address))
    elif scheme.endswith("+sentinel"):
        place, path, query = _read_sentinel(label, scheme, address, path, query)
    else:
        given |= _read_address(label, address)

    given |= _read_database(label, path)
    given |= _read_query(label, query, accepted, given)
    return place, given


_URL = r"(?P<scheme>[^:/]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(.*)"


def _split_url(label: str, url: str) -> tuple[str, str, str, str, str]:
    """Scheme, user and password, hosts, path and query of a URL."""
    if scheme_of(url) not in SCHEMES:
        near = did_you_mean(scheme_of(url), SCHEMES, "{}://") if "://" in url else ""
        raise ConfigError(
            f"{label} must begin with {one_of_schemes()}.{near} If it is no Redis, name"
            " its prefix in RedisManager(ignore=...)."
        )

    match = re.fullmatch(_URL, url)

    if (
        match is None
        or re.search(r"[\x00-\x20\x7f#]", url)
        or ("@" in match["path"] and scheme_of(url) != "unix")
    ):
        raise ConfigError(f"{label} cannot be read. {_ESCAPE}")

    login, _, address = match["authority"].rpartition("@")

    if login and not address and scheme_of(url) != "unix":
        raise ConfigError(f"{label} must name a host after the '@'. {_ESCAPE}")

    return match["scheme"].lower(), login, address, match["path"], match[4][1:]


def _fake_server(label: str, name: str) -> str:
    if not re.fullmatch(r"[\w.-]*", name):
        raise ConfigError(
            f"{label} must be like fakeredis://name/0: a name of letters and digits, or"
            " none, and the number of a database, or none."
        )

    return name


def _socket_path(label: str, address: str, path: str) -> str:
    if address or len(path) < 2:
        raise ConfigError(
            f"{label} must be like unix:///path/to/redis.sock?db=0 or"
            f" unix://user:password@/path/to/redis.sock. {_ESCAPE}"
        )

    return _unquote(label, path)


def _read_address(label: str, address: str) -> Given:
    """The one host of a URL, and its port if it says one."""
    if "," in address:
        raise ConfigError(
            f"{label} names several hosts: use redis+cluster:// or redis+sentinel://."
        )

    host, port = _read_node(label, address or "localhost")
    given: Given = {"host": (label, host)}

    if port is not None:
        given["port"] = (f"The port in {label}", port)

    return given


def _read_nodes(label: str, scheme: str, address: str) -> tuple[tuple[str, int], ...]:
    """The hosts of a URL, with commas between them."""
    default = t.cast(int, SCHEMES[scheme])
    nodes = (_read_node(label, it) for it in (address or "localhost").split(","))
    return tuple((host, default if port is None else port) for host, port in nodes)


def _read_node(label: str, address: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0

    if port is not None and not 0 < port < 65536:
        raise ConfigError(
            f"{label} must be like redis://user:password@host:6379/0, with a port from"
            f" 1 to 65535. {_ESCAPE}"
        )

    if not host:
        raise ConfigError(
            f"{label} must name a host before each port and after the '@', such as"
            f" localhost. {_ESCAPE}"
        )

    return _check_host(label, _unquote(label, host)), port


def _read_sentinel(
    label: str, scheme: str, address: str, path: str, query: str
) -> tuple[Place, str, str]:
    """The place behind sentinels, and what remains of path and query."""
    service, _, database = path.removeprefix("/").partition("/")

    if not service:
        raise ConfigError(
            f"{label} must name the service that the sentinels watch, as in"
            " redis+sentinel://host:26379/mymaster/0."
        )

    roles = [it for it in query.split("&") if it.startswith("role=")]

    if roles and roles not in (["role=master"], ["role=replica"]):
        raise ConfigError(f"'role' in the query of {label} must be master or replica.")

    place = Place(
        scheme,
        _read_nodes(label, scheme, address),
        _unquote(label, service),
        replica=roles == ["role=replica"],
    )
    rest = "&".join(it for it in query.split("&") if it not in roles)
    return place, f"/{database}", rest


def _read_database(label: str, path: str) -> Given:
    if not path.strip("/"):
        return {}

    if not re.fullmatch(r"/[0-9]+/?", path):
        raise ConfigError(
            f"{label} must end in the number of a database, such as /0, or in nothing."
            f" {_ESCAPE}"
        )

    return {"db": (f"The database in {label}", path.strip("/"))}


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

        if name in IN_FRONT_OF_QUERY:
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
    if ":" in host:
        with contextlib.suppress(ValueError):
            ipaddress.IPv6Address(host)
            return host

    try:
        encoded = host.encode("idna")
    except UnicodeError:
        encoded = b"/"

    if re.search(rb"[\x00-\x20\x7f/:@?#,\[\]\\]", encoded):
        raise ConfigError(
            f"{label} must name a host, such as localhost, 127.0.0.1 or ::1, without"
            " scheme, port, brackets, database or password; or, for a socket, be a path"
            " that begins with '/'."
        )

    return host

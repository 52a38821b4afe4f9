"""The syntax of URLs and host names. The engines know what they mean."""

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

from ..exceptions import ConfigError
from .advice import explain_type
from .advice import has_placeholder
from .advice import is_quoted
from .advice import QUOTED
from .advice import UNREPLACED
from .classes import did_you_mean
from .classes import is_unset
from .spec import Value
from .spec import Values

#: Arguments that a URL gives before its query, and never in it.
BEFORE_QUERY = (
    *("host", "port", "unix_socket_path", "ssl", "connection_pool"),
    *("startup_nodes", "url"),
)

_ESCAPE = (
    "A '/', '?', '#', '@' or space in the user name or password of a URL must be"
    " percent-encoded, as urllib.parse.quote(password, safe='') does."
)

# The longest name that can be resolved.
_LONGEST_HOST = 253


class Url(t.NamedTuple):
    """A URL, split into its parts. No message quotes any of them: in a malformed URL
    each part may belong to a password.
    """

    #: What an error calls it, such as ``'REDIS_URL'``.
    label: str
    scheme: str
    #: User name and password, with a colon between them.
    login: str
    #: One or more hosts, each with or without a port.
    hosts: str
    path: str
    query: str

    def __repr__(self) -> str:
        return f"<Url {self.label}>"

    def error(self, problem: str) -> ConfigError:
        """An error about this URL, for the caller to raise. If the cause may be a
        password with special characters, it says how to write one.

        :param problem: The rest of the sentence that begins with the label.
        """
        return ConfigError(f"{self.label} {problem}{self._advise_escape()}")

    def _advise_escape(self) -> str:
        # A special character in the login cuts it, and its '@' is in a later part. An
        # '@' in the login is such a character itself.
        is_cut = any("@" in part for part in (self.login, self.path, self.query))
        return f" {_ESCAPE}" if is_cut else ""

    def value(self, value: object, part: str = "") -> Value:
        """A part of the URL as a value.

        :param value: The part's value.
        :param part: What an error calls the part. By default it names the whole URL.
        """
        label = f"The {part} in {self.label}" if part else self.label
        return Value(label, value, "url")

    def unquote(self, text: str) -> str:
        """Decode percent-encoded text.

        :param text: A part of the URL.
        :raises ConfigError: If it is not UTF-8.
        """
        try:
            return unquote(text, errors="strict")
        except UnicodeDecodeError:
            pass

        raise self.error("has percent-encoded text that is not UTF-8.")

    def read_login(self) -> Values:
        """The user name and the password."""
        if not self.login:
            return {}

        username, _, password = self.login.partition(":")
        return {
            name: self.value(self.unquote(text), name)
            for name, text in (("username", username), ("password", password))
            if text
        }

    def read_host(self) -> Values:
        """The only host of the URL, and its port if there is one.

        :raises ConfigError: If there are several hosts, or one that is malformed.
        """
        if "," in self.hosts:
            raise self.error(
                "names several hosts: use redis+cluster:// or redis+sentinel://."
            )

        host, port = self._read_node(self.hosts or "localhost")
        values = {"host": self.value(host)}

        if port is not None:
            values["port"] = self.value(port, "port")

        return values

    def read_nodes(self, default_port: int) -> tuple[tuple[str, int], ...]:
        """The hosts of the URL, which are separated by commas, each with its port.

        :param default_port: The port of a host without one.
        :raises ConfigError: If a host is malformed, or has a user name of its own.
        """
        if "@" in self.login:
            raise self.error("must have its login only once, before the first host.")

        nodes = map(self._read_node, (self.hosts or "localhost").split(","))
        return tuple((host, port or default_port) for host, port in nodes)

    def _read_node(self, text: str) -> tuple[str, int | None]:
        try:
            parts = urlsplit(f"//{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, 0

        # An empty port often means that a variable was not set, like an empty host.
        if port == 0 or text.endswith(":"):
            if has_placeholder(text):
                raise self.error(UNREPLACED)

            raise self.error(
                "must be like redis://user:password@host:6379/0, with a port from 1 to"
                " 65535."
            )

        if not host:
            raise self.error(
                "must name a host before each port and after the '@', such as"
                " localhost."
            )

        return check_host(self.unquote(host), self.error), port

    def read_database(self) -> Values:
        """The number of a database, if the path is one.

        :raises ConfigError: If the path is something else.
        """
        if not (number := self.path.strip("/")):
            return {}

        if has_placeholder(self.path):
            raise self.error(UNREPLACED)

        if not re.fullmatch(r"/[0-9]+/?", self.path):
            raise self.error(
                "must end in the number of a database, such as /0, or have no path."
            )

        return {"db": self.value(number, "database")}

    def read_query(
        self, accepted: cabc.Mapping[str, inspect.Parameter], before: Values
    ) -> Values:
        """The client's arguments in the query.

        :param accepted: The arguments that the client takes.
        :param before: What the URL says before its query.
        :raises ConfigError: If the client does not take one of them, it has no value,
            or the URL says it twice. The message has the number of an option that is
            not known, because its name may be the rest of a password with a question
            mark.
        """
        if not self.query:
            return {}

        values: Values = {}

        try:
            options = parse_qsl(self.query, keep_blank_values=True, errors="strict")
        except ValueError:
            options = [("", "")]

        for number, (name, value) in enumerate(options, 1):
            where = f"Option {number} in the query of {self.label}"

            if name in BEFORE_QUERY:
                raise ConfigError(f"{where} belongs in the part before the query.")

            if name in ("sentinel_username", "sentinel_password"):
                setting = self.label.replace("_URL'", f"_{name.upper()}'")
                raise ConfigError(f"{where} cannot be set there: use {setting}.")

            if name not in accepted:
                raise ConfigError(
                    f"{where} is not an argument of the client."
                    f"{did_you_mean(name, accepted)}{self._advise_escape()}"
                )

            if name in values or (name in before and name != "db"):
                raise ConfigError(f"{where} repeats an earlier part of the URL.")

            label = f"{name!r} in the query of {self.label}"

            # After a '=', nothing means that the option is not set.
            if name in self.query.split("&"):
                raise ConfigError(f"{label} has no value: add '=' and the value.")

            if not is_unset(value):
                values[name] = Value(label, value, "url")

        if "db" in values and "db" in before:
            if values["db"].value != before["db"].value:
                raise self.error("names two databases, in its path and its query.")

        return values


def scheme_of(url: object) -> str:
    """The scheme of a URL in lower case, or nothing if it has none.

    :param url: The URL.
    """
    if not isinstance(url, str):
        return ""

    scheme, separator, _ = url.strip().partition("://")
    return scheme.lower() if separator else ""


def is_service_port(port: object) -> bool:
    """Whether Kubernetes or Docker has set a ``PORT``. Next to a service ``redis`` they
    set ``REDIS_PORT`` to a text such as ``tcp://10.0.0.1:6379``.

    :param port: The setting.
    """
    schemes = ("tcp://", "udp://", "sctp://")
    return isinstance(port, str) and port.strip().startswith(schemes)


_URL = r"(?P<scheme>[^:/]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(.*)"


def split_url(
    label: str, text: str, schemes_without_host: cabc.Container[str] = ()
) -> Url:
    """Split a URL into its parts.

    :param label: What an error calls the URL.
    :param text: The URL.
    :param schemes_without_host: The schemes whose URLs have a path in place of a host.
    :raises ConfigError: If it cannot be read. The message does not quote it.
    """
    text = text.strip()
    match = re.fullmatch(_URL, text)

    scheme = match["scheme"].lower() if match else ""
    has_host = scheme not in schemes_without_host

    if (
        match is None
        or not _is_encodable(text)
        or re.search(r"[\x00-\x20\x7f#]", text)
        or ("@" in match["path"] and has_host)
    ):
        # A placeholder may have characters that no URL has.
        unreplaced = has_host and has_placeholder(text.rpartition("@")[2])

        if unreplaced:
            problem = UNREPLACED
        elif "@" in text:
            problem = f"cannot be read. {_ESCAPE}"
        else:
            problem = (
                "cannot be read: it has a character that no URL has, such as a space"
                " or a '#'."
            )

        raise ConfigError(f"{label} {problem}")

    login, _, hosts = match["authority"].rpartition("@")
    url = Url(label, scheme, login, hosts, match["path"], match[4][1:])

    if login and not hosts and has_host:
        raise url.error("must name a host after the '@'.")

    return url


def _is_encodable(text: str) -> bool:
    """Whether a text can be sent to a server. Lone surrogates cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False

    return True


def read_host(value: Value) -> Values:
    """Read the setting ``HOST``, which may be the path of a socket.

    :param value: The setting.
    :raises ConfigError: If it is neither a host nor a path.
    """
    if not isinstance(value.value, str):
        advice = explain_type(value.value, wants_text=True)
        raise value.error(f"must be text: the name of a host.{advice}")

    host = value.value.strip()

    if host.startswith(("/", "file://")):
        path = host.removeprefix("file://")
        # None drops the option: a socket path replaces the host.
        return {
            "host": value._replace(value=None),
            "unix_socket_path": value._replace(value=path),
        }

    return {"host": value._replace(value=check_host(host, value.error))}


def check_host(host: str, error: cabc.Callable[[str], ConfigError]) -> str:
    """Check a host name or IP address, and return it.

    :param host: The host.
    :param error: Makes an error about the setting. The message does not quote the host.
    :raises ConfigError: If it is not a host.
    """
    if ":" in host:
        with contextlib.suppress(ValueError):
            ipaddress.IPv6Address(host)
            return host

    try:
        # Encoding a longer text, which is no host, may take minutes.
        encoded = host.encode("idna") if len(host) <= _LONGEST_HOST else b"/"
    except UnicodeError:
        encoded = b"/"

    if not re.fullmatch(rb"[A-Za-z0-9._-]*", encoded):
        if len(host) <= _LONGEST_HOST and has_placeholder(host):
            raise error(UNREPLACED)

        if is_quoted(host):
            raise error(QUOTED)

        raise error(
            "must name a host, such as localhost, 127.0.0.1 or ::1, without"
            " scheme, port, brackets, database or password; or, for a socket, be a path"
            " that begins with '/'."
        )

    return host


def join_address(host: str, port: object) -> str:
    """Host and port as one text, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

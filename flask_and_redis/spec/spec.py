"""The types that all other modules share."""

from __future__ import annotations

import copy
import typing as t

from ..exceptions import ConfigError

if t.TYPE_CHECKING:
    # For type checkers only: engines import this module.
    from ..engines.base import Engine

#: The settings that say where a server is.
ADDRESS = ("host", "port", "unix_socket_path", "db")

#: The longest prefix. Longer ones are not in use, and would take long to look up.
LONGEST_PREFIX = 200

#: Seconds that a command is retried.
RETRY_DEADLINE = 5.0

#: Arguments of a client, pool or connection, by name.
Arguments = dict[str, t.Any]

#: Seconds after which an unused connection is replaced. A firewall may have forgotten
#: it.
MAX_IDLE = 300.0

Origin = t.Literal["setting", "option", "url"]


class Value(t.NamedTuple):
    """A value that somebody gave for one argument of the client."""

    #: What an error calls it, such as ``'REDIS_PORT'`` or ``The port in 'REDIS_URL'``.
    label: str
    value: t.Any
    #: A setting, an option in the application's code, or a part of a URL.
    origin: Origin = "setting"

    def __repr__(self) -> str:
        # The value may be a password.
        return f"<Value {self.label}>"

    def error(self, problem: str) -> ConfigError:
        """An error about this value, for the caller to raise.

        :param problem: The rest of the sentence that begins with the label.
        """
        error = ConfigError(f"{self.label} {problem}")
        error.origin = self.origin
        return error


#: Values by the names of the client's arguments.
Values = dict[str, Value]


class Address(t.NamedTuple):
    """What a URL says besides arguments of the client."""

    scheme: str = "redis"
    #: Host and port of each start-up node of a cluster, or of each sentinel.
    nodes: tuple[tuple[str, int], ...] = ()
    #: The name of the service that sentinels watch.
    service: str = ""
    #: Whether to read from the replicas that the sentinels know.
    replica: bool = False
    #: The name of a server of fakeredis.
    fake_server: str = ""


#: The address of a prefix without a URL.
NO_URL: Address = Address()


class Spec:
    """The checked settings of one prefix: all that is needed to create its client.

    :param prefix: The prefix.
    :param engine: The kind of server.
    :param client_class: The client class.
    :param pool_class: The class of its pool, if a setting names one.
    :param address: What the URL says besides arguments of the client.
    """

    # Not a dataclass: it would take longer to import, and its repr would show secrets.
    def __init__(
        self,
        prefix: str,
        engine: Engine,
        client_class: type[t.Any],
        pool_class: type[t.Any] | None = None,
        address: Address = NO_URL,
    ) -> None:
        self.prefix: str = prefix
        self.engine: Engine = engine
        self.client_class: type[t.Any] = client_class
        self.pool_class: type[t.Any] | None = pool_class
        self.address: Address = address
        #: The settings as they were given, by names without the prefix in lower case.
        self.given: t.Mapping[str, t.Any] = {}
        #: The values that were given for arguments. The others are defaults.
        self.values: Values = {}
        self.arguments: Arguments = {}
        #: Arguments of the clients that talk to the sentinels.
        self.sentinel_arguments: Arguments = {}
        #: What errors call the arguments of the login.
        self.labels: dict[str, str] = {}
        #: Seconds that a command is retried. None if redis-py's own Retry does that.
        self.deadline: float | None = RETRY_DEADLINE
        #: How often a command may be retried once it may have been sent. None if there
        #: is no limit.
        self.retries: int | None = None
        #: Seconds that a connection may be unused before it is replaced.
        self.max_idle: float = MAX_IDLE
        #: Whether health checks only report an outage of this prefix.
        self.optional: bool = False
        #: Names of warnings that were logged and are not repeated. Copies share it.
        self.logged: set[str] = set()

    def replace(self, **changes: t.Any) -> Spec:
        """A copy with other values for some attributes."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

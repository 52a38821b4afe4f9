"""The types that all other modules share."""

from __future__ import annotations

import collections.abc as cabc
import typing as t
from dataclasses import dataclass
from dataclasses import field

from ..exceptions import ConfigError

if t.TYPE_CHECKING:
    # For type checkers only: engines import this module.
    from ..engines.base import Engine

#: The settings that say where a server is.
ADDRESS = ("host", "port", "unix_socket_path", "db")

#: Seconds that a command is retried.
RETRY_DEADLINE = 5.0

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
    """What a URL says beside arguments of the client."""

    scheme: str = "redis"
    #: Host and port of each start-up node of a cluster, or of each sentinel.
    nodes: tuple[tuple[str, int], ...] = ()
    #: The name of the service that sentinels watch.
    service: str = ""
    #: Whether to read from the replicas that the sentinels know.
    replica: bool = False
    #: The name of a server of fakeredis.
    fake_server: str = ""


# eq and repr are off: they are unused, slow to generate, and repr would show secrets.
@dataclass(eq=False, repr=False)
class Spec:
    """The checked settings of one prefix: all that is needed to create its client."""

    prefix: str
    engine: Engine
    client_class: type[t.Any]
    arguments: dict[str, t.Any] = field(default_factory=dict)
    pool_class: type[t.Any] | None = None
    address: Address = Address()
    #: Arguments of the clients that talk to the sentinels.
    sentinel_arguments: cabc.Mapping[str, t.Any] = field(default_factory=dict)
    #: Seconds that a command is retried. None if redis-py's own Retry does that.
    deadline: float | None = RETRY_DEADLINE
    #: How often a command may be retried once it may have been sent. None: no limit.
    retries: int | None = None

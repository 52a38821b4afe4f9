"""How connections introduce themselves to the server, for ``CLIENT LIST``."""

from __future__ import annotations

import collections.abc as cabc
import functools
import logging
import sys
import typing as t

import redis

from ..spec.spec import Arguments
from ..spec.spec import Spec
from .library import library_of

logger: logging.Logger = logging.getLogger("flask_and_redis")

# The argument of redis-py, and that of valkey-py.
_CONNECT_FUNCTIONS = ("redis_connect_func", "valkey_connect_func")

_LIBRARY_NAMES = frozenset({"driver_info", "lib_name", "lib_version"})


def name_library(arguments: Arguments, accepted: cabc.Container[str]) -> None:
    """Let ``CLIENT LIST`` show this package next to redis-py, unless a setting says
    what it shows. With protocol 2, nothing is sent: some proxies for old servers close
    the connection when they receive a command that they do not know.

    :param arguments: The arguments of a client. They are changed in place.
    :param accepted: The arguments that it takes.
    """
    if _LIBRARY_NAMES & arguments.keys():
        return

    if arguments.get("protocol") == 2:
        # redis-py 8 has the others as well, and warns about them.
        old_names = _LIBRARY_NAMES - {"driver_info"}
        names = {"driver_info"} if "driver_info" in accepted else old_names
        arguments |= {name: None for name in names if name in accepted}
    elif "driver_info" in accepted:
        # The package imports this module, so it cannot be imported here.
        version = sys.modules[__name__.partition(".")[0]].__version__
        # A new one each time, because anybody who gets it may add a name.
        info: t.Any = t.cast(t.Any, redis).DriverInfo(lib_version=_redis_version())
        arguments["driver_info"] = info.add_upstream_driver("flask-and-redis", version)


@functools.cache
def _redis_version() -> str:
    # redis-py would read it from a file for each client.
    version: str = t.cast(t.Any, redis).DriverInfo().lib_version
    return version


def allow_refused_name(
    spec: Spec, arguments: Arguments, accepted: cabc.Container[str]
) -> None:
    """Let connections stay without a name if the user has no permission to set it.
    redis-py fails to connect.

    :param spec: The spec.
    :param arguments: The arguments of a client. They are changed in place.
    :param accepted: The arguments that it takes.
    """
    argument = next((name for name in _CONNECT_FUNCTIONS if name in accepted), None)

    if argument and arguments.get("client_name"):
        tolerant = _Tolerant.of(spec, arguments.get(argument) or _connect)
        is_async = library_of(spec.client_class).is_async
        # redis-py awaits coroutine functions only, not objects that behave like one.
        arguments[argument] = tolerant.make_async() if is_async else tolerant


def name_after_connecting(spec: Spec, arguments: Arguments) -> None:
    """The same as :func:`allow_refused_name`, for a client of a cluster. It calls the
    function after it has connected.

    :param spec: The spec.
    :param arguments: The arguments of a client. They are changed in place.
    """
    if not (name := arguments.pop("client_name", None)):
        return

    added = arguments.get("redis_connect_func")

    def set_name(connection: t.Any) -> None:
        if connection.client_name is not None:
            connection.send_command("CLIENT", "SETNAME", name)
            connection.read_response()

    tolerant = _Tolerant.of(spec, set_name)

    def connect(connection: t.Any) -> None:
        connection.client_name = name
        tolerant(connection)

        if added is not None:
            added(connection)

    arguments["redis_connect_func"] = connect


def _connect(connection: t.Any) -> t.Any:
    return connection.on_connect()


class _Tolerant(t.NamedTuple):
    """Calls a function with a connection. If the server refuses a CLIENT command, calls
    it again without a name. Two for the same settings are equal.
    """

    prefix: str
    response_error: type[Exception]
    connect: cabc.Callable[[t.Any], t.Any]
    logged: set[str]

    @classmethod
    def of(cls, spec: Spec, connect: cabc.Callable[[t.Any], t.Any]) -> _Tolerant:
        errors = library_of(spec.client_class).errors
        return cls(spec.prefix, errors.ResponseError, connect, spec.logged)

    def __call__(self, connection: t.Any) -> None:
        try:
            self.connect(connection)
        except Exception as error:
            self._check_refusal(error)
            connection.client_name = None
            self.connect(connection)

    def make_async(self) -> cabc.Callable[[t.Any], cabc.Awaitable[None]]:
        """The same as a coroutine function."""

        async def connect_anyway(connection: t.Any) -> None:
            try:
                await self.connect(connection)
            except Exception as error:
                self._check_refusal(error)
                connection.client_name = None
                await self.connect(connection)

        return connect_anyway

    def _check_refusal(self, error: Exception) -> None:
        """Raise an error again, unless the server refused a CLIENT command."""
        is_refusal = isinstance(error, self.response_error)

        if not (is_refusal and "client" in str(error).lower()):
            raise error

        if "client_name" not in self.logged:
            self.logged.add("client_name")
            logger.warning(
                "The Redis %r refuses the name in '%s_CLIENT_NAME', so CLIENT LIST does"
                " not show it. Give the user the permission +client|setname, or remove"
                " the setting.",
                self.prefix,
                self.prefix,
            )

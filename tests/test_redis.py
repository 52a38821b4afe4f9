"""The API of version 1, and what replaces it."""

from __future__ import annotations

import gc
import typing as t

import pytest
import redis
from flask import current_app
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError

from . import objects
from .servers import Server

pytestmark = pytest.mark.each


def kwargs_of(client: redis.Redis) -> dict[str, t.Any]:
    kwargs: dict[str, t.Any] = client.connection_pool.connection_kwargs
    return kwargs


def test_with_app(app: Flask, server: Server) -> None:
    """Redis(app) works inside and outside a context."""
    app.config["REDIS_URL"] = server.url
    client = Redis(app)
    assert client.set("k", "v")

    with app.app_context():
        assert client.get("k") == b"v"
        assert current_redis.get("k") == b"v"

    assert client.connection is app.extensions["redis"]["REDIS"]


def test_without_any_setting(app: Flask) -> None:
    """Without settings, the server is localhost, port 6379, database 0."""
    kwargs = kwargs_of(Redis(app))
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("localhost", 6379, 0)
    assert kwargs["socket_timeout"] == 5


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"REDIS_URL": None}, "'REDIS_URL' has no value."),
        ({"REDIS_URL": " "}, "'REDIS_URL' has no value."),
        ({"REDIS_HOST": ""}, "'REDIS_HOST' has no value."),
        (
            {"FLASK_REDIS_URL": "redis://h"},
            "'FLASK_REDIS_URL' is set: did you mean 'REDIS_URL'?",
        ),
        (
            {1: 2, "rediss_host": "h"},
            "'rediss_host' is set: did you mean 'REDIS_HOST'?",
        ),
        ({"REIDS_URL": "redis://h"}, "'REIDS_URL' is set: did you mean 'REDIS_URL'?"),
        ({"REDIS__URL": "redis://h"}, "'REDIS__URL' is set: did you mean 'REDIS_URL'?"),
        ({"REDIS_Url": "x"}, "'REDIS_Url' is not used. Did you mean 'REDIS_URL'?"),
        ({"REDIS_HOSTS": "h"}, "'REDIS_HOSTS' is not used. Did you mean 'REDIS_HOST'?"),
        ({"REDIS_PASSWORD": "x"}, "'REDIS_PASSWORD' is set without an address."),
        ({"REDIS_USER": "me"}, "'REDIS_USER' is set without an address."),
        (
            {"REDIS_PASSWORD_FILE": __file__},
            "'REDIS_PASSWORD_FILE' is set without an address.",
        ),
        (
            {"REDIS_SSL": "1", "REDIS_URL": None, "REDIS_PASSWORD": "x"},
            "'REDIS_URL' has no value.",
        ),
        ({"REDIS_SSL": "1"}, "'REDIS_SSL' is set without an address."),
        ({"REDIS_ADDR": "h:6379"}, "'REDIS_ADDR' is not used."),
        ({"redis_address": "h"}, "'redis_address' is not used."),
        (
            {"REDIS_CONNECTION_STRING": "h:6379,password=p"},
            "'REDIS_CONNECTION_STRING' is not used.",
        ),
        ({"REDIS_DSN": "tcp://h"}, "'REDIS_DSN' is not used."),
        ({"REDIS_ENDPOINT": "h"}, "'REDIS_ENDPOINT' is not used."),
        ({"REDISHOST": "h"}, "'REDISHOST' is not used."),
        ({"REDIS_SERVER": "h"}, "'REDIS_SERVER' is not used."),
        ({"REDISURL": "redis://h"}, "'REDISURL' is not used."),
        ({"REDIS_MAIN": "rediss+cluster://h"}, "'REDIS_MAIN' is not used."),
    ],
)
def test_address_that_is_lost(app: Flask, config: dict[str, t.Any], hint: str) -> None:
    """If settings show that another server than localhost is meant, one warning says
    which server is used, and why.
    """
    app.config.update(config)

    with pytest.warns(UserWarning) as log:
        client = Redis(app)

    assert [str(warning.message) for warning in log] == [
        "No setting says where 'REDIS' is, so localhost:6379 is used: set 'REDIS_URL'"
        f" or 'REDIS_HOST'. {hint}"
    ]
    assert log[0].filename == __file__
    assert kwargs_of(client)["host"] == "localhost"


def test_address_in_lower_case(app: Flask) -> None:
    """The warning names an address in lower case, once."""
    app.config["redis_url"] = "redis://h"
    hint = "localhost:6379 is used: .* 'redis_url' is .*id you mean 'REDIS_URL'"

    with pytest.warns(UserWarning, match=hint) as log:
        Redis(app)

    assert len(log) == 1


def test_other_misspellings_besides_a_lost_address(app: Flask) -> None:
    """Misspelt settings that are no address have their own warning."""
    app.config.update(REDIS_HOSTS="h", REDIS_PASWORD="x")

    with pytest.warns(UserWarning) as log:
        Redis(app)

    first, second = (str(warning.message) for warning in log)
    assert first == "'REDIS_PASWORD' is not used. Did you mean 'REDIS_PASSWORD'?"
    assert second.endswith("'REDIS_HOSTS' is not used. Did you mean 'REDIS_HOST'?")


def test_address_in_the_environment(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning says so if a variable with the address was not read."""
    monkeypatch.setenv("FLASK_CACHE_URL", "redis://h")
    app.config["CACHE_PORT"] = 6380
    hint = r"localhost:6380 is used: .* 'FLASK_CACHE_URL' is in the environment: call"

    with pytest.warns(UserWarning, match=hint) as log:
        Redis().init_app(app, "CACHE")

    assert log[0].filename == __file__
    # Code that names another server does not use localhost.
    Redis(Flask("other"), "CACHE", host="h")


def test_port_of_a_service(app: Flask) -> None:
    """Only the port of the address that Kubernetes sets is used."""
    app.config["REDIS_PORT"] = "tcp://10.0.0.1:6380"
    hint = "localhost:6380 is used: .* The host in 'REDIS_PORT' is not used"

    with pytest.warns(UserWarning, match=hint):
        Redis(app)


def test_redis_besides_another_default(app: Flask) -> None:
    """Redis() is not the default prefix of the manager. A warning says so, unless the
    prefix is another one or has an address.
    """
    app.config["MAIN_URL"] = "redis://h"
    RedisManager(app, default="MAIN")
    Redis(app, "CACHE")

    with pytest.warns(UserWarning, match="The default prefix of this app is 'MAIN'"):
        Redis(app)

    other = Flask("other")
    other.config.update(MAIN_URL="redis://h", REDIS_PASSWORD="x")
    RedisManager(other, default="MAIN")
    Redis(other, host="h")


@pytest.mark.parametrize(
    "config",
    [
        {"REDIS2_URL": "redis://h"},
        {"CACHE_URL": "redis://h", "FLASK_CACHE_URL": "redis://h"},
        {"REDIS_CACHE_URL": "redis://h"},
        {"REDIT_URL": "redis://h", "RADIUS_HOST": "h"},
        {"REDIS_SSL": "false", "REDIS_PASSWORD": ""},
        {"REIDS_URL": "", "redis_url": None},
        {"REDIS_CLIENT_NAME": "x", "REDIS_DB": 3},
        {"REDIS_SERVER": "", "REDIS_ADDRESS": ("h", 6379), "HOST": "h"},
        {"RATELIMIT_STORAGE_URI": "redis://h", "BROKER_URL": "redis://h"},
        {"REDISGRAPH_DSN": "redis://h", "REDIS_PROXY": "http://h"},
        {"REDIS_HOST": "/run/redis.sock", "REDIS_PASSWORD": "x"},
        {"REDIS_CONNECTION_POOL": redis.ConnectionPool(), "REDIS_URL": None},
    ],
)
def test_no_address_is_lost(app: Flask, config: dict[str, t.Any]) -> None:
    """Redis on localhost causes no warning without a reason."""
    app.config.update(config)
    Redis(app)


def test_port_without_host(app: Flask) -> None:
    """Missing parts of the address have default values."""
    app.config.update(REDIS_PORT="6380", REDIS_DB=1)
    kwargs = kwargs_of(Redis(app))
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("localhost", 6380, 1)


def test_init_app(app: Flask, server: Server) -> None:
    """Redis() with init_app works in the app's context, and only there."""
    app.config["CACHE_URL"] = server.url
    client = Redis()
    client.init_app(app, "CACHE")

    with app.app_context():
        assert client.ping()

    with pytest.raises(RuntimeError, match="There is no application context") as info:
        client.ping()

    # No second error, such as Flask's own, makes the traceback longer.
    assert info.value.__context__ is None


def test_prefix_of_the_constructor(app: Flask) -> None:
    """The prefix can be passed to the constructor and the app to init_app later."""
    app.config["CACHE_URL"] = "redis://h/4"
    client = Redis(config_prefix="CACHE")
    client.init_app(app)

    with app.app_context():
        assert kwargs_of(client)["db"] == 4


def test_options_need_an_app() -> None:
    """Options without an app raise an error, because they would be ignored."""
    with pytest.raises(TypeError, match="Pass them to 'init_app'"):
        Redis(decode_responses=True)


def test_several_apps() -> None:
    """One Redis can serve several apps, but only with the same prefix."""
    client = Redis()
    apps = [Flask("a"), Flask("b")]

    for db, app in enumerate(apps):
        app.config["X_URL"] = f"redis://h/{db}"
        client.init_app(app, "X")

    for db, app in enumerate(apps):
        with app.app_context():
            assert kwargs_of(client)["db"] == db

    with pytest.raises(ValueError, match="has the prefix 'X' already"):
        client.init_app(Flask("c"), "Y")


def test_current_app_first() -> None:
    """Inside a context, Redis(app) uses the current app instead of its own app."""
    mine, other = Flask("mine"), Flask("other")
    mine.config["REDIS_URL"] = "redis://h/1"
    other.config["REDIS_URL"] = "redis://h/2"
    client = Redis(mine)
    RedisManager(other)

    with other.app_context():
        assert kwargs_of(client)["db"] == 2

    assert kwargs_of(client)["db"] == 1


def test_keeps_its_app() -> None:
    """Redis(app) keeps the app alive."""

    def make() -> Redis:
        app = Flask("kept")
        app.config["REDIS_URL"] = "redis://h/3"
        return Redis(app)

    client = make()
    gc.collect()
    assert kwargs_of(client)["db"] == 3


@pytest.mark.parametrize("extension", [Redis, RedisManager])
def test_current_app(app: Flask, extension: type[Redis | RedisManager]) -> None:
    """An app can be passed as current_app, to the constructor or to init_app."""
    other = Flask("other")
    app.config["REDIS_URL"] = other.config["REDIS_URL"] = "redis://h/5"

    with app.app_context():
        client = extension(current_app)

    with other.app_context():
        extension().init_app(current_app)

    assert kwargs_of(app.extensions["redis"]["REDIS"])["db"] == 5
    assert "redis" in other.extensions

    if isinstance(client, Redis):
        # It uses this app, also after the context.
        assert kwargs_of(client)["db"] == 5


def test_twice(app: Flask) -> None:
    """A prefix can be registered only once."""
    Redis(app)
    Redis(app, "REDIS2")

    with pytest.raises(ValueError, match="'REDIS' is registered on this app already"):
        Redis(app)


@pytest.mark.parametrize("prefixes", [("REDIS", "REDIS_TEXT"), ("REDIS_TEXT", "REDIS")])
def test_prefix_that_begins_with_another(app: Flask, prefixes: tuple[str, ...]) -> None:
    """A setting belongs to the longest matching prefix, in whatever order the prefixes
    are registered. No warning suggests the shorter prefix.
    """
    app.config.update(
        REDIS_URL="redis://h",
        REDIS_TEXT_URL="redis://h",
        REDIS_TEXT_DECODE_RESPONSES="true",
    )
    kwargs = {prefix: kwargs_of(Redis(app, prefix)) for prefix in prefixes}
    assert kwargs["REDIS_TEXT"]["decode_responses"] is True
    assert kwargs["REDIS"]["decode_responses"] is False


def test_failed_registration(app: Flask) -> None:
    """A prefix with wrong settings can be registered after they are corrected."""
    app.config["REDIS_DB"] = "x"

    with pytest.raises(ConfigError):
        Redis(app)

    app.config["REDIS_DB"] = "1"
    assert kwargs_of(Redis(app))["db"] == 1


def test_joins_a_manager(app: Flask) -> None:
    """Redis shares a prefix that a manager found, but only once and without options."""
    app.config.update(REDIS_URL="redis://h", X_URL="redis://h", Y_HOST="a b")
    manager = RedisManager(app)
    client = Redis(app)
    assert client.connection is app.extensions["redis"]["REDIS"]

    with pytest.raises(ValueError, match="on this app already. Call"):
        Redis(app)

    with pytest.raises(ValueError, match="by a RedisManager. Pass the options to"):
        Redis(app, "X", db=1)

    with pytest.raises(ConfigError, match="'Y_HOST' must name a host"):
        Redis(app, "Y")

    assert Redis(app, "NEW").connection is app.extensions["redis"]["NEW"]

    with app.app_context():
        assert manager.get("NEW").connection is app.extensions["redis"]["NEW"]


def test_manager_joins_it(app: Flask) -> None:
    """A manager that is created later does not change registered prefixes."""
    app.config.update(REDIS_URL="redis://h", CACHE_URL="redis://h")
    client = Redis(app, decode_responses=True)
    RedisManager(app)
    assert list(app.extensions["redis"]) == ["REDIS", "CACHE"]
    assert kwargs_of(client)["decode_responses"] is True


@pytest.mark.parametrize(
    "arguments", [{}, {"prefixes": ["CACHE", "REDIS"]}, {"ignore": ["CACHE"]}]
)
def test_manager_with_options_joins_it(app: Flask, arguments: dict[str, t.Any]) -> None:
    """A manager whose options a registered prefix would not get is an error, as the
    options of a Redis are that joins a manager.
    """
    app.config.update(REDIS_URL="redis://h", CACHE_URL="redis://h")
    client = Redis(app)

    with pytest.raises(ValueError, match="'REDIS' is registered .* by a Redis that"):
        RedisManager(app, decode_responses=True, **arguments)

    assert list(app.extensions["redis"]) == ["REDIS"]
    assert kwargs_of(client)["decode_responses"] is False


@pytest.mark.parametrize("arguments", [{"prefixes": ["CACHE"]}, {"ignore": ["RE*"]}])
def test_manager_whose_options_are_for_others(
    app: Flask, arguments: dict[str, t.Any]
) -> None:
    """The options of a manager are for its own prefixes, and not for one that it
    leaves out.
    """
    app.config.update(REDIS_URL="redis://h", CACHE_URL="redis://h")
    Redis(app)
    RedisManager(app, decode_responses=True, **arguments)
    clients = app.extensions["redis"]
    assert kwargs_of(clients["REDIS"])["decode_responses"] is False
    assert kwargs_of(clients["CACHE"])["decode_responses"] is True


def test_manager_does_not_read_it_again(app: Flask) -> None:
    """A manager does not reread settings that an earlier Redis read with options."""
    app.config.update(CACHE_URL="redis://h/3", CACHE_SSL_CERT_REQS="none")
    client = Redis(app, "CACHE", ssl=True)
    RedisManager(app)
    assert client.connection is app.extensions["redis"]["CACHE"]
    assert kwargs_of(client)["ssl_cert_reqs"] == "none"


def test_current_redis_cannot_be_renamed(app: Flask) -> None:
    """current_redis always uses the default prefix. Its prefix cannot be changed."""
    with pytest.raises(ValueError, match="Create a second Redis"):
        current_redis.init_app(app, "X")


def test_wrong_prefix_registered_again(app: Flask) -> None:
    """A prefix that a manager skipped works after Redis registers it correctly."""
    app.config["X_HOST"] = "a b"
    manager = RedisManager(app)
    registry = app.extensions["redis"]
    assert "'X_HOST' must name a host" in registry.skipped["X"]
    app.config["X_HOST"] = "h"
    client = Redis(app, "X")
    assert registry.skipped == {}

    with app.app_context():
        assert manager.get("X").connection is client.connection


def test_unknown_to_the_current_app(app: Flask) -> None:
    """A command raises UnknownPrefixError if the current app lacks the prefix."""
    client = Redis(app, "CACHE")
    other = Flask("other")
    Redis(other)

    with other.app_context(), pytest.raises(UnknownPrefixError) as info:
        client.get("k")

    assert "'CACHE'" in str(info.value)
    assert info.value.__context__ is None


def test_held_by_flask_redis(app: Flask) -> None:
    """If another extension uses the same key in app.extensions, an error names that
    extension. It does not matter which one registered first.
    """

    class FlaskRedis:
        def __getattr__(self, name: str) -> t.Any:
            raise AttributeError(name)

    app.extensions["redis"] = FlaskRedis()
    message = r"belongs to another extension \(tests.test_redis.*FlaskRedis\)"

    for register in (Redis, RedisManager):
        with pytest.raises(RuntimeError, match=message):
            register(app)

    late = Flask("late")
    client = Redis(late)
    late.extensions["redis"] = FlaskRedis()

    with pytest.raises(RuntimeError, match=message):
        client.get("k")

    with late.app_context():
        assert RedisManager().get("X") is not None

        with pytest.raises(RuntimeError, match=message):
            current_redis.get("k")


@pytest.mark.parametrize("value", [objects.MyRedis, "tests.objects.MyRedis"])
def test_class(app: Flask, value: object) -> None:
    """REDIS_CLASS is a class or its dotted path."""
    app.config.update(REDIS_CLASS=value, REDIS_FOO="y")
    client = Redis(app)
    assert isinstance(client, objects.MyRedis)
    assert client.foo == "y"


def test_methods_of_the_class(app: Flask) -> None:
    """A proxy also has the methods that only the app's own client class has."""

    class Greeting(redis.Redis):
        def greet(self) -> str:
            return "hello"

    app.config["REDIS_CLASS"] = Greeting
    client: t.Any = Redis(app)
    assert client.greet() == "hello"
    assert "greet" in dir(client)

    with pytest.raises(AttributeError, match="nothing"):
        _ = client.nothing


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_socket_in_host(app: Flask, server: Server, form: str) -> None:
    """REDIS_HOST can be the path of a socket."""
    app.config["REDIS_HOST"] = form.format(server.socket)
    assert Redis(app).ping()

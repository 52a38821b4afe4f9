from __future__ import annotations

import contextlib
import inspect
import pickle
import pydoc
import threading
import typing as t
from unittest import mock

import click
import pytest
import redis
from flask import Flask
from flask import redirect
from flask import Response
from werkzeug.local import LocalProxy

from flask_and_redis import ConfigError
from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager
from flask_and_redis import UnknownPrefixError

from . import objects
from .servers import Server

NO_CONTEXT = "There is no application context"


@pytest.fixture
def manager(app: Flask, each_server: Server) -> RedisManager:
    """A manager for four databases of one server, each configured in another way."""
    app.config.update(
        REDIS_URL=f"{each_server.url}/0",
        REDIS2_URL=f"valkey://127.0.0.1:{each_server.port}/1",
        CACHE_HOST="127.0.0.1",
        CACHE_PORT=str(each_server.port),
        CACHE_DB="2",
        SOCKET_UNIX_SOCKET_PATH=str(each_server.socket),
        SOCKET_DB="3",
        DATABASE_URL="postgresql://localhost/x",
    )
    return RedisManager(app)


def test_requests(app: Flask, manager: RedisManager, each_server: Server) -> None:
    """Views can use each configured Redis. Other settings are not mistaken for one."""
    cache = manager.get("CACHE")

    @app.get("/")
    def read() -> dict[str, object]:
        return {
            "default": int(current_redis.incr("visits")),
            "second": manager.get("REDIS2").get("motd") is not None,
            "cache": cache.get("page") is not None,
        }

    @app.post("/")
    def write() -> t.Any:
        manager.get("REDIS2").set("motd", "hello")
        cache.set("page", "cached")
        return redirect("/")

    assert set(app.extensions["redis"]) == {"REDIS", "REDIS2", "CACHE", "SOCKET"}
    client = app.test_client()
    assert client.get("/").json == {"default": 1, "second": False, "cache": False}
    client.post("/")
    assert client.get("/").json == {"default": 2, "second": True, "cache": True}

    for db, key in enumerate([b"visits", b"motd", b"page"]):
        assert each_server.admin(db=db).keys() == [key]


@pytest.mark.parametrize("name", ["connection", "_redis_client"])
def test_client_is_not_set(app: Flask, manager: RedisManager, name: str) -> None:
    """Setting a mock as the proxy's client raises an error that suggests
    ``fakeredis://`` instead.
    """
    for proxy, prefix in ((current_redis, "REDIS"), (manager.get("CACHE"), "CACHE")):
        advice = f"set '{prefix}_URL' to 'fakeredis://'"

        with app.app_context(), pytest.raises(AttributeError, match=advice):
            setattr(proxy, name, object())


def increment(pipe: redis.client.Pipeline) -> None:
    pipe.multi()
    pipe.incr("a")


def test_what_a_client_does(app: Flask, manager: RedisManager) -> None:
    """A proxy works like its client, however the connection is configured."""
    for prefix in app.extensions["redis"]:
        with app.app_context():
            # Any: redis-py's type hints for pub/sub and scripts are incomplete.
            proxy: t.Any = manager.get(prefix)
            proxy["k"] = "v"
            assert proxy["k"] == b"v"
            assert "k" in proxy
            assert "other" not in proxy
            del proxy["k"]

            with proxy.pipeline() as pipe:
                assert pipe.set("a", 1).incr("a").execute() == [True, 2]

            assert proxy.transaction(increment, "a") == [3]
            assert proxy.register_script("return ARGV[1]")(args=["x"]) == b"x"

            with proxy.lock("lock", timeout=5) as lock:
                assert lock.owned()

            with proxy.pubsub(ignore_subscribe_messages=True) as pubsub:
                pubsub.subscribe("channel")
                assert pubsub.get_message(timeout=5) is None
                proxy.publish("channel", "news")
                message = pubsub.get_message(timeout=5)
                assert message is not None
                assert message["data"] == b"news"

            assert list(proxy.scan_iter()) == [b"a"]


def test_with_leaves_the_shared_pool_alone(
    app: Flask, manager: RedisManager, each_server: Server
) -> None:
    """Neither a with block nor close() closes connections that other
    threads may use.
    """
    with app.app_context():
        with current_redis as client:
            client.ping()
            before = client.client_id()

        assert current_redis.client_id() == before
        current_redis.close()
        assert current_redis.client_id() == before


def test_stands_for_the_client(app: Flask, manager: RedisManager) -> None:
    """A proxy behaves like its client in isinstance, dir, help and comparisons. It is
    also an instance of LocalProxy.
    """
    proxy = manager.get()

    with app.app_context():
        assert isinstance(proxy, redis.Redis)
        assert isinstance(proxy, LocalProxy)
        assert isinstance(proxy, Redis)
        assert proxy.__class__ is redis.Redis
        assert set(dir(proxy)) >= {*dir(redis.Redis), "connection_pool", "init_app"}
        assert pydoc.render_doc(proxy.set) == pydoc.render_doc(proxy.connection.set)
        assert proxy == proxy.connection
        assert hash(proxy) == hash(proxy.connection)
        assert proxy.connection is app.extensions["redis"]["REDIS"]
        proxy.own = 1  # type: ignore[attr-defined]
        assert vars(proxy.connection)["own"] == 1

    assert Redis.get.__doc__ == redis.Redis.get.__doc__
    assert str(Redis.__doc__).startswith("The Redis client of the current app")


def test_unbound() -> None:
    """Without an app, a proxy is true and an instance of redis.Redis, because libraries
    check this. A command raises an error that explains what to do.
    """
    for proxy, prefix in (
        (RedisManager().get("X"), "X"),
        (Redis(), "REDIS"),
        (current_redis, "REDIS"),
    ):
        assert proxy
        assert isinstance(proxy, redis.Redis)
        assert proxy.__class__ is redis.Redis
        assert "get" in dir(proxy)
        # doctest looks at each name of a module in this way.
        assert inspect.unwrap(t.cast(t.Any, proxy))

        with pytest.raises(RuntimeError, match=NO_CONTEXT):
            proxy.get("k")

        with pytest.raises(RuntimeError, match=NO_CONTEXT):
            proxy["k"]

        with pytest.raises(RuntimeError, match=NO_CONTEXT):
            proxy.connection.ping()

        # The pool must not be a proxy that is false: redis-py would use localhost.
        with pytest.raises(RuntimeError, match=NO_CONTEXT) as info:
            redis.Redis(connection_pool=proxy.connection_pool)

        assert f'app.extensions["redis"]["{prefix}"]' in str(info.value)

    assert repr(RedisManager().get("X")) == "<flask_and_redis.Redis 'X' unbound>"
    assert repr(current_redis) == "<flask_and_redis.Redis default unbound>"


def test_without_creating(app: Flask) -> None:
    """isinstance, bool and repr read only the settings. They do not create a client."""

    class Explosive(objects.MyRedis):
        def __init__(self, **kwargs: t.Any) -> None:
            raise AssertionError("A client was made.")

    app.config.update(REDIS_HOST="h", REDIS_CLASS=Explosive)
    RedisManager(app)

    with app.app_context():
        assert current_redis
        assert isinstance(current_redis, Explosive)
        assert repr(current_redis) == "<flask_and_redis.Redis default>"
        assert f"{current_redis}" == str(current_redis) == repr(current_redis)


def test_app_without_redis(app: Flask) -> None:
    """If the current app has no Redis, a command raises an error that says so."""
    with app.app_context():
        proxy = RedisManager().get("X")

        with pytest.raises(RuntimeError, match="'tests' has no Redis registered"):
            proxy.get("k")

        with pytest.raises(RuntimeError, match="'tests' has no Redis registered"):
            current_redis.get("k")

        assert isinstance(current_redis, redis.Redis)
        assert "unbound" in repr(current_redis)


def test_unknown_prefix(app: Flask) -> None:
    """If the current app does not have a prefix, an error lists the known prefixes. It
    is raised immediately inside a context, otherwise at first use.
    """
    app.config.update(
        REDIS_URL="redis://h", X_HOST=1, SESSION_STORE_URL="memory://", DB_HOST="h"
    )
    manager = RedisManager(app)
    early = manager.get("CACHE")

    with app.app_context():
        with pytest.raises(UnknownPrefixError) as info:
            manager.get("CACHE")

        with pytest.raises(UnknownPrefixError):
            early.get("k")

        assert isinstance(early, redis.Redis)

        for prefix, reason in {
            "X": "'X' was skipped: 'X_HOST' is not text.",
            "SESSIONS_STORE": "'SESSION_STORE_URL' does not begin with redis://",
            "DB": "'DB_HOST' usually belongs to something else",
            "redis": "'redis'; it has: 'REDIS'. The prefix 'redis' must be in upper",
            "REDIS_": "The prefix 'REDIS_' must be in upper case, like all settings of"
            " Flask, and must not end with '_'.",
            "X" * 201: "must have at most 200 letters.",
            "REDIS_URL": "it has: 'REDIS'. 'REDIS_URL' is a setting of 'REDIS'.",
        }.items():
            with pytest.raises(UnknownPrefixError) as near:
                manager.get(prefix)

            assert reason in str(near.value)

    assert isinstance(info.value, KeyError)
    assert isinstance(info.value, RuntimeError)
    assert str(info.value) == (
        "This app has no Redis with the prefix 'CACHE'; it has: 'REDIS'. Set"
        " 'CACHE_URL' or 'CACHE_HOST' before init_app."
    )


@pytest.mark.parametrize("prefix", [5, 0.5, b"REDIS"])
def test_unknown_prefix_that_is_no_text(app: Flask, prefix: t.Any) -> None:
    """The error of a prefix that is no text says so."""
    app.config["REDIS_URL"] = "redis://h"
    manager = RedisManager(app)
    kind = type(prefix).__name__
    message = f"The prefix must be text, such as 'REDIS'. It is of type {kind}."

    with app.app_context():
        for use in (manager.get, manager.ping, manager.get_async):
            with pytest.raises(UnknownPrefixError) as info:
                use(prefix)

            assert str(info.value).endswith(f"it has: 'REDIS'. {message}")


def test_unread_variable_of_an_unknown_prefix(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the environment configures the prefix, the error says so."""
    monkeypatch.setenv("FLASK_CACHE_URL", "redis://h")
    app.config["REDIS_URL"] = "redis://h"
    manager = RedisManager(app)

    with app.app_context():
        with pytest.raises(UnknownPrefixError, match="'FLASK_CACHE_URL' is in the env"):
            manager.get("CACHE")


def test_wrong_prefix_while_unused(app: Flask) -> None:
    """A proxy whose settings are wrong still supports bool, isinstance, dir and repr.
    Only a command raises the error.
    """
    app.config["X_HOST"] = "a b"
    manager = RedisManager()
    manager.init_app(app)

    with app.app_context():
        proxy = manager.get("X")
        assert proxy
        assert isinstance(proxy, redis.Redis)
        assert "get" in dir(proxy)
        assert repr(proxy) == "<flask_and_redis.Redis 'X' unbound>"

        with pytest.raises(ConfigError, match="'X_HOST' must name a host"):
            proxy.get("k")


def test_same_object() -> None:
    """A manager always returns the same proxy for a prefix."""
    manager = RedisManager(default="CACHE")
    assert manager.get("X") is manager.get("X")
    assert manager.get("X") is not manager.get("Y")
    assert manager.get() is manager.get("CACHE")


def test_default(app: Flask) -> None:
    """current_redis uses the manager's default prefix."""
    app.config.update(REDIS_URL="redis://h/1", CACHE_URL="redis://h/2")
    RedisManager(app, default="CACHE")

    with app.app_context():
        assert current_redis.connection is app.extensions["redis"]["CACHE"]


def test_nested_contexts() -> None:
    """A proxy uses the app of the innermost context. When that context ends, it uses
    the outer app again.
    """
    manager = RedisManager()
    apps = [Flask("outer"), Flask("inner")]

    for db, app in enumerate(apps):
        app.config["REDIS_URL"] = f"redis://h/{db}"
        manager.init_app(app)

    def db_of(proxy: redis.Redis) -> t.Any:
        return proxy.connection_pool.connection_kwargs["db"]

    with apps[0].app_context():
        assert (db_of(current_redis), db_of(manager.get())) == (0, 0)

        with apps[1].test_request_context():
            assert (db_of(current_redis), db_of(manager.get())) == (1, 1)

        assert (db_of(current_redis), db_of(manager.get())) == (0, 0)


def test_threads(app: Flask, manager: RedisManager) -> None:
    """A thread can use Redis if it pushes a context or is given the real client."""
    results: dict[str, object] = {}

    def with_context() -> None:
        with app.app_context():
            results["context"] = current_redis.get("k")

    def with_client(client: redis.Redis) -> None:
        results["client"] = client.get("k")

    def without() -> None:
        try:
            current_redis.get("k")
        except RuntimeError as error:
            results["without"] = str(error)

    with app.app_context():
        current_redis.set("k", "v")
        threads = [
            threading.Thread(target=with_context),
            threading.Thread(target=with_client, args=[current_redis.connection]),
            threading.Thread(target=without),
        ]

        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

    assert results["context"] == results["client"] == b"v"
    assert NO_CONTEXT in str(results["without"])


def test_cli_and_shell(app: Flask, manager: RedisManager) -> None:
    """Commands and the shell run in an application context."""

    @app.cli.command("count")
    def count() -> None:
        print(f"visits: {current_redis.incr('visits')}")

    assert app.test_cli_runner().invoke(args=["count"]).output == "visits: 1\n"

    with app.app_context():
        namespace = app.make_shell_context()
        exec("from flask_and_redis import current_redis as r; n = r.incr('visits')")
        assert namespace["app"] is app
        assert namespace["current_redis"] is current_redis
        assert namespace["redis_manager"] is manager
        assert current_redis.get("visits") == b"2"


@pytest.mark.filterwarnings("ignore:No setting configures a Redis")
def test_commands_of_one_app(manager: RedisManager) -> None:
    """Each app has its own command group: what one app adds is not in another. Ours
    are listed.
    """
    apps = [Flask("one"), Flask("other")]

    for app in apps:
        manager.init_app(app)

    group = t.cast(click.Group, apps[0].cli.commands["redis"])

    @group.command("warm")
    def warm() -> None:
        click.echo("warm")

    @group.command("list")
    def own_list() -> None:
        click.echo("own")

    outputs = [
        [app.test_cli_runner().invoke(args=["redis", name]).output for app in apps]
        for name in ("--help", "warm", "list")
    ]
    assert all("  ping " in output for output in outputs[0])
    assert outputs[1][0] == "warm\n"
    assert "No such command 'warm'" in outputs[1][1]
    assert outputs[2][0] == "own\n"
    assert outputs[2][1].startswith("This app has no Redis")


def test_streamed_response(app: Flask, manager: RedisManager) -> None:
    """A generator that keeps the request's context can still use Redis."""
    from flask import stream_with_context

    @app.get("/")
    def stream() -> Response:
        def lines() -> t.Iterator[str]:
            for _ in range(3):
                yield f"{current_redis.incr('n')}\n"

        return Response(stream_with_context(lines()))

    assert app.test_client().get("/").text == "1\n2\n3\n"


def test_unknown_prefix_of_an_app_without_any(app: Flask) -> None:
    """If an app has no Redis settings, it has no prefix at all."""
    with pytest.warns(UserWarning, match="No setting configures a Redis"):
        manager = RedisManager(app)

    with app.app_context():
        with pytest.raises(UnknownPrefixError, match="it has: none"):
            manager.get("X")

        with pytest.raises(UnknownPrefixError, match="'REDIS'; it has: none"):
            current_redis.get("k")


# What mock.patch replaces.
patched = RedisManager().get("CACHE")
patched_default = current_redis


@pytest.mark.parametrize("name", ["patched", "patched_default"])
def test_mock_patch(app: Flask, name: str) -> None:
    """mock.patch replaces a proxy by a plain mock, with and without a context, and does
    not create the client.
    """
    app.config.update(REDIS_URL="redis+cluster://127.0.0.1:1", CACHE_URL="redis://h")
    RedisManager(app)

    for context in (contextlib.nullcontext(), app.app_context()):
        with context, mock.patch(f"{__name__}.{name}") as replaced:
            assert not isinstance(replaced, mock.AsyncMock)
            assert not isinstance(replaced.get, mock.AsyncMock)

    assert not app.extensions["redis"].clients


def test_mock_patch_of_a_command(app: Flask) -> None:
    """mock.patch replaces one command of the current app's client."""
    app.config["CACHE_URL"] = "fakeredis://"
    RedisManager(app)

    with app.app_context():
        with mock.patch(f"{__name__}.patched.get", return_value=b"mocked") as replaced:
            assert not isinstance(replaced, mock.AsyncMock)
            assert patched.get("k") == b"mocked"

        assert patched.get("k") is None


@pytest.mark.parametrize("autospec", [False, True])
def test_mock_of_the_library(autospec: bool) -> None:
    """If a test replaces redis.Redis around init_app, the error says what to do."""
    with mock.patch("redis.Redis", autospec=autospec):
        for register in (RedisManager, Redis):
            with pytest.raises(RuntimeError, match="fakeredis://.*override"):
                register(Flask("other"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(app: Flask, manager: RedisManager, protocol: int) -> None:
    """A proxy is pickled as its prefix. It finds the client where it is used."""
    current_redis_again = pickle.loads(pickle.dumps(current_redis, protocol))
    assert current_redis_again is current_redis
    cache = pickle.loads(pickle.dumps(manager.get("CACHE"), protocol))
    assert type(cache) is Redis
    assert repr(cache) == "<flask_and_redis.Redis 'CACHE' unbound>"

    with app.app_context():
        assert cache.connection is manager.get("CACHE").connection
        assert pickle.loads(pickle.dumps(cache, protocol)).ping()


def test_private_attributes(app: Flask) -> None:
    """An unbound proxy has no special attributes but its own. Private ones of the
    client can be used in a context.
    """
    app.config["REDIS_URL"] = "fakeredis://"
    RedisManager(app)
    assert not hasattr(current_redis, "__func__")

    with pytest.raises(RuntimeError, match=NO_CONTEXT):
        assert current_redis._anything  # type: ignore[attr-defined]

    with app.app_context():
        assert current_redis._event_dispatcher
        # RQ keeps the server's version so.
        client: t.Any = current_redis
        client.__own = 1
        assert client.__own == 1
        assert app.extensions["redis"]["REDIS"].__own == 1

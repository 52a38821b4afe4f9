"""The permissions that the security page lists are enough, and each is necessary."""

from __future__ import annotations

import asyncio
import collections.abc as cabc
import contextlib
import re
import typing as t

import pytest
import redis
from flask import current_app
from flask import Flask
from redis.sentinel import MasterNotFoundError

from flask_and_redis import RedisManager

from .pages import DOCS
from .pages import literals
from .pages import table
from .servers import Cluster
from .servers import Sentinels
from .servers import Server

pytestmark = pytest.mark.once

PAGE = (DOCS / "security.rst").read_text()
RULES = {
    row["to use"]: " ".join(literals(row["permit"])).split()
    for row in table("permissions")
}

#: What is raised if a permission is missing: by a command, a cluster or a check below.
REFUSED = (redis.RedisError, redis.exceptions.RedisClusterException, AssertionError)


def ping(manager: RedisManager) -> None:
    result = manager.ping(timeout=20)["REDIS"]
    assert result.ok, result.error


def show_info(manager: RedisManager) -> None:
    result = current_app.test_cli_runner().invoke(args=["redis", "info"])
    assert result.exit_code == 0, result.output


def select(manager: RedisManager) -> None:
    assert current_app.extensions["redis"]["OTHER"].ping()


def run_pipeline(manager: RedisManager) -> None:
    with manager.get().pipeline() as pipe:
        pipe.ping()
        assert pipe.execute() == [True]


def watch(manager: RedisManager) -> None:
    client: t.Any = manager.get()

    with client.pipeline() as pipe:
        pipe.watch("shop:k")

    client.transaction(lambda pipe: pipe.ping(), "shop:k")


def lock(manager: RedisManager) -> None:
    with manager.get().lock("shop:lock", timeout=60):
        pass


def extend(manager: RedisManager) -> None:
    with manager.get().lock("shop:lock", timeout=60) as held:
        assert held.extend(60)


def run_script(manager: RedisManager) -> None:
    assert manager.get().register_script("return 1")() == 1


def publish(manager: RedisManager) -> None:
    assert manager.get().publish("shop:news", "Hello") == 0


def listen(manager: RedisManager, channel: str, *methods: str) -> None:
    client: t.Any = manager.get()

    with client.pubsub() as pubsub:
        for method in methods:
            getattr(pubsub, method)(channel)
            message = pubsub.get_message(timeout=20)
            assert message is not None and message["type"] == method


def subscribe(manager: RedisManager) -> None:
    listen(manager, "shop:news", "subscribe", "unsubscribe")


def subscribe_to_pattern(manager: RedisManager) -> None:
    listen(manager, "shop:*", "psubscribe", "punsubscribe")


def use_stream(manager: RedisManager) -> None:
    client: t.Any = manager.get()
    client.xgroup_create("shop:orders", "shop", id="0", mkstream=True)
    client.xadd("shop:orders", {"product": "tea"})
    client.xreadgroup("shop", "first", {"shop:orders": ">"})
    _, ((id, _),), *_ = client.xautoclaim("shop:orders", "shop", "second", 0)
    assert client.xack("shop:orders", "shop", id) == 1


def read(manager: RedisManager) -> None:
    # Several times, so that a cluster also asks a replica.
    assert [manager.get().get("shop:k") for _ in range(4)] == [None] * 4


Use = cabc.Callable[[RedisManager], object]

#: What each row of the table permits, and what else this test needs.
ON_SERVER: dict[str, tuple[Use, str]] = {
    "``manager.ping()``": (ping, ""),
    "``flask redis info``": (show_info, ""),
    "a database other than 0": (select, "+ping"),
    "``pipeline()``": (run_pipeline, "+ping"),
    "``watch()`` and ``transaction()``": (watch, "+ping"),
    "``lock()``": (lock, ""),
    "``lock.extend()``": (extend, "+set +get +del +evalsha +script|load"),
    "``register_script()``": (run_script, ""),
    "``publish()``": (publish, ""),
    "``subscribe()``": (subscribe, ""),
    "``psubscribe()``": (subscribe_to_pattern, ""),
    "the stream of :doc:`recipes`": (use_stream, ""),
}
ON_CLUSTER: dict[str, tuple[Use, str]] = {
    "any command of a cluster": (read, "+get"),
    "``manager.ping()`` of a cluster": (ping, ""),
    "``flask redis info`` of a cluster": (show_info, ""),
    "replicas of a cluster": (read, "+get +command +cluster|slots"),
}
ON_SENTINEL: dict[str, tuple[Use, str]] = {
    "Sentinel, for the user of the sentinels": (read, ""),
}


def test_all_rows_are_tested() -> None:
    """A test below uses what each row of the table permits."""
    assert set(RULES) == {*ON_SERVER, *ON_CLUSTER, *ON_SENTINEL}


@contextlib.contextmanager
def user(nodes: cabc.Sequence[Server], name: str, *rules: str) -> cabc.Iterator[None]:
    """A user with some permissions, on each node. Scripts are forgotten before."""
    try:
        for node in nodes:
            with node.admin() as admin:
                # Before Redis 7, a new user may use all channels.
                setuser = ("ACL SETUSER", name, "on", ">s3cret", "resetchannels")
                admin.execute_command(*setuser, *rules)
                admin.execute_command("SCRIPT FLUSH")

        yield
    finally:
        for node in nodes:
            with node.admin() as admin:
                admin.acl_deluser(name)


def use(function: Use, url: str, **settings: str) -> None:
    """Use Redis as the user, in a new app."""
    app = Flask("shop")
    app.config.update(REDIS_URL=url, REDIS_RETRY_DEADLINE=1, **settings)
    manager = RedisManager(app)

    with app.app_context():
        function(manager)
        manager.close()


def variants(rules: cabc.Sequence[str]) -> cabc.Iterator[tuple[bool, list[str]]]:
    """All rules, which are enough, and all of them but one, which are not."""
    yield True, list(rules)

    for missing in rules:
        yield False, [rule for rule in rules if rule != missing]


@pytest.mark.parametrize("feature", ON_SERVER)
def test_server(each_server: Server, feature: str) -> None:
    """A user of a server needs all permissions of a row, and no others."""
    function, others = ON_SERVER[feature]
    url = f"redis://shop:s3cret@{each_server.address}"

    for are_enough, rules in variants(RULES[feature]):
        each_server.clear()

        with user([each_server], "shop", "~shop:*", *others.split(), *rules):
            other = {"OTHER_URL": f"{url}/1"} if function is select else {}

            if are_enough:
                use(function, url, **other)
            else:
                with pytest.raises(REFUSED):
                    use(function, url, **other)


@pytest.mark.parametrize("feature", ON_CLUSTER)
def test_cluster(cluster: Cluster, feature: str) -> None:
    """The same for a cluster, whose nodes all have the user."""
    function, others = ON_CLUSTER[feature]
    url = f"redis+cluster://shop:s3cret@{cluster.address}"
    settings = {}

    if feature == "replicas of a cluster":
        settings["REDIS_LOAD_BALANCING_STRATEGY"] = "round_robin"

    for are_enough, rules in variants(RULES[feature]):
        with user(cluster.nodes, "shop", "~shop:*", *others.split(), *rules):
            if are_enough:
                use(function, url, **settings)
            else:
                with pytest.raises(REFUSED):
                    use(function, url, **settings)


@contextlib.contextmanager
def watcher(sentinels: Sentinels, *rules: str) -> cabc.Iterator[None]:
    """A user of the sentinels."""
    with contextlib.ExitStack() as stack:
        for sentinel in sentinels.sentinels:
            admin = stack.enter_context(sentinel.admin())
            admin.execute_command("ACL SETUSER", "watcher", "on", ">s3cret", *rules)
            stack.callback(admin.acl_deluser, "watcher")

        yield


WATCHER = {"REDIS_SENTINEL_USERNAME": "watcher", "REDIS_SENTINEL_PASSWORD": "s3cret"}


@pytest.mark.parametrize("feature", ON_SENTINEL)
def test_sentinels(shared_sentinels: Sentinels, feature: str) -> None:
    """The same for the users of the sentinels."""
    function, _ = ON_SENTINEL[feature]
    url = f"redis+sentinel://{shared_sentinels.address}/{shared_sentinels.SERVICE}"

    for are_enough, rules in variants(RULES[feature]):
        with watcher(shared_sentinels, *rules):
            if are_enough:
                use(function, url, **WATCHER)
            else:
                with pytest.raises(REFUSED):
                    use(function, url, **WATCHER)


@pytest.mark.parametrize("rule", ["", "+sentinel|slaves"])
def test_replicas_of_sentinels(shared_sentinels: Sentinels, rule: str) -> None:
    """With the rule of the page, a replica is used. Without it, commands fail. They do
    not use the master instead.
    """
    assert "``+sentinel|slaves``" in PAGE
    service = f"{shared_sentinels.SERVICE}?role=replica"
    url = f"redis+sentinel://{shared_sentinels.address}/{service}"

    def check(manager: RedisManager) -> None:
        role, *_ = t.cast(t.Any, manager.get()).role()
        assert role == b"slave"

    def check_async(manager: RedisManager) -> None:
        async def ask() -> None:
            async with manager.get_async() as client:
                await t.cast(t.Any, client).role()

        asyncio.run(ask())

    with watcher(shared_sentinels, "+sentinel|masters", *rule.split()):
        if rule:
            use(check, url, **WATCHER)
            return

        for function in (check, check_async):
            with pytest.raises(MasterNotFoundError, match="no permissions") as caught:
                use(function, url, **WATCHER)

            cause = caught.value.__cause__
            assert isinstance(cause, redis.exceptions.NoPermissionError)


def test_examples(each_server: Server) -> None:
    """The page's users: one with few commands, and one who may use each feature that a
    single server has. The server tells what they may not do.
    """
    few, many = re.findall(r"^    ACL SETUSER shop on >s3cret (.*)$", PAGE, re.M)
    url = f"redis://shop:s3cret@{each_server.address}"

    with user([each_server], "shop", *many.split()):
        for function, _ in ON_SERVER.values():
            each_server.clear()
            other = {"OTHER_URL": f"{url}/1"} if function is select else {}
            use(function, url, **other)

        with pytest.raises(redis.exceptions.NoPermissionError):
            use(lambda manager: manager.get().flushall(), url)

    with user([each_server], "shop", *few.split()), each_server.admin() as untyped:
        admin: t.Any = untyped
        use(lambda manager: manager.get().incr("shop:visits"), url)

        major = int(admin.info("server")["redis_version"].partition(".")[0])
        lines = re.findall(r"^    (ACL (?:DRYRUN|LOG) .*)$", PAGE, re.M)
        assert len(lines) == 2

        for line in lines:
            if "DRYRUN" in line and major < 7:
                continue

            admin.acl_log_reset()

            with pytest.raises(redis.exceptions.NoPermissionError):
                use(lambda manager: manager.get().delete("shop:visits"), url)

            reply = admin.execute_command(*line.split())
            assert "del" in str(reply)

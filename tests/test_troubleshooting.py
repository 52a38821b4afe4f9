"""The messages on the troubleshooting page are those that errors really have."""

from __future__ import annotations

import collections.abc as cabc
import logging
import re
import sys
import typing as t
from pathlib import Path
from unittest import mock

import pytest
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import Redis
from flask_and_redis import RedisManager

from .conftest import Starter
from .pages import DOCS
from .scripted import OK
from .scripted import Scripted
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .test_wrong_servers import misled_sentinel

pytestmark = pytest.mark.once

PAGE = (DOCS / "troubleshooting.rst").read_text()


def quoted(heading: str) -> set[str]:
    """The messages in a section of the page."""
    _, _, rest = PAGE.partition(f"\n{heading}\n---")
    section, _, _ = rest.partition("\n---")
    terms = re.findall(r"^``(.*)``\n    ", section, re.M)
    assert terms
    return set(terms)


def assert_quoted(heading: str, messages: cabc.Iterable[str]) -> None:
    """Each message is on the page, and each one on the page is a message."""
    texts = quoted(heading)
    messages = list(messages)
    unquoted = [each for each in messages if not any(matches(x, each) for x in texts)]
    unknown = [x for x in texts if not any(matches(x, each) for each in messages)]
    assert (unquoted, unknown) == ([], [])


def matches(text: str, message: str) -> bool:
    pattern = ".*".join(map(re.escape, text.split("...")))
    return bool(re.fullmatch(pattern, message, re.DOTALL))


def make(config: dict[str, t.Any], **options: t.Any) -> Flask:
    app = Flask("shop")
    app.config.update(config)
    RedisManager(app, **options)
    return app


def message_of(function: cabc.Callable[..., t.Any], *args: t.Any, **kw: t.Any) -> str:
    """The message of the error that a call raises."""
    with pytest.raises(Exception) as info:
        function(*args, **kw)

    return str(info.value)


URL = "redis://localhost"

WRONG: list[dict[str, t.Any]] = [
    {"REDIS_URL": "localhost:6379"},
    {"REDIS_URL": "redis://:pass/word@localhost"},
    {"REDIS_URL": "redis://localhost/cache"},
    {"REDIS_URL": "${REDIS_URL}"},
    {"REDIS_URL": f'"{URL}"'},
    {"REDIS_URL": URL, "REDIS_SSL_CA_CERTS": "/etc/hosts"},
    {"REDIS_URL": "rediss://localhost", "REDIS_SSL_CA_CERTS": "/does/not/exist"},
    {"REDIS_URL": "rediss://localhost", "REDIS_SSL_CA_CERTS": __file__},
    {"REDIS_URL": URL, "REDIS_PASSWORD": 1.5},
    {"REDIS_URL": URL, "REDIS_PASSWORD": "a", "REDIS_PASSWORD_FILE": __file__},
    {"REDIS_URL": URL, "REDIS_SOCKET_TIMEOUT": "5s"},
]

DOUBTFUL: list[dict[str, t.Any]] = [
    {},
    {"REDIS_URL": URL, "REDIS_HOST": "other"},
    {"REDIS_URL": f"{URL}?socket_timeout=2", "REDIS_SOCKET_TIMEOUT": 3},
    {"REDIS_URL": "redis://secret@localhost"},
    {"REDIS_URL": URL, "REDIS_PASSWORD": "secret\n"},
    {"REDIS_URL": URL, "REDIS_PASWORD": "secret"},
]


def test_start_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, warnings and the log at start-up."""
    messages = [message_of(make, config) for config in WRONG]
    simple = {"REDIS_URL": URL}

    for option in ("ssl_cert_reqs", "socket_timout"):
        messages.append(message_of(make, simple, **{option: None}))

    other = Flask("shop")
    other.extensions["redis"] = object()
    board = Flask("board")
    Redis(board)
    messages += [
        message_of(RedisManager, make(simple)),
        message_of(RedisManager, other),
        message_of(Redis, board),
    ]

    with mock.patch("redis.Redis"):
        messages.append(message_of(make, simple))

    monkeypatch.setenv("REDIS_URL", URL)

    for config in DOUBTFUL:
        with pytest.warns(UserWarning) as caught:
            make(config)

        messages += [str(warning.message) for warning in caught]

    with pytest.warns(UserWarning) as caught:
        Redis(Flask("shop"))

    messages += [str(warning.message) for warning in caught]

    manager = RedisManager(default="MAIN")
    manager.get("CACHE")
    app = Flask("shop")
    app.config["REDIS_URL"] = URL

    with pytest.warns(UserWarning) as caught:
        manager.init_app(app)

    messages += [str(warning.message) for warning in caught]

    with caplog.at_level(logging.WARNING):
        make({"REDIS_URL": URL, "CACHE_HOST": "localhost", "CACHE_DB": "pages"})

    assert_quoted("Messages at start-up", [*messages, *caplog.messages])


def test_use() -> None:
    """Errors when a prefix is used."""
    cache = RedisManager().get("CACHE")
    messages = [message_of(lambda: cache.get("k"))]

    with Flask("shop").app_context():
        messages.append(message_of(lambda: cache.get("k")))

    app = make({"REDIS_URL": URL})

    with app.app_context():
        messages.append(message_of(lambda: cache.get("k")))
        messages.append(message_of(setattr, current_redis, "_redis_client", 1))
        app.config["REDIS_URL"] = "redis://other"

        with pytest.warns(UserWarning) as caught:
            assert current_redis.connection

    messages += [str(warning.message) for warning in caught]
    assert_quoted("Messages when a prefix is used", messages)


def fails(
    command: cabc.Callable[[], t.Any] = lambda: current_redis.get("k"),
    *,
    times: int = 1,
    **settings: t.Any,
) -> BaseException:
    """The error of a command in an app with these settings."""
    config = {f"REDIS_{name}": value for name, value in settings.items()}
    config.setdefault("REDIS_RETRY_DEADLINE", 0)

    with make(config).app_context():
        for _ in range(times):
            with pytest.raises(Exception) as info:
                command()

    return info.value


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no notes.")
def test_connection_errors(
    server: Server,
    tls_server: Server,
    start: Starter,
    cluster: Cluster,
    shared_sentinels: Sentinels,
    scripted: Scripted,
) -> None:
    """Errors of commands."""
    scripted.plan(b"GET", b"HTTP/1.1 400 Bad Request\r\n")
    others = [
        fails(URL=scripted.url),
        fails(URL=f"redis://{shared_sentinels.sentinels[0].address}"),
    ]
    own = start(Server, password="secret")
    down = fails(URL="redis://127.0.0.1:1", times=2)
    node = f"redis://{cluster.address.partition(',')[0]}"
    moved = fails(lambda: [current_redis.get(key) for key in "abcd"], URL=node)

    def use_two_connections() -> None:
        pool = current_redis.connection_pool
        connection = pool.get_connection()

        try:
            current_redis.get("k")
        finally:
            pool.release(connection)

    def run_transaction() -> None:
        pipe: t.Any = current_redis.pipeline()
        pipe.get("k").execute()

    def shut_down() -> None:
        client: t.Any = current_redis
        client.execute_command("SHUTDOWN", "NOSAVE")

    def read_pickle() -> None:
        current_redis.set("k", b"\xff")
        current_redis.get("k")

    with own.admin() as admin:
        rules = ["+@read", "+exec"]
        admin.acl_setuser("bob", enabled=True, passwords=["+x"], commands=rules)
        bob = f"redis://bob:x@{own.address}"
        errors = [
            down,
            fails(URL="redis://nowhere.invalid"),
            fails(URL=f"rediss://{server.address}", SOCKET_CONNECT_TIMEOUT=0.2),
            fails(URL=f"redis://{tls_server.address}"),
            fails(URL=f"rediss://{tls_server.address}"),
            fails(URL=own.url),
            fails(URL=own.url, PROTOCOL=2),
            fails(URL=f"redis://:wrong@{own.address}"),
            fails(lambda: current_redis.flushdb(), URL=bob),
            fails(run_transaction, URL=bob),
            fails(
                use_two_connections,
                URL=server.url,
                MAX_CONNECTIONS=1,
                RETRY_DEADLINE=0.1,
            ),
            fails(read_pickle, URL=server.url, DECODE_RESPONSES=True),
            fails(URL="redis+sentinel://127.0.0.1:1/mymaster"),
            fails(URL=f"redis+sentinel://{server.address}/mymaster"),
            fails(URL=f"{server.url}/99"),
            fails(URL="redis+cluster://127.0.0.1:1"),
            fails(URL=f"{node}/1"),
            fails(
                lambda: current_redis.mget(["a", "b"]),
                URL=f"redis+cluster://{cluster.address}",
            ),
        ]
        url = f"redis://:secret@{own.address}"
        admin.config_set("maxmemory", 1)
        errors.append(fails(lambda: current_redis.set("k", "v"), URL=url))
        admin.config_set("maxmemory", 0)
        admin.replicaof("127.0.0.1", "1")
        errors.append(fails(lambda: current_redis.set("k", "v"), URL=url))
        admin.config_set("maxclients", 1)
        errors.append(fails(URL=url))
        own.pause()
        errors.append(fails(URL=own.url, SOCKET_TIMEOUT=0.2))
        own.resume()

    errors.append(fails(shut_down, URL=start(Server).url))
    notes = [
        note
        for error in (down, moved, *others)
        for note in getattr(error, "__notes__", [])
    ]
    assert_quoted("Connection errors", [*map(str, errors), *notes])


def test_null_password(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask reads null in the environment as None, so there is no password. In double
    quotes, it is the password.
    """
    server = start(Server, password="null")
    monkeypatch.setenv("FLASK_REDIS_URL", server.url)
    messages = []

    for value in ("null", '"null"'):
        monkeypatch.setenv("FLASK_REDIS_PASSWORD", value)
        app = Flask("shop")
        app.config.from_prefixed_env()
        manager = RedisManager(app)

        with app.app_context():
            messages.append(manager.ping(timeout=20)["REDIS"].error)

    assert messages == [
        "The server asks for a password: set 'REDIS_PASSWORD'.",
        None,
    ]


#: Timeouts of pings, in seconds.
PATIENT = (2, 5, 20)


def ping(url: str, *timeouts: float, **settings: t.Any) -> str:
    """What a ping says. A slow machine gets longer timeouts, if there are any."""
    manager = RedisManager()
    app = Flask("shop")
    app.config.update({"REDIS_URL": url, **settings})
    manager.init_app(app)
    text = ""

    with app.app_context():
        for timeout in timeouts:
            text = str(manager.ping(timeout=timeout)["REDIS"].error)

            if not text.startswith("No answer"):
                break

    return text


def test_ping(
    start: Starter,
    server: Server,
    tls_server: Server,
    certificates: Certificates,
    scripted: Scripted,
    shared_sentinels: Sentinels,
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    """What a ping says of a server that does not answer."""
    own = start(Server, password="secret")
    other = {"REDIS_SSL_CA_CERTS": str(certificates.other_ca)}
    messages = [
        ping(f"rediss://{server.address}", *PATIENT),
        ping(f"rediss://{tls_server.address}", *PATIENT, **other),
        ping(f"redis://{tls_server.address}", *PATIENT),
        ping(own.url, *PATIENT),
        ping(f"redis://:wrong@{own.address}", *PATIENT),
    ]
    scripted.plan(b"PING", OK)
    messages += [
        ping(f"redis://{shared_sentinels.sentinels[0].address}", *PATIENT),
        ping(f"redis://{cluster.nodes[0].address}", *PATIENT),
        ping(scripted.url, *PATIENT),
    ]

    with misled_sentinel(shared_sentinels, tmp_path) as misled:
        messages.append(ping(f"redis+sentinel://{misled.address}/mymaster", *PATIENT))

    own.pause()
    messages.append(ping(own.url, 0.2))
    own.resume()
    output = Flask("shop").test_cli_runner().invoke(args=["redis", "ping"]).output
    messages.append(output.partition("Error: ")[2].strip())
    assert_quoted("Messages of flask redis ping", messages)

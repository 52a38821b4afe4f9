"""What a ping reports about a server that is not healthy, and what it leaves behind."""

from __future__ import annotations

import contextlib
import gc
import socket
import socketserver
import threading
import typing as t
from pathlib import Path
from unittest import mock

import pytest
import redis
from ephemeral_port_reserve import reserve
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from flask_and_redis import RedisManager

from .conftest import Starter
from .cutter import Cutter
from .servers import Certificates
from .servers import Cluster
from .servers import Sentinels
from .servers import Server
from .servers import wait_until
from .test_health import make_manager
from .test_health import ping_one
from .test_health import silent_server
from .test_health import Untold

pytestmark = pytest.mark.slow


class Dripping:
    """A server that sends one byte every 20 ms to each connection, without end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self.connections: list[socket.socket] = []

    def _run(self) -> None:
        while not self._ends.wait(0.02):
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection = self._listener.accept()[0]
                    connection.sendall(b"+")
                    self.connections.append(connection)
                    self.accepted += 1

            for connection in list(self.connections):
                try:
                    connection.sendall(b"x")
                except OSError:
                    connection.close()
                    self.connections.remove(connection)

    def __enter__(self) -> Dripping:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.join()

        for opened in (self._listener, *self.connections):
            opened.close()


@pytest.mark.parametrize(
    "config",
    [
        {"URL": "redis://{}"},
        {"URL": "rediss://{}"},
        {"URL": "valkey://{}", "CLASS": "valkey.Valkey"},
        {"URL": "redis+cluster://{}"},
        {"URL": "redis+sentinel://{}/mymaster"},
    ],
    ids=lambda config: config["URL"],
)
def test_nothing_stays_of_a_dripped_reply(app: Flask, config: dict[str, str]) -> None:
    """A ping ends within its timeout even if the server sends its reply in drops. No
    thread and no connection stays.
    """
    before = set(threading.enumerate())

    with Dripping() as server:
        before.add(server._thread)
        config = {f"X_{name}": value for name, value in config.items()}
        config["X_URL"] = config["X_URL"].format(server.address)
        manager = make_manager(app, **config)

        with app.app_context():
            for _ in range(5):
                assert not manager.ping(timeout=0.3)["X"].ok

        wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")
        wait_until(lambda: not server.connections, "no connection is left")
        assert server.accepted >= 5


def test_nothing_stays_of_a_dripped_pool(app: Flask) -> None:
    """The same if the application made the pool."""
    before = set(threading.enumerate())

    with Dripping() as server:
        before.add(server._thread)
        host, _, port = server.address.partition(":")
        pool_class: t.Any = redis.BlockingConnectionPool
        pool = pool_class(host=host, port=int(port))
        manager = make_manager(app, X_CONNECTION_POOL=pool)

        with app.app_context():
            assert not manager.ping(timeout=0.3)["X"].ok

        wait_until(lambda: set(threading.enumerate()) <= before, "no thread is left")
        wait_until(lambda: not server.connections, "no connection is left")


def announce(cluster: Cluster, number: int, port: int) -> None:
    """Let a node announce another port. Return when the other nodes know it. With Redis
    6.2, the node itself never does.
    """
    with cluster.nodes[number].admin() as client:
        client.config_set("cluster-announce-port", port)

    others = cluster.nodes[:number] + cluster.nodes[number + 1 :]

    def is_known() -> bool:
        address = f"127.0.0.1:{port}"
        return all(address in get_nodes(other) for other in others)

    wait_until(is_known, "the other nodes know the port")


def get_nodes(node: Server) -> t.Any:
    with node.admin() as client:
        return client.execute_command("CLUSTER NODES")


def test_announced_addresses(app: Flask, fresh_cluster: Cluster) -> None:
    """A cluster is not ok if clients cannot reach a master where the cluster announces
    it, although the address in the settings answers.
    """
    node = fresh_cluster.nodes[1]
    manager = make_manager(
        app,
        CARTS_URL=f"redis+cluster://{node.address}",
        # A name, where the cluster announces an IP address.
        NAME_URL=f"redis+cluster://localhost:{node.port}?decode_responses=true",
    )

    with app.app_context():
        assert all(result.ok for result in manager.ping(timeout=10).values())
        wrong = reserve()
        announce(fresh_cluster, 0, wrong)
        results = manager.ping(timeout=10)

        for result in results.values():
            assert not result.ok
            assert result.error is not None
            assert result.error.startswith(
                f"A master is announced at 127.0.0.1:{wrong}"
            )
            assert "refused" in result.error


def test_remapped_addresses(app: Flask, fresh_cluster: Cluster) -> None:
    """Announced addresses are changed by ADDRESS_REMAP, as for commands."""
    node, wrong = fresh_cluster.nodes[0], reserve()
    announce(fresh_cluster, 0, wrong)

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return (address[0], node.port) if address[1] == wrong else address

    config = {"REDIS_URL": f"redis+cluster://{fresh_cluster.nodes[1].address}"}
    assert ping_one(app, **config, REDIS_ADDRESS_REMAP=remap).ok


def test_no_cluster(app: Flask, server: Server) -> None:
    """A cluster's URL with the address of a single server is not ok."""
    error = ping_one(app, REDIS_URL=f"redis+cluster://{server.address}").error
    assert error is not None and "cluster support disabled" in error


def error_of(app: Flask, **config: t.Any) -> str:
    manager = make_manager(app, **config)

    with app.app_context():
        return manager.ping(timeout=5)["REDIS"].error or ""


PLAIN = (
    "The server speaks plain text, and no TLS: use a redis:// URL instead of"
    " rediss://, or set 'REDIS_SSL' to false."
)


def test_tls_to_a_plain_port(app: Flask, server: Server) -> None:
    """The error names the cause. redis-py only runs into its timeout."""
    assert error_of(app, REDIS_URL=f"rediss://{server.address}") == PLAIN


def test_tls_to_a_plain_sentinel(app: Flask, sentinels: Sentinels) -> None:
    """The same behind sentinels."""
    url = f"rediss+sentinel://{sentinels.sentinels[0].address}/mymaster"
    assert error_of(app, REDIS_URL=url) == PLAIN


def test_tls_to_a_silent_port(app: Flask) -> None:
    """A server that says nothing does not speak plain text."""
    with silent_server() as silent:
        manager = make_manager(app, REDIS_URL=f"rediss://{silent}")

        with app.app_context():
            error = manager.ping(timeout=0.5)["REDIS"].error

    assert error == "No answer within 0.5 s."


def test_tls_to_a_slow_port(app: Flask) -> None:
    """A server that closes the connection at a plain command is not called plain."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted = []

    def serve() -> None:
        accepted.append(listener.accept()[0])

        with listener.accept()[0] as second:
            second.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"rediss://127.0.0.1:{listener.getsockname()[1]}"
    manager = make_manager(app, REDIS_URL=url)

    with app.app_context():
        # Enough time between the attempt with TLS and the end.
        error = manager.ping(timeout=3)["REDIS"].error

    thread.join(10)

    for opened in (listener, *accepted):
        opened.close()

    assert error in ("Timeout connecting to server", "No answer within 3 s.")


def test_closed_socket(app: Flask, tmp_path: Path) -> None:
    """A port may speak TLS, but not a socket in the file system."""
    path = str(tmp_path / "s")
    handler = socketserver.BaseRequestHandler

    # It closes all connections.
    with socketserver.UnixStreamServer(path, handler) as closing:
        thread = threading.Thread(target=closing.serve_forever, args=[0.01])
        thread.start()
        error = error_of(app, REDIS_URL=f"unix://{path}")
        closing.shutdown()
        thread.join()

    assert error.startswith(("Connection ", "Error "))


def test_closed_connection_before_silence(app: Flask) -> None:
    """A server that closes a connection, and then says nothing. There is time to report
    that, although it may be one that speaks TLS.
    """
    accepted: list[socket.socket] = []

    def serve() -> None:
        with listener.accept()[0] as first:
            first.recv(1)

        accepted.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        manager = make_manager(app, REDIS_URL=url)

        with app.app_context():
            error = manager.ping(timeout=2)["REDIS"].error

        thread.join(10)
        accepted[0].close()

    assert error is not None and error.startswith(("Connection ", "Error "))


def test_refused_certificates(
    app: Flask, tls_server: Server, certificates: Certificates
) -> None:
    """The error says why the certificate is refused, and which setting to check."""
    config = {"REDIS_URL": tls_server.url}
    error = error_of(app, **config, REDIS_SSL_CA_CERTS=str(certificates.other_ca))
    assert error.startswith("The certificate of the server is refused (")
    assert "certificate" in error.partition("(")[2].partition(")")[0]
    assert "check 'REDIS_SSL_CA_CERTS'" in error


def test_wrong_ciphers_of_a_pool(app: Flask) -> None:
    """Python itself refuses ciphers, with an error that lacks OpenSSL's attributes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        pool = redis.ConnectionPool(
            connection_class=redis.SSLConnection,
            host=host,
            port=port,
            ssl_ciphers="nope",
        )
        manager = make_manager(app, REDIS_CONNECTION_POOL=pool)

        with app.app_context():
            result = manager.ping(timeout=5)["REDIS"]

        info = app.test_cli_runner().invoke(args=["redis", "info"])

    assert not result.ok
    assert "No cipher can be selected" in (result.error or "")
    assert info.exit_code == 1
    assert "No cipher can be selected" in info.output


def test_certificate_for_another_host(
    app: Flask, tls_server: Server, certificates: Certificates
) -> None:
    """The same for a certificate of another host. The host is another way to write an
    address that is in the certificate.
    """
    url = f"rediss://127.1:{tls_server.port}"
    error = error_of(app, REDIS_URL=url, REDIS_SSL_CA_CERTS=str(certificates.ca))
    assert "refused (" in error and "'127.1'" in error


def test_setting_of_a_refused_login(start: Starter) -> None:
    """The error names the setting or the option that the password comes from."""
    server = start(Server, password="right")
    login = redis.UsernamePasswordCredentialProvider("default", "wrong")
    pool = redis.ConnectionPool(port=server.port, password="wrong")
    url = {"REDIS_URL": server.url}
    option = {"password": "wrong"}
    cases: list[tuple[dict[str, t.Any], dict[str, t.Any], str]] = [
        ({**url, "REDIS_PASSWORD": "wrong"}, {}, "'REDIS_PASSWORD'"),
        ({**url, "REDIS_PASSWORD_FILE": __file__}, {}, "'REDIS_PASSWORD_FILE'"),
        (
            {**url, "REDIS_CREDENTIAL_PROVIDER": login},
            {},
            "'REDIS_CREDENTIAL_PROVIDER'",
        ),
        ({"REDIS_CONNECTION_POOL": pool}, {}, "'REDIS_CONNECTION_POOL'"),
        (url, option, "the option 'password' of RedisManager or Redis"),
        # A setting overrides an option.
        ({**url, "REDIS_PASSWORD_FILE": __file__}, option, "'REDIS_PASSWORD_FILE'"),
    ]

    for config, options, label in cases:
        app = Flask("login")
        app.config.update(config)
        manager = RedisManager(app, **options)

        with app.app_context():
            error = manager.ping(timeout=20)["REDIS"].error or ""

        assert error.startswith("The server refuses the login (")
        assert error.endswith(f"): check {label}.")


@pytest.mark.filterwarnings("ignore:The username in 'REDIS_URL' is without a password")
def test_login_without_a_password(start: Starter) -> None:
    """A user name alone is a login, too. In a URL, it may be the password."""
    server = start(Server, password="right")
    config = {"REDIS_URL": server.url, "REDIS_USERNAME": "default"}
    error = error_of(Flask("setting"), **config)
    assert error.startswith("The server refuses the login (")
    assert error.endswith("): set 'REDIS_PASSWORD'.")
    error = error_of(Flask("url"), REDIS_URL=f"redis://right@{server.address}")
    assert error.startswith("The server refuses the login (")
    assert error.endswith(
        "): 'REDIS_URL' has a user name and no password. If it is the password, a colon"
        " must precede it: redis://:password@host."
    )


def test_pool_without_a_password(app: Flask, start: Starter) -> None:
    """A password in another setting would have no effect."""
    pool = redis.ConnectionPool(port=start(Server, password="right").port)
    error = error_of(app, REDIS_CONNECTION_POOL=pool)
    assert error == "The server asks for a password: check 'REDIS_CONNECTION_POOL'."


def test_refused_by_a_sentinel(
    app: Flask, start: Starter, certificates: Certificates
) -> None:
    """The error says that a sentinel refused the login or showed a wrong certificate,
    and not only that there is no master.
    """
    locked = start(Sentinels, sentinel_password="hush")
    url = f"redis+sentinel://{locked.address}/mymaster"
    error = error_of(app, REDIS_URL=url)
    assert error.startswith("No master found for 'mymaster'")
    assert error.endswith(
        "A sentinel asks for a password: set 'REDIS_SENTINEL_PASSWORD'."
    )
    provider = redis.UsernamePasswordCredentialProvider("default", "wrong")
    configs: list[dict[str, t.Any]] = [
        {"REDIS_SENTINEL_PASSWORD": "wrong"},
        {"REDIS_SENTINEL_KWARGS": {"credential_provider": provider}},
    ]

    for config in configs:
        error = error_of(Flask("b"), REDIS_URL=url, **config)
        assert "A sentinel refuses the login (" in error
        assert error.endswith(
            "): check 'REDIS_SENTINEL_PASSWORD' or 'REDIS_SENTINEL_KWARGS'."
        )

    secure = start(Server, certificates=certificates)
    url = f"rediss+sentinel://{secure.address}/mymaster"
    error = error_of(Flask("c"), REDIS_URL=url)
    assert error.startswith("The certificate of the server is refused (")


def test_refused_by_the_master(app: Flask, sentinels: Sentinels) -> None:
    """If the master refuses the login and the sentinels do not, the error says so."""
    master = sentinels.master()

    with master.admin() as client:
        client.config_set("requirepass", "hush")

    try:
        url = f"redis+sentinel://{sentinels.address}/mymaster"
        error = error_of(app, REDIS_URL=url)
    finally:
        with master.admin(password="hush") as client:
            client.config_set("requirepass", "")

    assert error == "The server asks for a password: set 'REDIS_PASSWORD'."


def test_pool_of_replicas(app: Flask, sentinels: Sentinels) -> None:
    """The application's own pool may look for a replica."""
    addresses = [("127.0.0.1", each.port) for each in sentinels.sentinels]
    sentinel = t.cast(t.Any, redis.Sentinel)(addresses, socket_timeout=5)
    pool = sentinel.slave_for("mymaster").connection_pool
    assert error_of(app, REDIS_CONNECTION_POOL=pool) == ""


def test_refused_provider(app: Flask, start: Starter) -> None:
    """The error names the provider if it gave the wrong password."""
    locked = start(Server, password="hush")

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return "default", "wrong"

    config = {"REDIS_URL": locked.url, "REDIS_CREDENTIAL_PROVIDER": Provider()}
    assert error_of(app, **config).endswith(": check 'REDIS_CREDENTIAL_PROVIDER'.")


def test_down(app: Flask, own_server: Server) -> None:
    """The statistics tell whether a prefix is down. An override is not."""
    manager = make_manager(
        app,
        REDIS_URL=own_server.url,
        REDIS_RETRY_DEADLINE=0.2,
        CLUSTER_URL=f"redis+cluster://127.0.0.1:{reserve()}",
        CLUSTER_RETRY_DEADLINE=0.2,
    )

    def list_down() -> list[str]:
        return [prefix for prefix, stats in manager.stats().items() if stats.down]

    with app.app_context():
        manager.get().set("k", "v")
        assert list_down() == []
        own_server.kill()

        for prefix in ("REDIS", "CLUSTER"):
            with pytest.raises(
                (redis.RedisError, redis.exceptions.RedisClusterException)
            ):
                manager.get(prefix).set("k", "v")

        assert list_down() == ["REDIS", "CLUSTER"]
        assert not manager.stats()["CLUSTER"].created

        with manager.override("REDIS", redis.Redis()):
            assert list_down() == ["CLUSTER"]

        # A ping does not change it: it is about commands.
        own_server.start()
        assert manager.ping("REDIS", timeout=10)["REDIS"].ok
        assert list_down() == ["REDIS", "CLUSTER"]

        def is_back() -> bool:
            return bool(manager.get().set("k", "v"))

        wait_until(is_back, "a command succeeds")
        assert list_down() == ["CLUSTER"]


@pytest.mark.parametrize("has_pool", [False, True])
def test_ping_tries_once(app: Flask, has_pool: bool) -> None:
    """A ping does not try again, even if the prefix's own connections do."""
    retry = Retry(NoBackoff(), 3)

    # It closes each connection, as it finds no server.
    with Cutter(reserve()) as cutter:
        config: dict[str, t.Any] = {"REDIS_URL": cutter.url, "REDIS_RETRY": retry}

        if has_pool:
            pool = redis.ConnectionPool.from_url(cutter.url, retry=retry)
            config = {"REDIS_CONNECTION_POOL": pool}

        manager = make_manager(app, **config)

        with app.app_context():
            assert not manager.ping(timeout=10)["REDIS"].ok

        # The second one finds out whether the server speaks TLS.
        assert cutter.connections == 2


def test_ping_of_an_unknown_pool(app: Flask) -> None:
    """A client of the application may have any kind of pool."""
    result = ping_one(app, REDIS_HOST="h", REDIS_CLASS=Untold)
    assert result.error == "AttributeError"


@pytest.mark.skipif(redis.VERSION < (7, 1), reason="Older ones record no metrics.")
def test_nothing_is_recorded(
    app: Flask, server: Server, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ping records none of redis-py's metrics: the series of its pool would stay."""
    from redis.observability import recorder

    manager = make_manager(
        app,
        REDIS_URL=server.url,
        CLUSTER_URL=f"redis+cluster://{cluster.address}",
        POOL_CONNECTION_POOL=redis.ConnectionPool(port=server.port),
    )
    # Pools of other tests would be recorded when they are freed.
    gc.collect()
    collector = mock.Mock()
    monkeypatch.setattr(recorder, "_metrics_collector", collector)

    with app.app_context():
        assert all(each.ok for each in manager.ping(timeout=20).values())

    assert collector.mock_calls == []

from __future__ import annotations

import pytest
from flask import Flask

from flask_and_redis import current_redis
from flask_and_redis import RedisManager

from ..servers import Cluster
from .conftest import Load
from .pages import need

need("flask_caching", "flask_limiter", "flask_session")

from flask_limiter import Limiter  # noqa: E402
from flask_session import Session  # noqa: E402


@pytest.fixture
def on_cluster(environment: pytest.MonkeyPatch, cluster: Cluster) -> str:
    """The URL of a cluster. The apps of the pages use it, too."""
    url = f"redis+cluster://{cluster.address}"
    environment.setenv("FLASK_REDIS_URL", url)
    environment.delenv("FLASK_REDIS_USERNAME")
    environment.delenv("FLASK_REDIS_PASSWORD")
    return url


def test_flask_caching(load: Load, on_cluster: str) -> None:
    """A library that does not check the type of the proxy works with a cluster."""
    app = load("flask-caching").create_app()
    client = app.test_client()
    assert client.get("/squares/7").text == "49"
    assert client.get("/squares/7").text == "49"
    assert app.extensions["redis"]["REDIS"].get("computed") == b"1"


def test_flask_session(load: Load, on_cluster: str) -> None:
    """Flask-Session accepts the proxy of a cluster outside of an application context,
    but not inside of one.
    """
    module = load("flask-session")
    app = module.create_app()
    client = app.test_client()
    assert client.get("/").text == "Visit 1"
    assert client.get("/").text == "Visit 2"

    with app.app_context(), pytest.warns(RuntimeWarning, match="No valid Redis"):
        Session(app)


def test_no_pool(app: Flask, on_cluster: str) -> None:
    """A cluster client has no pool that a library could use, and says so."""
    app.config["REDIS_URL"] = on_cluster
    RedisManager(app)

    with pytest.raises(AttributeError, match="no attribute 'connection_pool'"):
        _ = app.extensions["redis"]["REDIS"].connection_pool

    with app.app_context(), pytest.raises(AttributeError, match="connection_pool"):
        _ = current_redis.connection_pool


def test_flask_limiter(app: Flask, on_cluster: str) -> None:
    """Flask-Limiter accepts the URL of a cluster without any change."""
    app.config["REDIS_URL"] = on_cluster
    RedisManager(app)
    limiter = Limiter(lambda: "all", app=app, storage_uri=app.config["REDIS_URL"])

    @app.get("/")
    @limiter.limit("2/minute")
    def index() -> str:
        return "Hello"

    client = app.test_client()
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]

from __future__ import annotations

import pytest

from ..servers import Server
from .conftest import Load
from .pages import assert_all_ours
from .pages import need

need("flask_caching")

from flask_caching import Cache  # noqa: E402


def test_page(load: Load, server: Server) -> None:
    """A cached view runs once. Its cache uses the prefix's pool."""
    app = load("flask-caching").create_app()
    client = app.test_client()
    assert client.get("/squares/7").text == "49"
    assert client.get("/squares/7").text == "49"
    assert client.get("/squares/8").text == "64"

    with server.admin() as admin:
        assert admin.get("computed") == b"2"
        assert len(admin.keys("flask_cache_*")) == 2

    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert assert_all_ours(server, pool) == 1


def test_decode_responses(load: Load, environment: pytest.MonkeyPatch) -> None:
    """Pickles are not text: a cache fails on a prefix that decodes replies."""
    environment.setenv("FLASK_REDIS_DECODE_RESPONSES", "true")
    module = load("flask-caching")
    app = module.create_app()
    cache: Cache = module.cache

    with app.app_context():
        cache.set("k", [1, 2])

        with pytest.raises(UnicodeDecodeError):
            cache.get("k")

from __future__ import annotations

import pytest

from ..servers import Server
from .conftest import Load
from .pages import assert_all_ours
from .pages import need

need("flask_limiter")


@pytest.mark.parametrize("decode", ["false", "true"])
def test_page(
    load: Load, server: Server, environment: pytest.MonkeyPatch, decode: str
) -> None:
    """The limit works on the prefix's pool, with and without decoding."""
    environment.setenv("FLASK_REDIS_DECODE_RESPONSES", decode)
    app = load("flask-limiter").create_app()
    client = app.test_client()
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]

    with server.admin() as admin:
        assert len(admin.keys("LIMITS:*")) == 1

    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert assert_all_ours(server, pool) == 1

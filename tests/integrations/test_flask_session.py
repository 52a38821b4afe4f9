from __future__ import annotations

import pytest

from ..servers import Server
from .conftest import Load
from .pages import assert_all_ours
from .pages import need

need("flask_session")


def test_page(load: Load, server: Server) -> None:
    """A session is kept across requests and restarts. It uses the prefix's pool."""
    module = load("flask-session")
    app = module.create_app()
    client = app.test_client()
    assert client.get("/").text == "Visit 1"
    assert client.get("/").text == "Visit 2"
    assert app.test_client().get("/").text == "Visit 1"
    pool = app.extensions["redis"]["REDIS"].connection_pool
    assert assert_all_ours(server, pool) == 1
    cookie = client.get_cookie("session")
    assert cookie is not None
    other = module.create_app().test_client()
    other.set_cookie("session", cookie.value)
    assert other.get("/").text == "Visit 3"


@pytest.mark.parametrize("serialization", ["msgpack", "json"])
def test_decode_responses(
    load: Load, environment: pytest.MonkeyPatch, serialization: str
) -> None:
    """Msgpack is not text: such a session fails on a prefix that decodes replies."""
    environment.setenv("FLASK_REDIS_DECODE_RESPONSES", "true")
    environment.setenv("FLASK_SESSION_SERIALIZATION_FORMAT", serialization)
    app = load("flask-session").create_app()
    app.testing = True
    client = app.test_client()
    assert client.get("/").text == "Visit 1"

    if serialization == "json":
        assert client.get("/").text == "Visit 2"
    else:
        with pytest.raises(UnicodeDecodeError):
            client.get("/")

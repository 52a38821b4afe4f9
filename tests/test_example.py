from __future__ import annotations

import collections.abc as cabc
import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import typing as t
from pathlib import Path
from urllib.request import urlopen

import pytest
from ephemeral_port_reserve import reserve
from flask import Flask
from flask.testing import FlaskClient
from redis.backoff import NoBackoff
from redis.retry import Retry

pytestmark = [pytest.mark.once, pytest.mark.slow]

PATH = Path(__file__).parents[1] / "examples" / "visits" / "app.py"


class CreateApp(t.Protocol):
    def __call__(self, config: dict[str, t.Any] | None = None) -> Flask: ...


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "GUESTS_URL", "PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def create_app(monkeypatch: pytest.MonkeyPatch) -> CreateApp:
    spec = importlib.util.spec_from_file_location("visits_example", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Flask needs this module to find the templates.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return t.cast(CreateApp, module.create_app)


@pytest.fixture
def client(create_app: CreateApp) -> FlaskClient:
    return create_app().test_client()


def visits(page: str) -> int:
    match = re.search(r"<strong>([\d,]+)</strong>\s*visits? so far", page)
    assert match is not None
    return int(match[1].replace(",", ""))


def guests(page: str) -> list[tuple[str, str]]:
    return re.findall(r'<b dir="auto">(.*)</b>\s*<p dir="auto">(.*)</p>', page)


def sign(client: FlaskClient, name: str, message: str) -> None:
    response = client.post("/guests", data={"name": name, "message": message})
    assert (response.status_code, response.location) == (303, "/")


def test_page_counts_visits(client: FlaskClient) -> None:
    """Each request for the page counts as one visit."""
    assert [visits(client.get("/").text) for _ in range(3)] == [1, 2, 3]


def test_guests_are_shown_newest_first(client: FlaskClient) -> None:
    """The guest book shows the newest message first, without surrounding whitespace."""
    sign(client, "Ada", "First!")
    sign(client, " Zoë ", "  Grüße  ")
    assert guests(client.get("/").text) == [("Zoë", "Grüße"), ("Ada", "First!")]


def test_guests_are_limited(client: FlaskClient) -> None:
    """The guest book keeps only the latest twenty messages."""
    for number in range(23):
        sign(client, "Ada", f"Line {number}")

    messages = [message for _, message in guests(client.get("/").text)]
    assert messages == [f"Line {number}" for number in range(22, 2, -1)]


def test_guests_are_escaped(client: FlaskClient) -> None:
    """Guests' input is escaped on the page."""
    sign(client, "<b>Eve</b>", "<script>alert('hi')</script>")
    page = client.get("/").text
    assert "<script" not in page
    assert "&lt;b&gt;Eve&lt;/b&gt;" in page
    assert "&lt;script&gt;alert(&#39;hi&#39;)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ({}, "Your name is missing."),
        ({"name": " \t", "message": "Hello"}, "Your name is missing."),
        ({"name": "Ada", "message": " "}, "Your message is missing."),
        (
            {"name": "A" * 41, "message": "Hello"},
            "Your name is longer than 40 characters",
        ),
        (
            {"name": "Ada", "message": "x" * 141},
            "Your message is longer than 140 characters",
        ),
    ],
)
def test_faulty_message_is_refused(
    client: FlaskClient, form: dict[str, str], fault: str
) -> None:
    """A form with an empty or too long field is rejected with a message. The form stays
    filled in, nothing is stored, and no visit is counted.
    """
    client.get("/")
    response = client.post("/guests", data=form)
    assert response.status_code == 400
    assert fault in response.text
    assert all(f'value="{value}"' in response.text for value in form.values())
    assert visits(response.text) == 1
    assert guests(response.text) == []


def test_longest_message_is_kept(client: FlaskClient) -> None:
    """A name and a message with exactly the maximum lengths are accepted."""
    sign(client, "A" * 40, "x" * 140)
    assert guests(client.get("/").text) == [("A" * 40, "x" * 140)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "https://localhost"}, 303),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_other_sites_cannot_sign(
    client: FlaskClient, headers: dict[str, str], status: int
) -> None:
    """A form is rejected if the browser says that it comes from another site."""
    form = {"name": "Ada", "message": "Hello"}
    response = client.post("/guests", data=form, headers=headers)
    assert response.status_code == status
    assert len(guests(client.get("/").text)) == (1 if status == 303 else 0)


def test_prefixes_are_separate_databases(create_app: CreateApp) -> None:
    """The visits and the guest book do not share a database."""
    app = create_app()
    client = app.test_client()
    client.get("/")
    sign(client, "Ada", "Hello")
    databases = app.extensions["redis"]
    assert databases["REDIS"].keys() == [b"visits"]
    assert databases["GUESTS"].keys() == ["guests"]


def test_config_wins_over_environment(
    create_app: CreateApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment variable overrides the default, unless it is empty. The argument
    overrides both.
    """
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.setenv("GUESTS_URL", "fakeredis://guests")
    config = create_app().config
    assert config["REDIS_URL"] == "fakeredis:///0"
    assert config["GUESTS_URL"] == "fakeredis://guests"

    config = create_app({"GUESTS_URL": "fakeredis://mine"}).config
    assert config["GUESTS_URL"] == "fakeredis://mine"


@pytest.mark.parametrize("prefix", ["REDIS", "GUESTS"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_dead_redis_is_a_friendly_page(
    create_app: CreateApp, prefix: str, method: str
) -> None:
    """If one of the two servers is down, the page apologizes and shows no addresses."""
    port = reserve()
    client = create_app(
        {
            f"{prefix}_URL": f"redis://:hush@127.0.0.1:{port}/0",
            f"{prefix}_SOCKET_CONNECT_TIMEOUT": 0.5,
            f"{prefix}_RETRY": Retry(NoBackoff(), 0),
        }
    ).test_client()

    if method == "GET":
        response = client.get("/")
    else:
        form = {"name": "Ada", "message": "Hello"}
        response = client.post("/guests", data=form, follow_redirects=True)

    assert response.status_code == 503
    assert "The database does not respond" in response.text

    for secret in ("hush", "127.0.0.1", str(port)):
        assert secret not in response.text


@contextlib.contextmanager
def run(**environment: str) -> cabc.Iterator[subprocess.Popen[str]]:
    """Run the example as a program, and kill it at the end."""
    # If a shell runs the tests in the background, they ignore Ctrl+C, and the program
    # would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        [sys.executable, "-W", "error", PATH],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def refusal(**environment: str) -> str:
    """What the example prints when it does not start."""
    with run(**environment) as process:
        output, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert output == ""
    assert "Traceback" not in errors
    return errors


def test_serves() -> None:
    """Run as a program, the example prints its address, serves the page, and exits
    without an error on Ctrl+C.
    """
    port = reserve()

    with run(PORT=str(port)) as process:
        assert read_line(process) == (
            f"Serving on http://127.0.0.1:{port}/ (REDIS is fakeredis (in this"
            " process), GUESTS is fakeredis (in this process))\n"
        )

        with urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
            assert visits(response.read().decode()) == 1

        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)

    assert process.returncode == 0
    assert output == ""
    assert "Traceback" not in errors


def test_address_of_a_server_is_not_printed() -> None:
    """If a prefix has a server, the example prints the setting's name, not the URL."""
    url = f"redis://:hush@127.0.0.1:{reserve()}/0"
    port = reserve()

    with run(PORT=str(port), GUESTS_URL=url) as process:
        assert read_line(process) == (
            f"Serving on http://127.0.0.1:{port}/ (REDIS is fakeredis (in this"
            " process), GUESTS is the server of GUESTS_URL)\n"
        )


def test_taken_port_is_explained() -> None:
    """If another program uses the port, the example exits and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        errors = refusal(PORT=port)

    assert errors.startswith(f"Cannot serve on port {port}: ")
    assert "PORT" in errors


@pytest.mark.parametrize("port", ["http", "-1", "0", "65536"])
def test_wrong_port_is_explained(port: str) -> None:
    """If PORT is invalid, the example exits and says which values are valid."""
    assert refusal(PORT=port) == "PORT must be a port number from 1 to 65535.\n"


@pytest.mark.parametrize("prefix", ["REDIS", "GUESTS"])
@pytest.mark.parametrize(
    "url", ["postgresql://ada:hush@db/0", "redis://:hush@localhost/first"]
)
def test_wrong_url_is_explained(prefix: str, url: str) -> None:
    """If a URL is wrong, the example exits with an error that names the setting,
    without the password.
    """
    errors = refusal(**{f"{prefix}_URL": url})
    assert f"'{prefix}_URL' must" in errors
    assert "hush" not in errors

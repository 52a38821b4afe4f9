"""The files of the configuration page work: each app starts with the settings of its
file, and finds the right servers.
"""

from __future__ import annotations

import collections.abc as cabc
import importlib
import re
import shlex
import subprocess
import sys
import types
import typing as t
from pathlib import Path

import pytest
import yaml
from flask import Flask

from flask_and_redis import RedisManager

from .conftest import Starter
from .pages import commands_of
from .pages import DOCS
from .servers import Server

pytestmark = pytest.mark.once

FILES = DOCS / "configuration"
PAGE = (DOCS / "configuration.rst").read_text()

Import = cabc.Callable[[str], types.ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> cabc.Iterator[Import]:
    """Imports a file of the page by its name. It may import others of them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FILES)
    yield importlib.import_module

    for name in set(sys.modules) - before:
        if str(FILES) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment, without variables of other Redis servers."""
    for name in ("REDIS_URL", "CACHE_URL", "STAGE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"FLASK_{name}", raising=False)

    return monkeypatch


def variables_of(name: str) -> dict[str, str]:
    """The variables in a file of the page."""
    lines = (FILES / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def addresses_of(app: Flask) -> dict[str, str]:
    """The address of each prefix."""
    registry = app.extensions["redis"]
    specs = {prefix: registry.get_spec(prefix) for prefix in registry}
    return {
        prefix: spec.engine.describe_address(spec) for prefix, spec in specs.items()
    }


def arguments_of(app: Flask, prefix: str) -> dict[str, t.Any]:
    """The arguments of a prefix's client."""
    arguments: dict[str, t.Any] = app.extensions["redis"].get_spec(prefix).arguments
    return arguments


def assert_works(app: Flask) -> None:
    """The app's view uses both databases, and all of them respond."""
    client = app.test_client()
    assert client.get("/").text == "Report 1"
    assert client.get("/").text == "Report 1"
    pings = client.get("/healthz").json
    assert pings is not None and sorted(pings) == ["CACHE", "REDIS"]
    assert all(ping["ok"] for ping in pings.values())


def test_all_files_are_shown() -> None:
    """The page shows each file, and no other one."""
    shown = re.findall(r"^\.\. literalinclude:: configuration/(.*)$", PAGE, re.M)
    assert sorted(shown) == sorted(
        path.name for path in FILES.iterdir() if path.is_file()
    )


def test_environment_variables(environment: pytest.MonkeyPatch, load: Import) -> None:
    """The exports on the page have the values that the page promises."""
    exports = [line for line in commands_of("configuration") if "FLASK_" in line]
    assert len(exports) == 5

    for line in exports:
        _, variable = shlex.split(line)
        environment.setenv(*variable.split("=", 1))

    app = load("app").create_app()
    assert addresses_of(app) == {"REDIS": "localhost:6379", "CACHE": "localhost:6379"}
    cache = arguments_of(app, "CACHE")
    assert cache["db"] == 1
    assert cache["password"] == "1e5"
    assert cache["socket_keepalive_options"] == {4: 60}
    assert arguments_of(app, "REDIS")["password"] == "change-me"


def test_env_file(environment: pytest.MonkeyPatch, load: Import) -> None:
    """The app starts with the settings of the .env file."""
    for name, value in variables_of("example.env").items():
        environment.setenv(name, value)

    app = load("app").create_app()
    assert addresses_of(app) == {"REDIS": "localhost:6379", "CACHE": "localhost:6379"}
    assert arguments_of(app, "REDIS")["password"] == "change-me"
    cache = arguments_of(app, "CACHE")
    assert cache["db"] == 1
    assert cache["decode_responses"] is True
    assert cache["socket_timeout"] == 0.5


def test_classes(environment: pytest.MonkeyPatch, load: Import) -> None:
    """The app starts with both classes, and the environment overrides them."""
    app = load("app_from_object").create_app()
    assert app.extensions["redis"]["REDIS"].set("k", "v")
    assert app.extensions["redis"]["CACHE"].exists("k") == 0

    environment.setenv("STAGE", "Production")
    environment.setenv("FLASK_REDIS_PASSWORD", "change-me")
    app = load("app_from_object").create_app()
    addresses = addresses_of(app)
    assert addresses["REDIS"] == "redis.internal:6379"
    assert "cache at a.internal:26379" in addresses["CACHE"]
    assert arguments_of(app, "REDIS")["password"] == "change-me"
    assert arguments_of(app, "CACHE")["decode_responses"] is True


def test_compose(
    environment: pytest.MonkeyPatch, load: Import, start: Starter, tmp_path: Path
) -> None:
    """The app works with servers that have the options of the file, and stays healthy
    without its cache.
    """
    services = yaml.safe_load((FILES / "compose.yaml").read_text())["services"]
    secret = tmp_path / "redis_password"
    secret.write_text("s3cret\n")

    # The shell command of the server, which prints the options instead.
    shell, option, script = shlex.split(services["redis"]["command"])
    assert (shell, option) == ("sh", "-c")
    script = script.replace("$$", "$").replace("/run/secrets/redis_password", "$0")
    script = script.replace("exec docker-entrypoint.sh redis-server", "printf '%s\\n'")
    output = subprocess.check_output(["sh", "-c", script, str(secret)], text=True)
    redis = start(Server, *output.splitlines(), password="s3cret")
    cache = start(Server, *shlex.split(services["cache"]["command"])[1:])

    for name, value in services["web"]["environment"].items():
        environment.setenv(name, value)

    environment.setenv("FLASK_REDIS_PASSWORD_FILE", str(secret))
    app = load("app").create_app()
    assert addresses_of(app) == {"REDIS": "redis:6379", "CACHE": "cache:6379"}
    environment.setenv("FLASK_REDIS_URL", f"redis://{redis.address}/0")
    environment.setenv("FLASK_CACHE_URL", f"redis://{cache.address}/0")
    app = load("app").create_app()
    assert_works(app)
    cache.stop()
    response = app.test_client().get("/healthz")
    assert response.status_code == 200
    assert response.json is not None and not response.json["CACHE"]["ok"]


def kubernetes() -> dict[tuple[str, str], dict[str, t.Any]]:
    """The objects of the manifest, by kind and name."""
    objects = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def test_kubernetes_variables(environment: pytest.MonkeyPatch, load: Import) -> None:
    """The variables that Kubernetes adds change nothing, whether they are read or
    not. Next to a host, REDIS_PORT is the port.
    """
    manifest = kubernetes()
    (web,) = manifest["Deployment", "web"]["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in web["env"]}
    injected = variables_of("kubernetes-injected.env")
    urls = {name: url for name, url in variables.items() if name.endswith("_URL")}
    expected = {"REDIS": "redis:6379", "CACHE": "redis:6379"}

    for name, value in {**urls, **injected}.items():
        environment.setenv(name, value)

    assert addresses_of(load("app").create_app()) == expected

    # As for a service that is called flask-redis.
    for name, value in injected.items():
        environment.setenv(f"FLASK_{name}", value)

    assert addresses_of(load("app").create_app()) == expected

    app = Flask("mapping")
    app.config.from_mapping(injected, REDIS_HOST="redis")
    app.config["REDIS_PORT"] = app.config["REDIS_PORT"].replace("6379", "6380")
    RedisManager(app)
    assert addresses_of(app) == {"REDIS": "redis:6380"}


def test_kubernetes(
    environment: pytest.MonkeyPatch, load: Import, start: Starter, tmp_path: Path
) -> None:
    """The app works with a server that has the options of the manifest. The parts of
    the manifest refer to each other correctly.
    """
    manifest = kubernetes()
    password = manifest["Secret", "redis"]["stringData"]["password"]
    stateful = manifest["StatefulSet", "redis"]["spec"]["template"]
    service = manifest["Service", "redis"]["spec"]
    assert stateful["metadata"]["labels"].items() >= service["selector"].items()

    (container,) = stateful["spec"]["containers"]
    arguments = [each.replace("$(PASSWORD)", password) for each in container["args"]]
    server = start(Server, *arguments, password=password)

    pod = manifest["Deployment", "web"]["spec"]["template"]["spec"]
    (web,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in web["env"]}
    (mount,) = web["volumeMounts"]
    (volume,) = pod["volumes"]
    assert (mount["name"], volume["secret"]["secretName"]) == (volume["name"], "redis")
    secret = tmp_path / "password"
    secret.write_text(password)

    for name, value in variables.items():
        value = value.replace("//redis:6379", f"//{server.address}")
        environment.setenv(name, value.replace(mount["mountPath"], str(tmp_path)))

    app = load("app").create_app()
    assert_works(app)
    probe = web["readinessProbe"]["httpGet"]["path"]
    assert app.test_client().get(probe).status_code == 200
    server.stop()
    assert app.test_client().get(probe).status_code == 503
    liveness = web["livenessProbe"]["httpGet"]["path"]
    assert app.test_client().get(liveness).status_code == 204


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_health_without_redis(environment: pytest.MonkeyPatch, load: Import) -> None:
    """Without any Redis, the app is alive and not healthy, as on the operating page."""
    client = load("app").create_app().test_client()
    assert client.get("/healthz").status_code == 503
    assert client.get("/livez").status_code == 204


def test_platform(environment: pytest.MonkeyPatch, load: Import) -> None:
    """The app copies the variables of the platform, and no others."""
    for name, value in variables_of("platform.env").items():
        environment.setenv(name, value)

    app = load("platform_app").create_app()
    assert addresses_of(app) == {
        "REDIS": "redis.example:6380",
        "CACHE": "copper.example:6380",
    }
    assert arguments_of(app, "REDIS")["max_connections"] == 10
    assert arguments_of(app, "CACHE")["ssl_cert_reqs"] == "none"
    assert app.extensions["redis"]["REDIS"].connection_pool


def test_forgotten_variable(environment: pytest.MonkeyPatch) -> None:
    """A variable without FLASK_ that was not copied is mentioned in a warning."""
    environment.setenv("REDIS_URL", variables_of("platform.env")["REDIS_URL"])
    app = Flask("forgotten")
    app.config.from_prefixed_env()

    with pytest.warns(UserWarning, match="'REDIS_URL' is in the environment"):
        RedisManager(app)

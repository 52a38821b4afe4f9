"""The settings of public applications and of platforms. The files in ``environments``
have their names, and values that are made up.
"""

from __future__ import annotations

import re
import typing as t
import warnings
from pathlib import Path

import pytest
from flask import Flask

from flask_and_redis import ConfigError
from flask_and_redis import RedisManager

pytestmark = pytest.mark.once

FILES = sorted((Path(__file__).parent / "environments").glob("*.env"))


class Environment(t.NamedTuple):
    """The variables in a file, and what its comments expect."""

    variables: dict[str, str]
    prefixes: list[str]
    warnings: list[str]
    error: str


def read(path: Path) -> Environment:
    text = path.read_text()
    notes: dict[str, list[str]] = {"prefixes": [], "warning": [], "error": []}

    for name, note in re.findall(r"^# (prefixes|warning|error):[ ]?(.*)$", text, re.M):
        notes[name].append(note)

    return Environment(
        dict(re.findall(r"^(\w+)=(.*)$", text, re.M)),
        notes["prefixes"][0].split(),
        notes["warning"],
        "".join(notes["error"]),
    )


@pytest.fixture(params=["mapping", "prefixed"])
def load(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> t.Callable[[dict[str, str]], Flask]:
    """Makes an app with variables as its settings, as text or as Flask reads them."""

    def make(variables: dict[str, str]) -> Flask:
        app = Flask("environment")

        if request.param == "mapping":
            app.config.from_mapping(variables)
            return app

        for name, value in variables.items():
            monkeypatch.setenv(f"FLASK_{name}", value)

        app.config.from_prefixed_env()
        return app

    return make


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_environment(
    path: Path,
    load: t.Callable[[dict[str, str]], Flask],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each environment has exactly the prefixes, warnings and errors that it should."""
    environment = read(path)
    app = load(environment.variables)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        if environment.error:
            with pytest.raises(ConfigError, match=re.escape(environment.error)):
                RedisManager(app)

            return

        RedisManager(app)

    assert sorted(app.extensions["redis"]) == sorted(environment.prefixes)
    messages = sorted(str(warning.message) for warning in caught)
    assert messages == sorted(environment.warnings)
    assert not caplog.records


def test_there_are_enough() -> None:
    """The files are found."""
    assert len(FILES) >= 20

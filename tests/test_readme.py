"""The README is correct: its commands and its app run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.request import urlopen

import pytest
from ephemeral_port_reserve import reserve

from .pages import files_of
from .pages import table
from .web import serve_script

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.rst").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    blocks = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", README, re.M
    )
    return [textwrap.dedent(block).strip() for block in blocks]


def test_quick_start(tmp_path: Path) -> None:
    """The commands of the quick start serve its app. Only pip is neither installed nor
    run, as it needs a package index.
    """
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").write_text(PROJECT)
    install, run = blocks("text")
    (extra,) = re.findall(r"^pip install '\.\[(\w+)\]'$", install, re.M)
    assert f"\n{extra} = [" in PROJECT
    port = reserve("127.0.0.1")
    script = f"""
pip() {{ test "$1" = install && test -f pyproject.toml; }}
{install.replace("-m venv", "-m venv --without-pip")}
cat >app.py <<'END'
{blocks("python")[0]}
END
{run.replace("flask run", f"exec flask run --port {port}")}
"""

    with serve_script(script, checkout, port) as base, urlopen(base) as response:
        assert response.read() == b"Report 1"


def test_length() -> None:
    """The README is one and a half screens long."""
    assert len(README.splitlines()) <= 77


def test_comparison() -> None:
    """Each row of its table is also in the complete table."""
    complete = {" ".join(row.values()) for row in table("comparison")}
    text = README.partition("\nComparison\n")[2]
    _, *lines = re.findall(r"^(?!=)\S.*  .*$", text, re.M)
    assert len(lines) > 4
    assert {" ".join(line.split()) for line in lines} <= complete


def test_make() -> None:
    """make knows the commands. They install packages, so that they do not run."""
    commands = re.findall(r"``(make \w+)``", README)
    assert commands == ["make run", "make test", "make docs"]

    for command in commands:
        subprocess.run(
            [*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True
        )


def test_links() -> None:
    """All links begin with the address in pyproject.toml, and lead to existing files.
    So one command moves them to a new home.
    """
    (home,) = re.findall(r'^Repository = "(.*)"$', PROJECT, re.M)
    links = re.findall(r"<(.*?)>`_", README)
    links += re.findall(r'^(?:Documentation|Changelog) = "(.*)"$', PROJECT, re.M)
    assert len(links) > 4
    assert README.count("https://") == README.count(f"{home}/blob/main/") > 4

    for link in links:
        assert link.startswith(f"{home}/blob/main/")
        assert (ROOT / link.removeprefix(f"{home}/blob/main/")).exists(), link


@pytest.mark.timeout(300)
def test_types(tmp_path: Path) -> None:
    """Both quick starts pass the strict checks of mypy, if it is installed."""
    pytest.importorskip("mypy")
    (tmp_path / "readme.py").write_text(blocks("python")[0])
    first, second = files_of("quickstart")
    (tmp_path / "first.py").write_text(first["app.py"])
    (tmp_path / "second.py").write_text(second["app.py"])
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "."]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "no issues found in 3 source files" in result.stdout, result.stdout


def test_installation() -> None:
    """The installation page names the versions and extras in pyproject.toml."""
    page = (ROOT / "docs" / "installation.rst").read_text()
    required = {"Python": re.findall(r'requires-python = ">=(.*)"', PROJECT)[0]}
    names = {"flask": "Flask", "werkzeug": "Werkzeug", "redis": "redis-py"}

    for name, title in names.items():
        (required[title],) = re.findall(rf'^    "{name}>=(.*)",$', PROJECT, re.M)

    for title, version in required.items():
        assert re.search(rf"^{title} +{re.escape(version)} or later$", page, re.M)
        assert title == "Werkzeug" or f"{title} {version}" in README

    _, _, extras = PROJECT.partition("[project.optional-dependencies]\n")
    names_of_extras = re.findall(r"^([\w-]+) = \[", extras.partition("\n[")[0], re.M)
    documented = re.findall(r"^``([\w-]+)``  ", page, re.M)
    assert sorted(documented) == sorted(names_of_extras)

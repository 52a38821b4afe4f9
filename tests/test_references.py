"""The pages name only files, commands, targets of make and settings that exist. Sphinx
itself checks links between pages and included files.
"""

from __future__ import annotations

import collections.abc as cabc
import re

import click
import pytest

from flask_and_redis.operate.cli import COMMANDS

from .pages import DOCS
from .test_docs import SETTINGS

pytestmark = pytest.mark.once

ROOT = DOCS.parent
FOLDERS = ("docs", "examples", "flask_and_redis", "tests")
PAGES = [
    ROOT / "README.rst",
    *sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts),
    *sorted(DOCS.glob("tables/*.csv")),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}

#: Stands for a name that the reader chooses.
PLACEHOLDER = "NAME"


def existing() -> set[str]:
    """The paths of files and folders, and the names of files that the pages show."""
    paths = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    paths |= set(ROOT.iterdir())
    captions = {
        caption
        for text in TEXTS.values()
        for caption in re.findall(r"^ +:caption: (\S+)$", text, re.M)
    }
    return captions | {path.relative_to(ROOT).as_posix() for path in paths}


def find_all(pattern: str) -> cabc.Iterator[tuple[str, str]]:
    """What a pattern matches, with the page where it does."""
    for page, text in TEXTS.items():
        for match in re.findall(pattern, text, re.M):
            yield page, match


def test_files() -> None:
    """Each file and folder that a page names exists. The path may begin in a folder."""
    paths = {f"/{path}" for path in existing()}
    quoted = set(find_all(r"``([\w./-]+\.(?:py|rst|csv|ya?ml|toml|svg|png|json))``"))
    folders = set(find_all(r"``([\w./-]+/)``"))
    assert len(quoted) > 10 and folders
    missing = [
        (page, name)
        for page, name in quoted | folders
        if PLACEHOLDER not in name
        and not any(path.endswith(f"/{name.rstrip('/')}") for path in paths)
    ]
    assert missing == []


def test_links_of_the_readme() -> None:
    """Each relative link in the README leads to a file or folder."""
    targets = re.findall(r"<([^<>:]+)>`__?", TEXTS["README.rst"])
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_install_commands() -> None:
    """Each shown command works without a release: it installs from a checkout or a
    wheel, or adds an extra that exists to an installed package.
    """
    project = (ROOT / "pyproject.toml").read_text()
    commands = set(find_all(r"(pip install [^`\n]*Flask-And-Redis[^`\n]*)"))
    assert commands

    for page, command in commands:
        extras = re.search(r" 'Flask-And-Redis\[([\w,-]+)\]'(?: pytest)?$", command)
        assert extras, (page, command)

        for extra in extras.group(1).split(","):
            assert f"\n{extra} = [" in project, (page, command)

    # The quick start and the README begin with the same commands.
    setup = re.findall(
        r"^    (?:\$ )?(python3 -m venv|\. \.\./|pip install|cd )(.*)$",
        TEXTS["docs/quickstart.rst"],
        re.M,
    )
    assert len(setup) == 4
    assert all(f"\n    {start}{rest}\n" in TEXTS["README.rst"] for start, rest in setup)


def test_targets_of_make() -> None:
    """Each target of make that a page names exists."""
    targets = set(find_all(r"(?:``|^    (?:\$ )?)make ([a-z-]+)"))
    assert targets
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert [each for each in targets if each[1] not in known] == []


def test_commands() -> None:
    """Each command that a page names exists, with its options."""
    commands: dict[str | None, click.Command] = {each.name: each for each in COMMANDS}
    lines = set(find_all(r"(?:``|\$ )(flask redis [a-z][^`\n]*)"))
    wrong = []

    for page, line in lines:
        # After "--" are the arguments of the native client.
        name, *arguments = line.partition(" -- ")[0].split()[2:]
        options = {text for text in arguments if re.match("--[a-z]", text)}
        parameters = commands[name].params if name in commands else []
        known = {option for parameter in parameters for option in parameter.opts}

        if name not in commands or not options <= known:
            wrong.append((page, line))

    assert lines
    assert wrong == []


def test_settings() -> None:
    """Each setting that a page names as one of any prefix exists."""
    names = set(find_all(r"<P>_([A-Z_]+)"))
    assert names
    assert [each for each in names if each[1] not in SETTINGS] == []

"""Draw the pictures of the docs that need no browser: ``python -m tests.pictures``."""

from __future__ import annotations

import collections.abc as cabc
import html
import itertools
import os
import re
import sys
import tempfile
import textwrap
from pathlib import Path

from ephemeral_port_reserve import reserve
from flask import Flask

from flask_and_redis import RedisManager

from .pages import DOCS
from .servers import find_command
from .servers import Server

IMAGES = DOCS / "images"
TITLE = '<text x="20" y="30" class="title">Each module imports only from above</text>'

# By the number of the terminal's color. They are readable on the background.
COLORS = {"31": "#ff8f87", "32": "#7ee08f", "33": "#f0cf65"}
TERMINAL = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" \
font-size="13" role="img">
  <title>{title}</title>
  <rect width="{width}" height="{height}" rx="8" fill="#20242b"/>
  <g fill="#e8e8e8">
{lines}
  </g>
</svg>
"""

#: What the parts of the package are for, by folder or first module.
PURPOSES = {
    "exceptions": "errors and signals",
    "spec": "what is known about a prefix",
    "engines": "the kinds of servers",
    "settings": "from app.config to specs",
    "deadline": "each command ends in time",
    "registry": "an app's clients, and proxies",
    "operate": "health checks, flask redis",
    "manager": "finds the prefixes of an app",
    "contrib": "optional integrations",
}
LAYOUT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" \
font-family="system-ui, sans-serif" font-size="14" role="img">
  <title>The modules of the package</title>
  <style>
    .part {{ fill: #e8f0fb; stroke: #4a78b5; }}
    .small {{ font-size: 12px; fill: #444; }}
    .module {{ font-family: ui-monospace, monospace; font-size: 12px; }}
    .title, .name {{ font-weight: 600; }}
    text {{ fill: #1a1a1a; }}
  </style>
  <rect width="760" height="{height}" rx="8" fill="#fafafa"/>
  {title}
{parts}
</svg>
"""


def run(settings: cabc.Mapping[str, str], command: str) -> str:
    """Return what a ``flask redis`` command prints, with its colors.

    :param settings: The settings of the app.
    :param command: Such as ``flask redis list``.
    """
    app = Flask("pictures")
    app.config.update(settings)
    RedisManager(app)
    arguments = command.split()[1:]
    result = app.test_cli_runner().invoke(args=arguments, color=True)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def run_all(shop: Server, cache: Server) -> dict[str, str]:
    """Return what each of the commands prints, for the apps that the pictures show.

    :param shop: An empty server.
    :param cache: Another one.
    """
    lost = reserve("127.0.0.1")
    addresses = {
        f"127.0.0.1:{shop.port}": "localhost:6379",
        f"127.0.0.1:{cache.port}": "localhost:6380",
        f"127.0.0.1:{lost}": "localhost:6381",
    }
    listed = {
        "CARTS_URL": "redis+cluster://a:7000,b:7001",
        "PAGE_CACHE_URL": "redis://localhost:6380",
        "PAGE_CACHE_RETRY_DEADLINE": "0.5",
        "REDIS_URL": "redis://localhost:6379/2",
        "SESSIONS_URL": "redis+sentinel://s:1000/mymaster",
    }
    running = {"PAGE_CACHE_URL": cache.url, "REDIS_URL": f"{shop.url}/2"}
    failing = {
        **running,
        "SEARCH_URL": f"redis://127.0.0.1:{lost}",
        "SEARCH_OPTIONAL": "true",
        "SESSIONS_URL": f"redis://127.0.0.1:{lost}",
    }

    with shop.admin(db=2) as admin:
        admin.set("motd", "hello")
        admin.set("session", "Ada", ex=1000)
        admin.get("motd")
        admin.get("none")

    # The first ping imports modules, which takes most of its time.
    run(failing, "flask redis ping")
    outputs = {
        "flask redis list": run(listed, "flask redis list"),
        "flask redis ping": run(failing, "flask redis ping"),
        "flask redis info": run(running, "flask redis info"),
    }

    for address, shown in addresses.items():
        outputs = {
            command: output.replace(address, shown)
            for command, output in outputs.items()
        }

    return outputs


def draw_terminal(command: str, output: str) -> str:
    """Draw a command and its output as a terminal shows them.

    :param command: The command.
    :param output: What it prints, with the terminal's codes for colors.
    """
    lines = [f'    <text x="16" y="30" font-weight="600">$ {command}</text>']

    for number, line in enumerate(output.splitlines(), 1):
        # The commands color only whole lines.
        code, text = re.findall(r"^(?:\x1b\[(\d+)m)?(.*?)(?:\x1b\[0m)?$", line)[0]
        color = f' fill="{COLORS[code]}"' if code in COLORS else ""
        y = 30 + 19 * number

        if text:
            # SVG would join several spaces.
            text = html.escape(text).replace(" ", "\N{NO-BREAK SPACE}")
            lines.append(f'    <text x="16" y="{y}"{color}>{text}</text>')

    height = 30 + 19 * len(output.splitlines()) + 20
    # 100 columns. A character of a common font is 0.602 em wide.
    return TERMINAL.format(
        width=815, height=height, title=command, lines="\n".join(lines)
    )


def list_modules() -> list[str]:
    """Return the modules, in the order of the design page."""
    return re.findall(r"^``([\w/]+)``  ", (DOCS / "design.rst").read_text(), re.M)


def draw_layout(modules: cabc.Iterable[str]) -> str:
    """Draw the parts of the package, each with its modules.

    :param modules: The modules, each below those that it imports.
    """
    parts, y = [], 46

    for folder, group in itertools.groupby(
        # A package in a part belongs to the part.
        modules,
        lambda name: name.rpartition("/")[0].partition("/")[0],
    ):
        names = [name.removeprefix(f"{folder}/") for name in group]
        lines = textwrap.wrap(", ".join(names), 66)
        height = max(46, 18 * len(lines) + 14)
        name = f"{folder}/" if folder else ", ".join(names)
        purpose = PURPOSES[folder or names[0]]
        parts += [
            f'  <rect x="20" y="{y}" width="720" height="{height}" class="part"/>',
            f'  <text x="34" y="{y + 20}" class="name">{name}</text>',
            f'  <text x="34" y="{y + 37}" class="small">{purpose}</text>',
        ]
        parts += [
            f'  <text x="246" y="{y + 20 + 18 * number}" class="module">{line}</text>'
            for number, line in enumerate(lines if folder else [])
        ]
        y += height + 8

    return LAYOUT.format(height=y + 12, title=TITLE, parts="\n".join(parts))


def main() -> None:
    # Without it the commands print no colors.
    os.environ.pop("NO_COLOR", None)
    (IMAGES / "layout.svg").write_text(draw_layout(list_modules()))

    if (program := find_command("redis8")) is None:
        sys.exit("Redis 8 is missing: set REDIS8_SERVER to its path.")

    with tempfile.TemporaryDirectory() as name:
        directories = [Path(name, server) for server in ("shop", "cache")]

        for directory in directories:
            directory.mkdir()

        shop, cache = (Server(program, directory) for directory in directories)

        with shop, cache:
            for command, output in run_all(shop, cache).items():
                path = IMAGES / f"{command.replace('flask ', '').replace(' ', '-')}.svg"
                path.write_text(draw_terminal(command, output))


if __name__ == "__main__":
    main()

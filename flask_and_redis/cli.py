"""``flask redis``: which Redis servers an app uses, whether they answer, what they are,
and what is in them.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import ipaddress
import itertools
import json
import os
import shutil
import ssl
import sys
import textwrap
import typing as t

import click
from flask import current_app

from . import health
from . import info
from .clients import find_address
from .config import Settings
from .exceptions import ConfigError
from .exceptions import UnknownPrefixError
from .manager import redis_cli
from .registry import get_registry
from .registry import Registry
from .urls import join_address
from .values import library_of
from .values import name_of

# What the lines of each command fit into.
WIDTH = 100

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
_prefixes = click.argument("prefixes", nargs=-1, metavar="[PREFIX]...")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=1.0,
    metavar="SECONDS",
    help="How long to wait for answers.  [default: 1.0]",
)


@redis_cli.command("list")
@click.option(
    "--all",
    "with_skipped",
    is_flag=True,
    help="Add what was passed over, and why.",
)
@_json
def list_command(with_skipped: bool, as_json: bool) -> None:
    """List every Redis of the app, by its settings. No connection is opened, and no
    password is shown.

    \b
    Examples:
      flask redis list
      flask redis list --all
    """
    registry = get_registry(current_app)
    found = {it: _describe(registry, it) for it in registry}
    skipped = registry.skipped

    if as_json:
        if with_skipped:
            found |= {prefix: {"skipped": why} for prefix, why in skipped.items()}

        click.echo(json.dumps(found, indent=2))
        return

    if found:
        _print_list(found)
    else:
        click.echo("This app has no Redis: set 'REDIS_URL', for example.")

    if with_skipped and skipped:
        click.echo("\nPassed over:")
        _print_table([[prefix, why] for prefix, why in skipped.items()])
    elif skipped:
        click.echo(f"\nPassed over: {len(skipped)}. See 'flask redis list --all'.")


def _describe(registry: Registry, prefix: str) -> dict[str, t.Any]:
    settings = registry.get_settings(prefix)
    return {
        "engine": _engine_of(settings),
        "address": _address_of(settings),
        "database": settings.connection["db"] or 0,
        "class": name_of(settings.client_class),
        "tls": bool(settings.connection.get("ssl")),
        "deadline": settings.deadline,
        "default": prefix == registry.default,
    }


def _engine_of(settings: Settings) -> str:
    if settings.is_cluster and not settings.place.nodes:
        return "redis+cluster"

    if settings.service and not settings.place.nodes:
        return "redis+sentinel"

    return "unix" if _socket_of(settings) else settings.place.scheme


def _address_of(settings: Settings) -> str:
    if settings.place.scheme == "fakeredis":
        name = settings.place.fake_server
        return f"this process, server {name}" if name else "this process"

    if path := _socket_of(settings):
        return path

    nodes = ", ".join(itertools.starmap(join_address, settings.nodes))

    if not settings.service:
        return nodes

    kind = "replicas of " if settings.place.replica else ""
    where = f"at {nodes}" if settings.place.nodes else "behind sentinels"
    return f"{kind}{settings.service} {where}"


def _socket_of(settings: Settings) -> str | None:
    path: str | None = settings.connection.get("unix_socket_path")
    return path


def _print_list(found: cabc.Mapping[str, cabc.Mapping[str, t.Any]]) -> None:
    header = ["PREFIX", "ENGINE", "ADDRESS", "DB", "CLASS", "TLS", "DEADLINE"]
    rows = [
        [
            f"{prefix} *" if it["default"] else prefix,
            it["engine"],
            it["address"],
            str(it["database"]),
            it["class"],
            "yes" if it["tls"] else "no",
            "redis-py's" if it["deadline"] is None else f"{it['deadline']:g} s",
        ]
        for prefix, it in found.items()
    ]
    _print_table([header, *rows])
    click.echo("\n* the default")


@redis_cli.command("ping")
@_prefixes
@_timeout
@_json
@click.pass_context
def ping_command(
    context: click.Context, prefixes: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """Ask servers whether they answer, all at once. Without PREFIX all of the app's.
    The exit status is 1 if any does not.

    \b
    Examples:
      flask redis ping
      flask redis ping CACHE SESSIONS --timeout 0.5
    """
    registry = get_registry(current_app)

    try:
        found = health.ping(registry, prefixes, timeout)
    except (UnknownPrefixError, ValueError) as error:
        raise _usage_error(error) from None

    if as_json:
        results = {prefix: dataclasses.asdict(it) for prefix, it in found.items()}
        click.echo(json.dumps(results, indent=2))
    else:
        _print_table(
            [
                [prefix, "ok", f"{it.ms:.1f} ms"]
                if it.ok
                else [prefix, "failed", it.error or ""]
                for prefix, it in found.items()
            ],
            ["green" if it.ok else "red" for it in found.values()],
        )

    if not prefixes:
        _tell_left_out(registry)

    if not all(it.ok for it in found.values()):
        context.exit(1)


def _tell_left_out(registry: Registry) -> None:
    for prefix in registry:
        if prefix not in registry.list_surely_redis():
            click.echo(
                f"{prefix} was left out: nothing but '{prefix}_HOST' speaks for Redis."
                f" Name {prefix} to include it.",
                err=True,
            )


@redis_cli.command("info")
@_prefixes
@_timeout
@click.pass_context
def info_command(
    context: click.Context, prefixes: tuple[str, ...], timeout: float
) -> None:
    """Show what kind of server each Redis is, its version, role, up-time, memory,
    clients, keys and hit rate, and warn of what is likely to be wrong. Without PREFIX
    all of the app's. The exit status is 1 if any does not answer.

    \b
    Examples:
      flask redis info
      flask redis info CACHE
    """
    registry = get_registry(current_app)
    wanted = dict.fromkeys(prefixes or registry.list_surely_redis())

    try:
        reports = info.report(registry, wanted, timeout)
    except (UnknownPrefixError, ValueError) as error:
        raise _usage_error(error) from None

    for number, (prefix, it) in enumerate(reports.items()):
        settings = registry.get_settings(prefix)
        title = f"{prefix}  {_engine_of(settings)}  {_address_of(settings)}"
        click.echo("\n" * bool(number) + textwrap.fill(title, WIDTH, **_WRAPPED))
        notes = [["warning", text] for text in it.warnings]
        notes += [["error", text] for text in it.errors]
        colors = ["yellow"] * len(it.warnings) + ["red"] * len(it.errors)

        if settings.is_cluster:
            _print_table(it.facts, indent=2)
            _print_table(notes, colors, indent=2)
        else:
            plain = [None] * len(it.facts)
            _print_table([*it.facts, *notes], [*plain, *colors], indent=2)

    if not prefixes:
        _tell_left_out(registry)

    if any(it.errors for it in reports.values()):
        context.exit(1)


def _usage_error(error: Exception) -> click.UsageError:
    return click.UsageError(_fold(str(error)))


def _fold(message: str) -> str:
    """What stands behind the word "Error: "."""
    text = textwrap.fill(f"Error: {message}", WIDTH, break_on_hyphens=False)
    return text.removeprefix("Error: ")


_BEHIND = f"{__name__}.behind"


class _WithArguments(click.Command):
    """A command that keeps what stands behind ``--`` apart."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_BEHIND] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


@redis_cli.command("cli", cls=_WithArguments)
@click.argument("prefix", required=False, metavar="[PREFIX] [-- ARGS...]")
@click.pass_context
def cli_command(context: click.Context, prefix: str | None) -> None:
    """Open redis-cli, or valkey-cli, on a Redis of the app, by default on the default
    one. With ARGS it runs one command, and its exit status is the client's.

    The password is handed over in the environment, never on the command line.

    \b
    Examples:
      flask redis cli
      flask redis cli CACHE -- GET user:1
      flask redis cli CACHE -- --scan --pattern 'user:*'
    """
    registry = get_registry(current_app)

    try:
        settings = registry.get_settings(prefix or registry.default)
    except (UnknownPrefixError, ConfigError) as error:
        raise _usage_error(error) from None

    program = _find_program(settings)
    arguments, environment = _hand_over(registry, settings)
    sys.stdout.flush()
    os.execve(program, [program, *arguments, *context.meta[_BEHIND]], environment)  # noqa: S606


def _find_program(settings: Settings) -> str:
    names = ["redis-cli", "valkey-cli"]

    if "valkey" in (library_of(settings.client_class), settings.place.scheme[:6]):
        names.reverse()

    for name in names:
        if path := shutil.which(name):
            return path

    raise click.ClickException(
        _fold(
            f"Neither {names[0]} nor {names[1]} is on the PATH. They come with the"
            " servers, or in a package such as redis-tools or valkey-tools."
        )
    )


def _hand_over(
    registry: Registry, settings: Settings
) -> tuple[list[str], dict[str, str]]:
    """What the native client needs to connect: arguments, and its environment."""
    connection = settings.connection
    username, password = _find_login(settings)

    if path := _socket_of(settings):
        found = ["-s", path]
    else:
        host, port = _find_server(registry, settings)
        found = ["-h", host, "-p", str(port), *_find_tls(settings, host)]

    if settings.is_cluster:
        # Follow to the node that has the key.
        found += ["-c"]
    elif connection["db"]:
        found += ["-n", str(connection["db"])]

    if username:
        found += ["--user", username]

    # Not that of the shell: it may be for another server.
    names = ("REDISCLI_AUTH", "VALKEYCLI_AUTH")
    environment = {name: it for name, it in os.environ.items() if name not in names}

    if password:
        environment |= dict.fromkeys(names, password)

    return found, environment


def _find_login(settings: Settings) -> tuple[str, str]:
    provider = settings.connection.get("credential_provider")

    if provider is None:
        username, password = map(settings.connection.get, ("username", "password"))
        return str(username or ""), str(password or "")

    try:
        provider = provider() if isinstance(provider, type) else provider
        *user, password = provider.get_credentials()
    except Exception as error:
        # Its message may quote anything.
        kind = type(error).__name__
    else:
        return str(*user), str(password)

    raise click.ClickException(
        _fold(f"'{settings.prefix}_CREDENTIAL_PROVIDER' gives no password ({kind}).")
    )


def _find_server(registry: Registry, settings: Settings) -> tuple[str, int]:
    """Host and port, which sentinels may have to be asked for."""
    if settings.place.scheme == "fakeredis":
        raise click.ClickException(
            _fold(
                f"{settings.prefix} is fakeredis, in each process of the app for"
                " itself: there is no server to open."
            )
        )

    if not (settings.is_cluster or settings.service):
        return settings.connection["host"], settings.connection["port"]

    prefix = settings.prefix
    questions = health.make_questions(
        registry, settings, _FIND_TIMEOUT, lambda _, client: find_address(client)
    )
    answer = health.ask({prefix: questions}, _FIND_TIMEOUT)[prefix]

    if answer.value is None:
        why = health.explain(registry, prefix, answer.error)
        raise click.ClickException(_fold(f"{prefix}, {_address_of(settings)}: {why}"))

    return answer.value


# Seconds to ask sentinels for the server, or a cluster for a node that answers.
_FIND_TIMEOUT = 5.0

_TLS_OPTIONS = {
    "ssl_ca_certs": "--cacert",
    "ssl_ca_path": "--cacertdir",
    "ssl_certfile": "--cert",
    "ssl_keyfile": "--key",
    "ssl_ciphers": "--tls-ciphers",
}


def _find_tls(settings: Settings, host: str) -> list[str]:
    connection = settings.connection

    if not connection.get("ssl"):
        return []

    if connection.get("ssl_ca_data"):
        raise click.ClickException(
            _fold(
                f"'{settings.prefix}_SSL_CA_DATA' cannot be handed to the native"
                " client, which reads certificates from files only: set"
                f" '{settings.prefix}_SSL_CA_CERTS'."
            )
        )

    found = ["--tls"]

    for name, option in _TLS_OPTIONS.items():
        if connection.get(name):
            found += [option, str(connection[name])]

    if connection.get("ssl_cert_reqs") in ("none", ssl.CERT_NONE):
        found += ["--insecure"]

    try:
        ipaddress.ip_address(host)
    except ValueError:
        # The server may choose its certificate by the name.
        found += ["--sni", host]

    return found


_WRAPPED: dict[str, t.Any] = {"subsequent_indent": "  ", "break_on_hyphens": False}


def _print_table(
    rows: cabc.Sequence[cabc.Sequence[str]],
    colors: cabc.Sequence[str | None] | None = None,
    *,
    indent: int = 0,
) -> None:
    """Print rows with aligned columns. What is too wide for a line goes on below."""
    # https://no-color.org, which click leaves to its callers.
    colors = None if os.environ.get("NO_COLOR") else colors
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    while sum(widths) + 2 * (len(widths) - 1) + indent > WIDTH:
        widths[widths.index(max(widths))] -= 1

    for number, row in enumerate(rows):
        cells = [
            textwrap.wrap(cell, width, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]

        for parts in itertools.zip_longest(*cells, fillvalue=""):
            padded = map(str.ljust, parts, widths)
            line = " " * indent + "  ".join(padded).rstrip()
            click.secho(line, fg=colors[number] if colors else None)

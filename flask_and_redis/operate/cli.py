"""The commands of ``flask redis``."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import json
import os
import sys
import typing as t

import click
from flask import current_app
from flask.cli import with_appcontext

from ..exceptions import ConfigError
from ..exceptions import UnknownPrefixError
from ..registry import get_registry
from ..registry import Registry
from ..spec.classes import name_of
from . import health
from . import report
from . import settings
from .native import find_arguments
from .native import find_program
from .text import print_table
from .text import wrap
from .text import wrap_error

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
_prefixes = click.argument("prefixes", nargs=-1, metavar="[PREFIX]...")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=1.0,
    metavar="SECONDS",
    help="How long to wait for answers.  [default: 1.0]",
)


@click.command("list")
@click.argument("prefix", required=False)
@click.option(
    "--all",
    "with_skipped",
    is_flag=True,
    help="Also list what was skipped, and why.",
)
@_json
@with_appcontext
def list_command(prefix: str | None, with_skipped: bool, as_json: bool) -> None:
    """List the app's prefixes with their servers. With PREFIX, list the settings of
    this prefix, their values, and where each value comes from. No connection is opened,
    and no password is shown.

    \b
    Examples:
      flask redis list
      flask redis list --all
      flask redis list CACHE
    """
    registry = get_registry(current_app)

    if prefix is not None:
        _list_prefix(registry, prefix, as_json)
        return

    rows = {prefix: _describe(registry, prefix) for prefix in registry}
    skipped = registry.skipped

    if as_json:
        if with_skipped:
            rows |= {prefix: {"skipped": reason} for prefix, reason in skipped.items()}

        click.echo(json.dumps(rows, indent=2))
        return

    if rows:
        _print_list(rows)
    else:
        click.echo(_NO_REDIS)

    if with_skipped and skipped:
        click.echo("\nSkipped:")
        print_table([[prefix, reason] for prefix, reason in skipped.items()])
    elif skipped:
        click.echo(f"\nSkipped: {len(skipped)}. See 'flask redis list --all'.")


def _list_prefix(registry: Registry, prefix: str, as_json: bool) -> None:
    try:
        rows = settings.list_settings(registry.get_spec(prefix))
    except (UnknownPrefixError, ConfigError) as error:
        raise _usage_error(error) from None

    if as_json:
        fields = {row.name: {"value": row.value, "origin": row.origin} for row in rows}
        click.echo(json.dumps(fields, indent=2))
        return

    cells = [[name, settings.as_text(value), origin] for name, value, origin in rows]
    print_table([["SETTING", "VALUE", "ORIGIN"], *cells])


def _describe(registry: Registry, prefix: str) -> dict[str, t.Any]:
    spec = registry.get_spec(prefix)
    connection = spec.engine.connection_arguments(spec)
    return {
        "engine": spec.engine.scheme_name(spec),
        "address": spec.engine.describe_address(spec),
        "database": connection["db"] or 0,
        "class": name_of(spec.client_class),
        "tls": bool(connection.get("ssl")),
        "deadline": spec.deadline,
        "default": prefix == registry.default,
    }


def _print_list(rows: cabc.Mapping[str, cabc.Mapping[str, t.Any]]) -> None:
    header = ["PREFIX", "ENGINE", "ADDRESS", "DB", "CLASS", "TLS", "DEADLINE"]
    cells = [
        [
            f"{prefix} *" if row["default"] else prefix,
            row["engine"],
            row["address"],
            str(row["database"]),
            row["class"],
            "yes" if row["tls"] else "no",
            "redis-py's" if row["deadline"] is None else f"{row['deadline']:g} s",
        ]
        for prefix, row in rows.items()
    ]
    print_table([header, *cells])
    click.echo("\n* the default")


@click.command("ping")
@_prefixes
@_timeout
@click.option(
    "--wait",
    type=click.FloatRange(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="How long to repeat the pings until all answer.  [default: 0]",
)
@_json
@click.pass_context
@with_appcontext
def ping_command(
    context: click.Context,
    prefixes: tuple[str, ...],
    timeout: float,
    wait: float,
    as_json: bool,
) -> None:
    """Check that the servers answer. All are asked at the same time. Without PREFIX,
    check all prefixes. The exit status is 1 if a prefix does not answer, unless it is
    optional.

    \b
    Examples:
      flask redis ping
      flask redis ping CACHE SESSIONS --timeout 0.5
      flask redis ping --wait 60
    """
    registry = get_registry(current_app)

    if not (prefixes or registry.needed):
        _exit_without_redis(context, as_json)

    try:
        results = health.wait(registry, prefixes, timeout, wait)
    except (UnknownPrefixError, ValueError) as error:
        raise _usage_error(error) from None

    if as_json:
        fields = {name: dataclasses.asdict(each) for name, each in results.items()}
        click.echo(json.dumps(fields, indent=2))
    else:
        _print_pings(results)

    if not health.is_healthy(results):
        context.exit(1)


def _print_pings(results: cabc.Mapping[str, health.PingResult]) -> None:
    rows, colors = [], []

    for prefix, result in results.items():
        if result.ok:
            rows.append([prefix, "ok", f"{result.ms:.1f} ms"])
            colors.append("green")
        elif result.required:
            rows.append([prefix, "failed", result.error or ""])
            colors.append("red")
        else:
            rows.append([prefix, "optional", result.error or ""])
            colors.append("yellow")

    print_table(rows, colors)


_NO_REDIS = "This app has no Redis: set 'REDIS_URL', for example."


def _exit_without_redis(context: click.Context, as_json: bool) -> t.NoReturn:
    if as_json:
        click.echo("{}")

    click.echo(_NO_REDIS, err=as_json)
    context.exit(1)


@click.command("info")
@_prefixes
@_timeout
@_json
@click.pass_context
@with_appcontext
def info_command(
    context: click.Context, prefixes: tuple[str, ...], timeout: float, as_json: bool
) -> None:
    """Show the version, role, up-time, memory, clients, keys and hit rate of each
    server, and warn of likely mistakes. Without PREFIX, show all prefixes. The exit
    status is 1 if a prefix does not answer, unless it is optional.

    \b
    Examples:
      flask redis info
      flask redis info CACHE
      flask redis info --json
    """
    registry = get_registry(current_app)

    if not (prefixes or registry):
        _exit_without_redis(context, as_json)

    try:
        reports = report.report(registry, dict.fromkeys(prefixes or registry), timeout)
    except (UnknownPrefixError, ValueError) as error:
        raise _usage_error(error) from None

    if as_json:
        fields = {
            prefix: _describe_report(registry, prefix, each)
            for prefix, each in reports.items()
        }
        click.echo(json.dumps(fields, indent=2))
    else:
        _print_reports(registry, reports)

    if any(
        each.errors and not registry.is_optional(prefix)
        for prefix, each in reports.items()
    ):
        context.exit(1)


def _describe_report(
    registry: Registry, prefix: str, each: report.Report
) -> dict[str, t.Any]:
    spec = registry.get_spec(prefix)
    return {
        "engine": spec.engine.scheme_name(spec),
        "address": spec.engine.describe_address(spec),
        "nodes": each.nodes,
        "warnings": each.warnings,
        "errors": each.errors,
    }


def _print_reports(
    registry: Registry, reports: cabc.Mapping[str, report.Report]
) -> None:
    for number, (prefix, each) in enumerate(reports.items()):
        spec = registry.get_spec(prefix)
        engine = spec.engine
        title = f"{prefix}  {engine.scheme_name(spec)}  {engine.describe_address(spec)}"
        click.echo("\n" * bool(number) + wrap(title))
        _print_report(each)


def _print_report(each: report.Report) -> None:
    notes = [["warning", text] for text in each.warnings]
    notes += [["error", text] for text in each.errors]
    colors = ["yellow"] * len(each.warnings) + ["red"] * len(each.errors)

    if each.has_header:
        print_table(each.facts, indent=2)
        print_table(notes, colors, indent=2)
    else:
        plain = [None] * len(each.facts)
        print_table([*each.facts, *notes], [*plain, *colors], indent=2)


def _usage_error(error: Exception) -> click.UsageError:
    return click.UsageError(wrap_error(str(error)))


_AFTER = f"{__name__}.after"
_DASHES = "Put '--' before a command, as in 'flask redis cli -- GET user:1'."


class _WithArguments(click.Command):
    """A command that does not parse the arguments after ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_AFTER] = args[at + 1 :]

        try:
            return super().parse_args(ctx, args[:at])
        except click.UsageError as error:
            if "--" in args:
                raise

            text = f"{error.message.rstrip('.')}. {_DASHES}"
            raise click.UsageError(wrap_error(text), ctx) from None


@click.command("cli", cls=_WithArguments)
@click.argument("prefix", required=False, metavar="[PREFIX] [-- ARGS...]")
@click.pass_context
@with_appcontext
def cli_command(context: click.Context, prefix: str | None) -> None:
    """Open redis-cli or valkey-cli for a prefix. Without PREFIX, use the default
    prefix. With ARGS, run one command and exit with the client's exit status.

    The password is passed in the environment, never on the command line.

    \b
    Examples:
      flask redis cli
      flask redis cli CACHE -- GET user:1
      flask redis cli CACHE -- --scan --pattern 'user:*'
    """
    registry = get_registry(current_app)

    after = context.meta[_AFTER]

    try:
        # An empty prefix, such as an unset variable of the shell, is not the default.
        spec = registry.get_spec(registry.default if prefix is None else prefix)
    except UnknownPrefixError as error:
        # It may be a command.
        hint = f" {_DASHES}" if prefix and not after else ""
        raise click.UsageError(wrap_error(f"{error}{hint}")) from None
    except ConfigError as error:
        raise _usage_error(error) from None

    program = find_program(spec)
    arguments, environment = find_arguments(registry, spec)
    sys.stdout.flush()
    os.execve(program, [program, *arguments, *after], environment)  # noqa: S606


#: The commands of the group.
COMMANDS = (list_command, ping_command, info_command, cli_command)

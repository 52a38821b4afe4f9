"""What a prefix's servers say of themselves, for people."""

from __future__ import annotations

import collections.abc as cabc
import re
import typing as t
from dataclasses import dataclass
from dataclasses import field

import redis

from ..engines.library import library_name
from ..engines.operations import Info
from ..registry import Registry
from ..spec.spec import Spec
from ..spec.url import join_address
from ..spec.values import clean
from .explain import explain
from .health import Answer
from .health import ask
from .health import check_timeout
from .health import make_questions

# The oldest Redis that redis-py supports, from version 6 on.
OLDEST = (7, 2)


@dataclass
class Report:
    """What is known about one prefix."""

    #: Rows of a table.
    facts: list[list[str]] = field(default_factory=list)
    #: Whether the first of these rows is a header.
    has_header: bool = False
    #: What each node says of itself, by its address.
    nodes: dict[str, Info] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    #: Each in one line, without secrets.
    errors: list[str] = field(default_factory=list)


def report(
    registry: Registry, prefixes: cabc.Iterable[str], timeout: float
) -> dict[str, Report]:
    """Ask the servers of some prefixes what they are, all at the same time.

    :param registry: The app's registry.
    :param prefixes: The prefixes.
    :param timeout: Seconds to wait for answers, and the same again for the nodes of
        each cluster, which must be found first.
    :raises ConfigError: If the settings of a prefix are wrong.
    :raises UnknownPrefixError: If the app has no such prefix.
    :raises ValueError: If the timeout is not a number of seconds above 0.
    """
    check_timeout(timeout)
    specs = {prefix: registry.get_spec(prefix) for prefix in prefixes}
    answers = ask(
        {
            prefix: make_questions(registry, spec, timeout, spec.engine.ask_info)
            for prefix, spec in specs.items()
            if not spec.engine.in_process
        },
        timeout,
    )
    return {
        prefix: _report(registry, spec, answers.get(prefix), timeout)
        for prefix, spec in specs.items()
    }


def _report(
    registry: Registry, spec: Spec, answer: Answer[Info] | None, timeout: float
) -> Report:
    if answer is None:
        text = "fakeredis, inside each process of the app. It has no INFO."
        return Report([["server", text]])

    if answer.value is None:
        return Report(errors=[explain(registry, spec.prefix, answer.error)])

    nodes = spec.engine.node_specs(spec, answer.value)

    if nodes is not None:
        return _report_nodes(registry, spec, nodes, timeout)

    info = read_info(answer.value)
    address = info.get("address", spec.engine.describe_address(spec))
    return Report(
        _list_facts(spec, info), nodes={address: info}, warnings=list(_warn(spec, info))
    )


_TEXTS = (
    *("redis_version", "valkey_version", "role", "master_host", "master_link_status"),
    *("maxmemory_policy", "address"),
)
_NUMBERS = (
    *("uptime_in_seconds", "used_memory", "maxmemory", "connected_clients"),
    *("maxclients", "blocked_clients", "connected_slaves", "master_port"),
    *("keyspace_hits", "keyspace_misses", "cluster_enabled"),
)


def read_info(info: object) -> Info:
    """The fields of a server's ``INFO`` that a report uses, as far as they make sense.
    The server is not trusted: it may be any program.

    :param info: What the client made of the reply.
    """
    given: Info = info if isinstance(info, cabc.Mapping) else {}
    fields: dict[str, t.Any] = {
        name: clean(str(given[name]))[:100]
        for name in _TEXTS
        if isinstance(given.get(name), (str, int, float))
    }
    fields |= _read_numbers(given, _NUMBERS)
    fields |= {
        name: _read_numbers(counts, ("keys", "expires"))
        for name, counts in given.items()
        if re.fullmatch(r"db[0-9]{1,9}", name) and isinstance(counts, cabc.Mapping)
    }
    return fields


def _read_numbers(given: Info, names: cabc.Iterable[str]) -> dict[str, int]:
    return {
        name: given[name]
        for name in names
        if type(given.get(name)) is int and 0 <= given[name] < 2**63
    }


_NODE_HEADER = [
    "node",
    "role",
    "server",
    "up",
    "memory",
    "policy",
    "clients",
    "keys",
    "hits",
]


def _report_nodes(
    registry: Registry, spec: Spec, nodes: cabc.Mapping[str, Spec], timeout: float
) -> Report:
    """A line for each node, and each warning once."""
    questions = {
        address: make_questions(registry, node, timeout, node.engine.ask_node_info)
        for address, node in nodes.items()
    }
    report = Report([_NODE_HEADER], has_header=True)
    warnings: dict[str, None] = {}

    if not nodes:
        report.errors.append("The cluster returned no nodes.")

    for name, answer in ask(questions, timeout).items():
        address = clean(name)

        if answer.value is None:
            why = explain(registry, spec.prefix, answer.error)
            report.errors.append(f"{address}: {why}")
            continue

        info = report.nodes[address] = read_info(answer.value)
        report.facts.append(
            [
                address,
                {"slave": "replica", "master": "master"}.get(info.get("role", ""), "?"),
                _server(info),
                _duration(info),
                _memory(info),
                str(info.get("maxmemory_policy", "?")),
                str(info.get("connected_clients", "?")),
                str(info.get("db0", {}).get("keys", 0)),
                _hit_rate(info),
            ]
        )
        warnings |= dict.fromkeys(_warn(spec, info))

    report.warnings = list(warnings)
    return report


def _list_facts(spec: Spec, info: Info) -> list[list[str]]:
    address = [["address", info["address"]]] if "address" in info else []
    limit = " without limit" if info.get("maxmemory") == 0 else ""
    policy = info.get("maxmemory_policy", "?")
    reads = _reads(info)
    rate = f"{_hit_rate(info)} of {reads} reads" if reads else "no reads"
    database = spec.engine.connection_arguments(spec)["db"] or 0
    return [
        *address,
        ["server", f"{_server(info)}, up {_duration(info)}"],
        ["role", _role(info)],
        ["memory", f"{_memory(info)}{limit}, policy {policy}"],
        ["clients", _clients(info)],
        ["keys", _keys(info, database)],
        ["hit rate", "?" if reads is None else rate],
    ]


def _server(info: Info) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"

    return f"Redis {info.get('redis_version', '?')}"


def _duration(info: Info) -> str:
    if (seconds := info.get("uptime_in_seconds")) is None:
        return "?"

    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400

    if days:
        return f"{days} d {hours % 24} h"

    if hours:
        return f"{hours} h {minutes % 60} min"

    return f"{minutes} min" if minutes else f"{seconds} s"


def _role(info: Info) -> str:
    if info.get("role") == "slave":
        host, port = info.get("master_host", "?"), info.get("master_port", 0)
        master = join_address(host, port)
        return f"replica of {master}, link {info.get('master_link_status', '?')}"

    if info.get("role") != "master":
        return "?"

    count = info.get("connected_slaves", 0)
    return f"master of {count} replica{'' if count == 1 else 's'}"


def _memory(info: Info) -> str:
    used, limit = info.get("used_memory"), info.get("maxmemory")
    text = "?" if used is None else _size(used)
    return f"{text} of {_size(limit)}" if limit else text


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"

        count /= 1024

    return f"{count:.1f} GiB"


def _clients(info: Info) -> str:
    text = f"{info.get('connected_clients', '?')} connected"

    if "maxclients" in info:
        text += f" of at most {info['maxclients']}"

    if info.get("blocked_clients"):
        text += f", {info['blocked_clients']} blocked"

    return text


def _keys(info: Info, own: int) -> str:
    """The keys of each database that has any, and of the prefix's own."""
    names = (name for name in info if name.startswith("db"))
    databases = {int(name[2:]): info[name] for name in names}
    texts = []

    for number in sorted({*databases, own}):
        counts = databases.get(number, {})
        mine = " (this one)" if number == own else ""
        expires = counts.get("expires", 0)
        expiring = f", {expires} expiring" if expires else ""
        texts.append(f"db{number}{mine}: {counts.get('keys', 0)}{expiring}")

    return "; ".join(texts)


def _reads(info: Info) -> int | None:
    """How many reads there were. None if the server does not count them."""
    names = ("keyspace_hits", "keyspace_misses")
    counts = [info[name] for name in names if name in info]
    return sum(counts) if counts else None


def _hit_rate(info: Info) -> str:
    hits, reads = info.get("keyspace_hits", 0), _reads(info)
    return f"{100 * hits / reads:.1f} %" if reads else "-"


def _warn(spec: Spec, info: Info) -> cabc.Iterator[str]:
    policy, limit = info.get("maxmemory_policy"), info.get("maxmemory")

    # A server that does not report its limit may have one.
    if "CACHE" in spec.prefix and (policy == "noeviction" or limit == 0):
        why = "its memory has no limit" if limit == 0 else f"its policy is {policy}"
        yield (
            f"{spec.prefix} looks like a cache, but its server evicts nothing, because"
            f" {why}. It will run out of memory. Set its maxmemory, and set its"
            " maxmemory-policy, for example to allkeys-lru."
        )

    if info.get("cluster_enabled") and not spec.engine.knows_nodes:
        yield (
            f"{spec.prefix} is a single node of a cluster: commands with keys of other"
            " nodes fail. Use a redis+cluster:// URL."
        )

    # Nor is a link down that it does not report.
    if info.get("role") == "slave" and info.get("master_link_status", "up") != "up":
        yield (
            f"A replica of {spec.prefix} has no link to its master, so its data may be"
            " old."
        )

    version = re.match(r"(\d{1,9})\.(\d{1,9})", info.get("redis_version", ""))
    is_old = version is not None and tuple(map(int, version.groups())) < OLDEST

    if is_old and library_name(spec.client_class) == "redis":
        yield (
            f"{_server(info)} is older than {'.'.join(map(str, OLDEST))}, the oldest"
            f" that redis-py {redis.__version__} supports."
        )

"""What a prefix's servers say of themselves, in words for a person."""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import re
import typing as t
from dataclasses import dataclass
from dataclasses import field

import redis

from .clients import find_address
from .config import Settings
from .health import Answer
from .health import ask
from .health import check_timeout
from .health import explain
from .health import make_questions
from .registry import Registry
from .urls import join_address
from .values import library_of

Info = cabc.Mapping[str, t.Any]

# The oldest Redis that redis-py supports, from version 6 on.
OLDEST = (7, 2)


@dataclass
class Report:
    """What there is to tell of one prefix."""

    #: Rows of a table.
    facts: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Each in one line, without secrets.
    errors: list[str] = field(default_factory=list)


def report(
    registry: Registry, prefixes: cabc.Iterable[str], timeout: float
) -> dict[str, Report]:
    """Ask the servers of some prefixes what they are, all at once.

    :param registry: The app's registry.
    :param prefixes: The prefixes.
    :param timeout: Seconds to wait for answers, and as long again for the nodes of each
        cluster, which must be found first.
    :raises ConfigError: If the settings of a prefix are wrong.
    :raises UnknownPrefixError: If the app has no such prefix.
    :raises ValueError: If the timeout is no number of seconds above 0.
    """
    check_timeout(timeout)
    wanted = {it: registry.get_settings(it) for it in prefixes}
    questions = {
        prefix: make_questions(registry, settings, timeout, _ask)
        for prefix, settings in wanted.items()
        if not _is_fake(settings)
    }
    answers = ask(questions, timeout)
    reports: dict[str, Report] = {}

    for prefix, settings in wanted.items():
        answer = answers.get(prefix)

        if answer is None:
            said = "fakeredis, in each process of the app for itself: it has no INFO."
            reports[prefix] = Report([["server", said]])
        elif answer.value is None:
            reports[prefix] = Report(errors=[explain(registry, prefix, answer.error)])
        elif settings.is_cluster:
            nodes = _ask_nodes(registry, settings, answer.value, timeout)
            reports[prefix] = _report_cluster(registry, settings, nodes)
        else:
            facts = _list_facts(settings, answer.value)
            reports[prefix] = Report(facts, list(_warn(settings, answer.value)))

    return reports


def _is_fake(settings: Settings) -> bool:
    return settings.place.scheme == "fakeredis"


def _ask(settings: Settings, client: t.Any) -> Info:
    """INFO of the one server, with its address if sentinels know it; of a cluster the
    nodes, by their addresses.
    """
    if settings.is_cluster:
        return t.cast(Info, client.execute_command("CLUSTER NODES"))

    found = {}

    if settings.service:
        found["address"] = join_address(*find_address(client))

    return {**client.execute_command("INFO"), **found}


def _ask_nodes(
    registry: Registry, settings: Settings, nodes: Info, timeout: float
) -> dict[str, Answer[Info]]:
    """INFO of each node of a cluster, masters first."""
    questions = {}

    for address, node in sorted(nodes.items(), key=_masters_first):
        host, _, port = address.rpartition(":")

        if "noaddr" in node["flags"]:
            continue

        # One that has not been told its own address leaves it out.
        here = (host or settings.nodes[0][0], int(port))
        place = settings.place._replace(nodes=(here,))
        questions[join_address(*here)] = make_questions(
            registry, dataclasses.replace(settings, place=place), timeout, _ask_node
        )

    return ask(questions, timeout)


def _ask_node(settings: Settings, client: t.Any) -> Info:
    return t.cast(Info, client.execute_command("INFO"))


def _masters_first(node: tuple[str, Info]) -> bool:
    return "master" not in node[1]["flags"]


_OF_NODES = [
    "node",
    "role",
    "server",
    "up",
    "memory",
    "evicts",
    "clients",
    "keys",
    "hits",
]


def _report_cluster(
    registry: Registry, settings: Settings, nodes: cabc.Mapping[str, Answer[Info]]
) -> Report:
    """A line for each node, and each warning once."""
    found = Report([_OF_NODES])
    warnings: dict[str, None] = {}

    for address, answer in nodes.items():
        if answer.value is None:
            why = explain(registry, settings.prefix, answer.error)
            found.errors.append(f"{address}: {why}")
            continue

        info = answer.value
        found.facts.append(
            [
                address,
                "replica" if info.get("role") == "slave" else "master",
                _server(info),
                _duration(info),
                _memory(info),
                str(info.get("maxmemory_policy", "?")),
                str(info.get("connected_clients", "?")),
                str(info.get("db0", {}).get("keys", 0)),
                _hit_rate(info),
            ]
        )
        warnings |= dict.fromkeys(_warn(settings, info))

    found.warnings = list(warnings)
    return found


def _list_facts(settings: Settings, info: Info) -> list[list[str]]:
    address = [["address", info["address"]]] if "address" in info else []
    limit = "" if info.get("maxmemory") else " without limit"
    policy = info.get("maxmemory_policy", "?")
    rate = f"{_hit_rate(info)} of {_reads(info)} reads" if _reads(info) else "no reads"
    return [
        *address,
        ["server", f"{_server(info)}, up {_duration(info)}"],
        ["role", _role(info)],
        ["memory", f"{_memory(info)}{limit}, policy {policy}"],
        ["clients", _clients(info)],
        ["keys", _keys(info, settings.connection["db"] or 0)],
        ["hit rate", rate],
    ]


def _server(info: Info) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"

    return f"Redis {info.get('redis_version', '?')}"


def _duration(info: Info) -> str:
    seconds = int(info.get("uptime_in_seconds", 0))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400

    if days:
        return f"{days} d {hours % 24} h"

    if hours:
        return f"{hours} h {minutes % 60} min"

    return f"{minutes} min" if minutes else f"{seconds} s"


def _role(info: Info) -> str:
    if info.get("role") == "slave":
        master = join_address(str(info.get("master_host")), info.get("master_port", 0))
        return f"replica of {master}, link {info.get('master_link_status', '?')}"

    count = info.get("connected_slaves", 0)
    return f"master of {count} replica{'' if count == 1 else 's'}"


def _memory(info: Info) -> str:
    used = _size(int(info.get("used_memory", 0)))
    limit = int(info.get("maxmemory", 0))
    return f"{used} of {_size(limit)}" if limit else used


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"

        count /= 1024

    return f"{count:.1f} GiB"


def _clients(info: Info) -> str:
    found = f"{info.get('connected_clients', '?')} connected"

    if "maxclients" in info:
        found += f" of at most {info['maxclients']}"

    if info.get("blocked_clients"):
        found += f", {info['blocked_clients']} blocked"

    return found


def _keys(info: Info, own: int) -> str:
    """Of each database that has any, and of the prefix's own."""
    names = (name for name in info if re.fullmatch(r"db[0-9]+", name))
    found = {int(name[2:]): info[name] for name in names}
    texts = []

    for number in sorted({*found, own}):
        keys, expires = (found.get(number, {}).get(it, 0) for it in ("keys", "expires"))
        mine = " (this one)" if number == own else ""
        expiring = f", {expires} expiring" if expires else ""
        texts.append(f"db{number}{mine}: {keys}{expiring}")

    return "; ".join(texts)


def _reads(info: Info) -> int:
    return int(info.get("keyspace_hits", 0)) + int(info.get("keyspace_misses", 0))


def _hit_rate(info: Info) -> str:
    rate = 100 * int(info.get("keyspace_hits", 0)) / (_reads(info) or 1)
    return f"{rate:.1f} %" if _reads(info) else "-"


def _warn(settings: Settings, info: Info) -> cabc.Iterator[str]:
    policy, limit = info.get("maxmemory_policy"), info.get("maxmemory")

    if "CACHE" in settings.prefix and (policy == "noeviction" or not limit):
        why = f"its policy is {policy}" if limit else "its memory has no limit"
        yield (
            f"{settings.prefix} looks like a cache, but its server evicts nothing, as"
            f" {why}: in the end it runs out of memory. Set its maxmemory, and its"
            " maxmemory-policy to allkeys-lru or the like."
        )

    version = re.match(r"(\d+)\.(\d+)", str(info.get("redis_version", "")))
    is_old = version is not None and tuple(map(int, version.groups())) < OLDEST

    if is_old and library_of(settings.client_class) == "redis":
        yield (
            f"{_server(info)} is older than {'.'.join(map(str, OLDEST))}, the oldest"
            f" that redis-py {redis.__version__} supports."
        )

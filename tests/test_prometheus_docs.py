"""The queries, alert rules and dashboard of the docs use the metrics that exist."""

from __future__ import annotations

import collections.abc as cabc
import json
import re
import textwrap
import typing as t

import pytest
import yaml
from flask import Flask
from prometheus_client import CollectorRegistry

from flask_and_redis import command_finished
from flask_and_redis import RedisManager
from flask_and_redis.contrib.prometheus import RedisMetrics

from .pages import DOCS
from .pages import literals
from .pages import table

pytestmark = pytest.mark.once

PAGE = (DOCS / "observability.rst").read_text()
RULES = yaml.safe_load((DOCS / "observability" / "alerts.yml").read_text())
DASHBOARD = json.loads((DOCS / "observability" / "dashboard.json").read_text())

# Labels that Prometheus adds.
ADDED = {"job", "instance"}
COMMON = {"flask_app", "prefix"}


class Exported(t.NamedTuple):
    type: str
    labels: set[str]


@pytest.fixture(scope="module")
def exported() -> dict[str, Exported]:
    """The metrics and their labels, by the names of their samples."""
    app = Flask("shop")
    app.config.update(REDIS_URL="fakeredis://", REDIS_MAX_CONNECTIONS=10)
    manager = RedisManager(app)
    registry = CollectorRegistry()
    RedisMetrics(app, registry=registry)

    with app.app_context():
        assert manager.get().set("k", "v")

    values: dict[str, t.Any] = {"commands": ("GET",), "seconds": 1.0, "tries": 2}
    command_finished.send(app, prefix="REDIS", error=ValueError(), **values)
    return {
        sample.name: Exported(family.type, set(sample.labels))
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def expressions() -> cabc.Iterator[tuple[str, str]]:
    """All PromQL expressions of the docs, each with the place where it is."""
    pattern = r"^\.\. code-block:: promql\n\n((?:    .*\n|\n)+)"

    for number, block in enumerate(re.findall(pattern, PAGE, re.M)):
        yield f"query {number}", textwrap.dedent(block)

    for rule in RULES["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]

    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]

    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


EXPRESSIONS = list(expressions())


def names_of(expression: str) -> set[str]:
    return set(re.findall(r"\bflask_and_redis_\w+", expression))


def labels_of(expression: str) -> set[str]:
    """The labels that an expression compares or groups by."""
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    grouped = re.findall(r"\b(?:by|on|without|ignoring) \((.*?)\)", expression)
    asked = re.findall(r"^label_values\(.*, (\w+)\)$", expression)
    return {*matched, *asked, *re.findall(r"\w+", " ".join(grouped))}


@pytest.mark.parametrize(("place", "expression"), EXPRESSIONS)
def test_expressions(
    place: str, expression: str, exported: dict[str, Exported]
) -> None:
    """Each expression has metrics and labels that exist."""
    names = names_of(expression)
    assert names and names <= exported.keys(), place
    labels = set().union(*(exported[name].labels for name in names))
    assert labels_of(expression) <= labels | ADDED, place
    assert expression.count("(") == expression.count(")"), place


def test_expressions_are_found() -> None:
    """The page, the rules and the dashboard have expressions."""
    assert PAGE.count("code-block:: promql") == 6
    assert len(EXPRESSIONS) == 6 + 6 + 13 + 3


def test_table(exported: dict[str, Exported]) -> None:
    """The page's table has all metrics, with their types and labels."""
    documented = {
        literals(row["metric"])[0]: Exported(
            row["type"], {*literals(row["labels"]), *COMMON}
        )
        for row in table("metrics")
    }
    metrics: dict[str, Exported] = {}

    for name, metric in exported.items():
        if metric.type == "histogram":
            name = re.sub("_(bucket|sum|count)$", "", name)

        metrics[name] = metric._replace(labels=metric.labels - {"le"})

    assert metrics == documented


def test_dashboard(exported: dict[str, Exported]) -> None:
    """The dashboard shows each metric. Each of its panels has a title and a place of
    its own, and its variables exist.
    """
    panels = DASHBOARD["panels"]
    shown = names_of(json.dumps(panels))
    hidden = exported.keys() - shown
    assert hidden == {"flask_and_redis_command_duration_seconds_count"}
    places = {
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    }
    areas = [panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels]
    assert len(places) == sum(areas)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(panels)))
    assert used - {"__rate_interval"} == variables


def test_alerts() -> None:
    """Each alert has a condition, a severity and a summary with labels it has."""
    for rule in RULES["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.search(r"[<>=] [\d.]+\s*$", rule["expr"])
        text = " ".join(rule["annotations"].values())
        assert "{{ $labels.prefix }}" in rule["annotations"]["summary"]
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= COMMON

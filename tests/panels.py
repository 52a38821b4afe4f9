"""Draw a Grafana dashboard and its figures as SVG, without Grafana."""

from __future__ import annotations

import collections.abc as cabc
import html
import math
import re
import time
import typing as t

Draw = t.Callable[["Box", t.Any, "list[Series]"], "list[str]"]
Span = tuple[float, float]

WIDTH = 760
GAP = 8
#: Grafana's grid has 24 columns. Its rows are higher, compared to its columns.
COLUMN = (WIDTH - GAP) / 24
ROW = 25
#: Above the first panel: the name of the dashboard and its variables.
TOP = 62

SMALL = 11
#: The mean width of a character in em. Capitals, as in prefixes, are wide.
EM = 0.68

BACKGROUND = "#1b1f25"
PANEL = "#2a2f38"
# All are readable on a panel.
COLORS = (
    *("#7ee08f", "#f0cf65", "#6cb6ff", "#ff8f87"),
    *("#d2a8ff", "#ffb26b", "#5fd7d7", "#e8e8e8"),
)
NAMED = {"green": "#2f8f4e", "red": "#c4423d"}

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
font-family="system-ui, sans-serif" font-size="{small}" role="img">
  <title>{title}</title>
  <style>
    text {{ fill: #d5d9e0; }}
    .name {{ font-size: 17px; font-weight: 600; }}
    .title {{ font-size: 13px; font-weight: 600; }}
    .value {{ font-size: 22px; font-weight: 600; fill: #fff; }}
    .state {{ fill: #fff; }}
    .middle {{ text-anchor: middle; }}
    .end {{ text-anchor: end; }}
    .grid {{ stroke: #444b57; }}
    .line {{ fill: none; stroke-width: 1.5; stroke-linejoin: round; }}
  </style>
  <rect width="{width}" height="{height}" rx="8" fill="{background}"/>
{lines}
</svg>
"""


class Series(t.NamedTuple):
    """The result of a query for one set of labels."""

    name: str
    #: Times and values. Where the query has no value, a time is left out.
    points: list[tuple[float, float]]


class Box(t.NamedTuple):
    """A rectangle, and the time that its width stands for."""

    x: float
    y: float
    width: float
    height: float
    span: Span

    def at(self, when: float) -> float:
        """The horizontal place of a time."""
        start, end = self.span
        return self.x + self.width * (when - start) / (end - start)


class Axis:
    """The vertical axis of a panel, with a few round numbers as ticks.

    :param high: The highest value that it must show.
    :param low: The lowest one. Linear axes start at 0.
    :param is_log: Whether equal distances are equal factors.
    """

    def __init__(self, high: float, low: float, is_log: bool) -> None:
        self.is_log = is_log

        if is_log:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            self.ticks = [10.0**power for power in powers]
            return

        # The smallest of 1, 2, 5, 10, 20, ... that needs at most four steps.
        step = 10.0 ** math.floor(math.log10(high / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if high <= 4 * factor * step)
        self.ticks = [step * number for number in range(math.ceil(high / step) + 1)]

    def share(self, value: float) -> float:
        """How high a value is: 0 is the bottom of the axis, and 1 its top."""
        first, last = self.ticks[0], self.ticks[-1]

        if self.is_log:
            return math.log(value / first) / math.log(last / first)

        return value / last


def show(value: float, unit: str) -> str:
    """Write a value with one of Grafana's units."""
    if unit == "percentunit":
        return f"{100 * value:g} %"

    if unit == "ops":
        return f"{value:g}/s"

    if unit == "s" and value:
        for power, name in ((0, "s"), (-3, "ms"), (-6, "µs")):
            if value >= 10.0**power:
                return f"{value / 10.0**power:g} {name}"

    return f"{value:g}{' s' if unit == 's' else ''}"


def name_series(legend: str, labels: cabc.Mapping[str, str]) -> str:
    """Replace the labels in the legend of a query."""
    return re.sub(r"{{(\w+)}}", lambda match: labels[match[1]], legend)


def write(x: float, y: float, text: str, of_class: str = "") -> str:
    attribute = f' class="{of_class}"' if of_class else ""
    text = html.escape(text, quote=False)
    return f'  <text x="{x:.0f}" y="{y:.0f}"{attribute}>{text}</text>'


def fill(box: Box, color: str) -> str:
    place = f'x="{box.x:.1f}" y="{box.y:.1f}"'
    size = f'width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'  <rect {place} {size} rx="2" fill="{color}"/>'


def mapped(panel: t.Any, value: float) -> tuple[str, str]:
    """The text and the color that a panel shows for a value."""
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    option = mapping["options"][f"{value:g}"]
    return option["text"], NAMED[option["color"]]


def draw_stat(box: Box, panel: t.Any, series: list[Series]) -> list[str]:
    """Draw the last value of each series on its color."""
    lines, width = [], (box.width + GAP) / len(series)

    for number, (name, points) in enumerate(series):
        text, color = mapped(panel, points[-1][1])
        tile = box._replace(x=box.x + number * width, width=width - GAP)
        middle, y = tile.x + tile.width / 2, tile.y + tile.height / 2
        lines += [
            fill(tile, color),
            write(middle, y - 10, name, "legend middle state"),
            write(middle, y + 18, text, "middle value"),
        ]

    return lines


def draw_states(box: Box, panel: t.Any, series: list[Series]) -> list[str]:
    """Draw a bar for each series. Its parts are the times with the same value."""
    lines, left = [], max(len(each.name) for each in series) * SMALL * EM + GAP
    plot = box._replace(x=box.x + left, width=box.width - left, height=box.height - 18)
    height = (plot.height + GAP) / len(series)

    for number, (name, points) in enumerate(series):
        bar = plot._replace(y=plot.y + number * height, height=height - GAP)
        middle = bar.y + bar.height / 2 + 4
        lines.append(write(box.x, middle, name, "legend"))
        starts = [
            point
            for point, before in zip(points, [None, *points], strict=False)
            if before is None or point[1] != before[1]
        ]
        ends = [when for when, _ in starts[1:]] + [points[-1][0]]

        for (start, value), end in zip(starts, ends, strict=True):
            text, color = mapped(panel, value)
            x, width = bar.at(start), bar.at(end) - bar.at(start)
            lines.append(fill(bar._replace(x=x, width=width), color))

            if width > len(text) * SMALL * EM:
                lines.append(write(x + width / 2, middle, text, "middle state"))

    return lines + draw_times(plot)


def draw_times(plot: Box) -> list[str]:
    """Write times below a plot, for as many minutes as there is space for."""
    start, end = plot.span
    shown = next(
        60 * minutes
        for minutes in (1, 2, 5, 10, 30, 60)
        if plot.at(start + 60 * minutes) - plot.x > 42
    )
    times = range(math.ceil(start / shown) * shown, int(end) + 1, shown)
    return [
        write(
            plot.at(when),
            plot.y + plot.height + 15,
            time.strftime("%H:%M", time.gmtime(when)),
            "middle",
        )
        for when in times
        # So that no text is outside of the panel.
        if plot.at(when) < plot.x + plot.width - GAP
    ]


def draw_legend(
    box: Box, names: cabc.Iterable[str], colors: cabc.Sequence[str]
) -> tuple[list[str], float]:
    """Write the names of the series at the bottom. Also returns where they start."""
    rows: list[list[tuple[float, str, str]]] = [[]]
    x = box.x

    for name, color in zip(names, colors, strict=False):
        width = 16 + len(name) * SMALL * EM + GAP

        if rows[-1] and x + width > box.x + box.width + GAP:
            rows.append([])
            x = box.x

        rows[-1].append((x, name, color))
        x += width

    top = box.y + box.height - 16 * len(rows)
    lines = []

    for number, row in enumerate(rows):
        y = top + 16 * number + 12

        for x, name, color in row:
            mark = Box(x, y - 6, 11, 3, box.span)
            lines += [fill(mark, color), write(x + 16, y, name, "legend")]

    return lines, top


def draw_line(plot: Box, axis: Axis, series: Series, color: str, step: float) -> str:
    """Draw the values of a series, with a gap where it has none."""

    def place(value: float) -> float:
        return plot.y + plot.height * (1 - axis.share(value))

    runs: list[list[tuple[float, float]]] = []

    for when, value in series.points:
        if not runs or when - runs[-1][-1][0] > 1.5 * step:
            runs.append([])

        # A straight line needs no points between its ends.
        if len(runs[-1]) > 1 and {each for _, each in runs[-1][-2:]} == {value}:
            runs[-1].pop()

        runs[-1].append((when, value))

    path = "".join(
        "M" + "L".join(f"{plot.at(when):.1f} {place(value):.1f}" for when, value in run)
        for run in runs
    )
    return f'  <path class="line" stroke="{color}" d="{path}"/>'


def draw_lines(box: Box, panel: t.Any, series: list[Series]) -> list[str]:
    """Draw a line for each series, the axes and a legend."""
    defaults = panel["fieldConfig"]["defaults"]
    scale = defaults.get("custom", {}).get("scaleDistribution", {})
    colors = [COLORS[number % len(COLORS)] for number in range(len(series))]
    legend, bottom = draw_legend(box, (each.name for each in series), colors)
    values = [value for each in series for _, value in each.points]
    axis = Axis(max(values) or 1, min(values), scale.get("type") == "log")
    texts = [show(tick, defaults["unit"]) for tick in axis.ticks]
    left = max(map(len, texts)) * SMALL * EM + GAP
    plot = box._replace(
        x=box.x + left, width=box.width - left, height=bottom - box.y - 24
    )
    lines = [*legend, *draw_times(plot)]

    for tick, text in zip(axis.ticks, texts, strict=True):
        y = plot.y + plot.height * (1 - axis.share(tick))
        right = plot.x + plot.width
        lines.append(write(plot.x - GAP, y + 4, text, "end"))
        lines.append(f'  <path class="grid" d="M{plot.x:.1f} {y:.1f}H{right:.1f}"/>')

    times = sorted({when for each in series for when, _ in each.points})
    step = min(later - when for when, later in zip(times, times[1:], strict=False))
    return lines + [
        draw_line(plot, axis, each, color, step)
        for each, color in zip(series, colors, strict=True)
    ]


DRAW: dict[str, Draw] = {
    "stat": draw_stat,
    "state-timeline": draw_states,
    "timeseries": draw_lines,
}


def describe(variables: cabc.Iterable[t.Any]) -> str:
    """Write the variables of a dashboard, with the values that they have at first."""
    values = {"datasource": "Prometheus", "query": "All"}
    texts = [f"{each['label']}: {values[each['type']]}" for each in variables]
    return (3 * "\N{NO-BREAK SPACE}").join(texts)


def draw_dashboard(
    dashboard: t.Any, series: cabc.Mapping[int, list[Series]], span: Span
) -> str:
    """Draw all panels, each at its place in the dashboard's grid.

    :param dashboard: What Grafana imports.
    :param series: The results of each panel's queries, by its ``id``.
    :param span: The first and last moment to show.
    """
    lines = [write(GAP + 4, 25, dashboard["title"], "name")]
    lines.append(
        write(GAP + 4, 47, describe(dashboard["templating"]["list"]), "variables")
    )
    height = 0.0

    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y = GAP + place["x"] * COLUMN, TOP + place["y"] * ROW
        box = Box(x, y, place["w"] * COLUMN - GAP, place["h"] * ROW - GAP, span)
        height = max(height, box.y + box.height + GAP)
        lines.append(fill(box, PANEL))
        lines.append(write(x + 10, y + 19, panel["title"], "title"))
        inside = Box(x + 10, y + 32, box.width - 20, box.height - 40, span)
        lines += DRAW[panel["type"]](inside, panel, series[panel["id"]])

    return SVG.format(
        width=WIDTH,
        height=round(height),
        small=SMALL,
        background=BACKGROUND,
        title=f"The dashboard {dashboard['title']}",
        lines="\n".join(lines),
    )

"""Draw the benchmarks' medians as a picture."""

from __future__ import annotations

import collections.abc as cabc
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

#: For each panel: its title, the measurement and the factor of its unit, and the bars.
PANELS = (
    (
        "look-up of a command, ns",
        ("look-up", 1e9),
        {
            "redis-py": "redis-py",
            "proxy": "Flask-And-Redis",
            "Flask-Redis": "Flask-Redis 0.4",
            "LocalProxy": "LocalProxy",
        },
    ),
    (
        "whole GET, µs",
        ("command", 1e6),
        {"redis-py": "redis-py", "proxy": "Flask-And-Redis"},
    ),
    (
        "requests a second of a view",
        ("view", 1),
        {"redis-py": "redis-py", "proxy": "Flask-And-Redis"},
    ),
)


def draw(
    medians: cabc.Mapping[str, cabc.Mapping[str, float]],
    path: Path,
) -> None:
    """Draw bars side by side.

    :param medians: What was measured, by panel and contestant.
    :param path: Where to save the picture.
    """
    heights = [len(bars) for _, _, bars in PANELS]

    # With a fixed salt, the same figures produce the same file.
    with mpl.rc_context(
        {"svg.hashsalt": "speed", "svg.fonttype": "none", "font.size": 9}
    ):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        panels = figure.subplots(len(PANELS), height_ratios=heights)

        for panel, (title, (name, factor), labels) in zip(panels, PANELS, strict=True):
            values = [medians[name][contestant] * factor for contestant in labels]
            colors = [
                "#a33" if contestant == "proxy" else "#999" for contestant in labels
            ]
            bars = panel.barh(list(labels.values()), values, color=colors)
            panel.bar_label(
                bars, fmt="{:,.0f}" if factor != 1e6 else "{:.1f}", padding=3
            )
            panel.set_title(title, loc="left", fontsize=9)
            panel.invert_yaxis()
            panel.xaxis.set_visible(False)
            panel.spines[["top", "right", "bottom"]].set_visible(False)
            panel.set_xlim(0, max(values) * 1.1)

        figure.savefig(path, metadata={"Date": None})

"""How far runs agree, layer by layer: words, words of graphs, columns that graphs cover, each against chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from workflows.report.lettering import fit_text, font, printable
from workflows.report.selection_figures import Paths, legend_below, save_figure, titled_figure

_WIDTH, _HEIGHT = 8.27, 2.75  # inches: the width of A4
_COLOUR, _CHANCE = "#1f5fa8", "#8a9099"

_PANELS = (
    ("Words: IoU with their match", False, "word_iou", "word_iou_chance"),
    ("Graph words matched in the other graph", True, "matched_share", "matched_chance"),
    ("Columns that the graphs cover: IoU", True, "columns_iou", "columns_shuffled"),
)
"""Heading, whether it is of graphs, value, chance."""


def draw_agreement_figure(
    rows: Sequence[Mapping[str, Any]], layers: Mapping[str, str], network: str, scope: str, paths: Paths
) -> None:
    """One page: dots are pairs of runs (of graphs: means over classes), lines their means, dotted lines chance.

    Args:
        rows: of agreement.parquet, of one scope.
        layers: canonical name in the first run, lowest first, to what it is called.
        network: name of the run.
        scope: whose words.
        paths: PNG and SVG, written atomically.
    """
    runs = list(dict.fromkeys(name for row in rows for name in (row["run"], row["other_run"])))
    heading = fit_text(f"{printable(network)}: do {len(runs)} runs agree?", 72 * _WIDTH - 24, 9.5, bold=True)
    below = fit_text(f"scope {printable(scope)} · {', '.join(map(printable, runs))}", 72 * _WIDTH - 24, 7)
    figure = titled_figure(_WIDTH, _HEIGHT, heading, below)
    for place, (title, of_graphs, value, chance) in enumerate(_PANELS):
        panel = figure.add_axes((0.05 + 0.325 * place, 0.27, 0.285, 0.46))
        panel.set_title(title, fontproperties=font(), fontsize=7.5, loc="left", pad=3)
        own = [row for row in rows if (row["class"] is not None) == of_graphs]
        _draw_panel(panel, own, layers, value, chance)
    marks = [
        Line2D([], [], color=_COLOUR, linewidth=1.4, label="mean of all pairs of runs"),
        Line2D([], [], color=_COLOUR, linewidth=0, marker="o", markersize=2.5, label="a pair of runs"),
        Line2D([], [], color=_CHANCE, linewidth=1.1, linestyle=":", label="chance: shuffled columns, random words"),
    ]
    legend_below(figure, marks)
    save_figure(figure, paths)


def _draw_panel(
    panel: Axes, rows: Sequence[Mapping[str, Any]], layers: Mapping[str, str], value: str, chance: str
) -> None:
    means = [_by_pair([row for row in rows if row["layer"] == layer], value) for layer in layers]
    control = [_by_pair([row for row in rows if row["layer"] == layer], chance) for layer in layers]
    for place, pairs in enumerate(means):
        panel.plot([place] * len(pairs), pairs, "o", color=_COLOUR, markersize=2.5, alpha=0.7)
    places = range(len(layers))
    panel.plot(places, [_mean(pairs) for pairs in means], color=_COLOUR, linewidth=1.4)
    panel.plot(places, [_mean(pairs) for pairs in control], ":", color=_CHANCE, linewidth=1.1)
    panel.set_ylim(-0.02, 1.02)
    panel.set_xlim(-0.3, len(layers) - 0.7)
    panel.set_xticks(places, [fit_text(printable(title), 50, 6) for title in layers.values()])
    panel.tick_params(labelsize=6, length=2)
    panel.grid(axis="y", color="#e4e7eb", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _by_pair(rows: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    """Mean over classes of every pair of runs, where known."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row[column] is not None:
            pairs.setdefault((row["run"], row["other_run"]), []).append(row[column])
    return [float(np.mean(values)) for values in pairs.values()]

"""Accuracy without some units, on a class and on the others, with controls (ICQ Fig. 5 and 6)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from workflows.report.lettering import FAMILY, fit_text, font, longest, printable
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.report.palette import GREY, NO_CLASS
from workflows.storage.atomic import write_bytes

_RANKED = ("#1f5fa8", "#c7803a", "#2f8f57", "#8f4bab", "#caa41a")
_LINES = {"top": "-", "bottom": ":", "random": "--"}
_WIDTH, _PANEL, _TOP = 8.27, 2.0, 0.64  # inches: the width of A4
_LEGEND_LINE, _LEGEND_MARK = 0.15, 45  # inches, and points beside a label
_TITLES = {"own": "the class itself", "others": "all other classes"}


@dataclass(frozen=True)
class Curve:
    """Accuracy by share of silenced units, or by layer.

    Attributes:
        replaced_by, ranking, selection: as in ablations.parquet.
        over: shares (0 to 1), or names of layers.
        accuracy: of ``own`` and ``others``: mean and ends of its interval at each place.
        before: of the plain network.
    """

    replaced_by: str
    ranking: str
    selection: str
    over: tuple[Any, ...]
    accuracy: Mapping[str, tuple[tuple[float, float, float], ...]]
    before: Mapping[str, float]


def draw_ablation_figure(
    curves: Sequence[Curve],
    png: Path,
    svg: Path,
    *,
    network: str,
    over: Literal["share", "layers"],
    share: float | None = None,
) -> None:
    """Draw a row of two panels, own class and others, for each replacement.

    Args:
        curves: all of them.
        png: written atomically.
        svg: written atomically.
        network: name of the run.
        over: what lies along the panels.
        share: of silenced units, where layers lie along the panels.
    """
    kinds = list(dict.fromkeys(curve.replaced_by for curve in curves))
    rankings = [name for name in dict.fromkeys(curve.ranking for curve in curves) if name != "random"]
    colours = {name: _RANKED[place % len(_RANKED)] for place, name in enumerate(rankings)} | {"random": GREY}
    layers = list(dict.fromkeys(place for curve in curves for place in curve.over)) if over == "layers" else []
    foot = 0.45 if over == "share" else longest([printable(name) for name in layers], 6) / 72 + 0.25
    labels = [_label(*named) for named in dict.fromkeys((curve.ranking, curve.selection) for curve in curves)]
    columns = max(1, int((72 * _WIDTH - 20) // (longest(labels, 6.5) + _LEGEND_MARK)))
    top = _TOP + -(-(len(labels) + 1) // columns) * _LEGEND_LINE
    height = top + len(kinds) * (_PANEL + foot)
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    what = "units of all layers" if over == "share" else f"{100 * (share or 0):g} % of the units of one layer"
    heading = fit_text(printable(f"{network}: accuracy without {what}"), 72 * _WIDTH - 20, 10, bold=True)
    figure.text(0.02, 1 - 0.24 / height, heading, fontproperties=font(True), size=10)
    _legend(figure, curves, colours, height, columns)
    under = "mean over classes with its 95 % interval; of fewer than five classes, the mean of their intervals"
    figure.text(0.02, 1 - (top - 0.14) / height, under, fontproperties=font(), size=6.5)
    for row, kind in enumerate(kinds):
        for column, whose in enumerate(_TITLES):
            bottom = height - top - (row + 1) * (_PANEL + foot) + foot
            panel = figure.add_axes((0.07 + 0.49 * column, bottom / height, 0.42, (_PANEL - 0.25) / height))
            some = [curve for curve in curves if curve.replaced_by == kind]
            _draw_panel(panel, some, whose, colours, layers)
            title = f"{_TITLES[whose]}, silenced units say {'their mean' if kind == 'mean' else 'zero'}"
            panel.set_title(title, fontproperties=font(), size=7.5, loc="left", pad=3)
            if over == "share":
                panel.set_xlabel("silenced units of each layer, %", fontproperties=font(), size=6.5, labelpad=1)
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _draw_panel(
    panel: Axes, curves: Sequence[Curve], whose: str, colours: Mapping[str, str], layers: Sequence[str]
) -> None:
    panel.axhline(curves[0].before[whose], color=NO_CLASS, linewidth=1.0)
    # Curves a little beside each other, so that all of their intervals are seen.
    apart = 0.4 / len(curves) * (1.0 if layers else _least_step(curves))
    for place, curve in enumerate(curves):
        values = np.array(curve.accuracy[whose])
        at = np.array([layers.index(place) if layers else 100 * place for place in curve.over], float)
        order = np.argsort(at)
        at, values = at[order] + (place - (len(curves) - 1) / 2) * apart, values[order]
        colour = colours[curve.ranking]
        panel.plot(at, values[:, 0], color=colour, linestyle=_LINES[curve.selection], linewidth=1.1, marker="o", ms=2.2)
        panel.vlines(at, values[:, 1], values[:, 2], color=colour, linewidth=0.7)
    panel.set_ylim(-0.03, 1.03)
    panel.tick_params(labelsize=6, length=2)
    panel.grid(axis="y", color="#e6e8eb", linewidth=0.5)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    if layers:
        names = [printable(name) for name in layers]
        panel.set_xticks(range(len(layers)), names, rotation=90, fontproperties=font(), size=6)
    else:
        panel.set_xticks([100 * place for place in curves[0].over])


def _least_step(curves: Sequence[Curve]) -> float:
    """Between two shares that are shown, in percent."""
    shares = sorted({100 * place for curve in curves for place in curve.over})
    return min((high - low for low, high in itertools.pairwise(shares)), default=1.0)


def _label(ranking: str, selection: str) -> str:
    return "random" if ranking == "random" else f"{printable(ranking)}, {selection}"


def _legend(figure: Figure, curves: Sequence[Curve], colours: Mapping[str, str], height: float, columns: int) -> None:
    shown = dict.fromkeys((curve.ranking, curve.selection) for curve in curves)
    marks = []
    for ranking, selection in shown:
        label = _label(ranking, selection)
        marks.append(Line2D([], [], color=colours[ranking], linestyle=_LINES[selection], label=label, linewidth=1.1))
    marks.append(Line2D([], [], color=NO_CLASS, label="plain network", linewidth=1.0))
    figure.legend(
        handles=marks,
        loc="upper left",
        bbox_to_anchor=(0.015, 1 - 0.3 / height),
        ncols=min(len(marks), columns),
        frameon=False,
        prop=FontProperties(family=FAMILY, size=6.5),
    )

"""One page a class: can this graph be trusted? Effects beside controls, curves, completeness, edges, stability."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from workflows.report.lettering import FAMILY, fit_text, font, longest, printable, short_name
from workflows.report.numbers import percent
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.report.palette import GREY, NO_CLASS
from workflows.storage.atomic import write_bytes
from workflows.storage.fields import LIKELIHOOD

Rows = Sequence[Mapping[str, Any]]

_SELECTIONS = {
    "graph": ("the graph's words", "#1f5fa8"),
    "random": ("as many random columns", GREY),
    "frequent": ("most frequent", "#c7803a"),
    "matched": ("matched in frequency", "#caa41a"),
    "straight": ("straight to the class", "#35b0c4"),
    "log_ratio": ("highest log ratio", "#8f4bab"),
    "lowest": ("lowest score", "#8a5a3b"),
    "effect": ("first-order effect", "#2f8f57"),
}
_RANKINGS = {
    "score": "graph",
    "frequency": "frequent",
    "log_ratio": "log_ratio",
    "effect": "effect",
    "random": "random",
}
_KINDS = {"words": ("words alone", "#1f5fa8"), "error": ("error node", "#d1261f")}
_WIDTH, _SIZE, _COLUMNS = 8.27, 6.5, 4
_TOP, _GAP, _BETWEEN = 1.05, 0.62, 0.42
_EFFECTS, _CURVES, _LAST = 0.95, 1.25, 1.7
"""Inches: of a layer's selections, of a curve, of the last row."""

_FAR = 1.0
"""Below 0 and above 1 of what panels of shares show."""

_UPRIGHT, _APART = 40.0, 6.0
"""Points that an upright name may take, and between names that lie."""


def draw_trust_figure(tables: Mapping[str, Rows], nodes: Rows, png: Path, svg: Path, *, network: str) -> None:
    """Draw what trust found of a class.

    Args:
        tables: by name, the rows of the class.
        nodes: of its graph; stability is drawn where they have ``chosen_again``.
        png: written atomically.
        svg: written atomically.
        network: name of the run.
    """
    effects = [row for row in tables["effects"] if row["half"] == "judged"]
    effects = [row for row in effects if all(row[name] == effects[0][name] for name in ("criterion", "top"))]
    layers = list(dict.fromkeys(row["layer"] for row in effects))
    lines = -(-len(layers) // _COLUMNS)
    heights = [_EFFECTS * len(layers), *[_CURVES] * lines, _LAST]
    total = _TOP + sum(heights) + _GAP * len(heights)
    figure = Figure(figsize=(_WIDTH, total), dpi=DPI, facecolor="white")
    _headings(figure, effects, network, total)
    edge = total - _TOP
    _draw_effects(figure, effects, layers, edge, heights[0], total)
    edge -= heights[0] + _GAP
    for line in range(lines):
        some = layers[::-1][line * _COLUMNS : (line + 1) * _COLUMNS]
        _draw_curves(figure, tables["effect_curves"], some, edge, total, legend=line == 0)
        edge -= _CURVES + _GAP
    _draw_last(figure, tables, nodes, layers, edge, total)
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _headings(figure: Figure, effects: Rows, network: str, total: float) -> None:
    row = effects[0]
    graph = "this graph" if row["criterion"] == LIKELIHOOD else f"this graph by {row['criterion']}"
    heading = f"{printable(network)}, {short_name(printable(row['class_name']))}: can {graph} be trusted?"
    figure.text(
        0.02, 1 - 0.24 / total, fit_text(heading, 72 * _WIDTH - 20, 10, bold=True), fontproperties=font(True), size=10
    )
    whole = max(one["images"] for one in effects)
    by_effect = "" if row["criterion"] == LIKELIHOOD else " (the graph's words were chosen on all images)"
    under = (
        f"What {row['top']} words a layer do to the logit, on {whole} images predicted as the class that chose none"
        f"{by_effect}; lines: 95 % bootstrap intervals"
    )
    figure.text(0.02, 1 - 0.42 / total, fit_text(under, 72 * _WIDTH - 20, _SIZE), fontproperties=font(), size=_SIZE)


def _draw_effects(
    figure: Figure, effects: Rows, layers: Sequence[str], edge: float, height: float, total: float
) -> None:
    interventions = list(dict.fromkeys(row["intervention"] for row in effects))
    left = longest([printable(layer) for layer in layers], _SIZE) / 72 + 0.25
    width = (_WIDTH - left - 0.2 - 0.25 * (len(interventions) - 1)) / len(interventions)
    for place, intervention in enumerate(interventions):
        box = ((left + place * (width + 0.25)) / _WIDTH, (edge - height) / total, width / _WIDTH, height / total)
        panel = figure.add_axes(box)
        rows = [row for row in effects if row["intervention"] == intervention]
        _effect_panel(panel, rows, layers)
        what = "the word goes, the residual stays" if intervention == "shift" else "the layer's mean column"
        _finish(panel, f"{intervention}: {what}", "drop of the class's logit")
        panel.set_yticks(range(len(layers)), [])
        if place == 0:
            panel.set_yticks(range(len(layers)), [_layer_label(rows, layer) for layer in layers])
    marks = [
        Line2D([], [], color=colour, marker="o", ms=3, lw=0.9, label=name) for name, colour in _SELECTIONS.values()
    ]
    _legend(figure, marks, 1 - 0.48 / total, len(marks) // 2)


def _layer_label(rows: Rows, layer: str) -> str:
    """With the share of columns that goes, and a word where the layer is no cut."""
    own = next(row for row in rows if row["layer"] == layer)
    cut = "" if own["is_cut"] else "\nno cut"
    return f"{printable(layer)}\n{percent(own['column_share'])}{cut}"


def _effect_panel(panel: Axes, rows: Rows, layers: Sequence[str]) -> None:
    names = list(_SELECTIONS)
    panel.axvline(0, color=NO_CLASS, lw=0.8)
    for row in rows:
        if row["selection"] not in names:
            continue
        at = layers.index(row["layer"]) + 0.4 - 0.8 * names.index(row["selection"]) / (len(names) - 1)
        colour = _SELECTIONS[row["selection"]][1]
        panel.plot(row["drop"], at, "o", color=colour, ms=3)
        if row["drop_low"] is not None:
            panel.hlines(at, row["drop_low"], row["drop_high"], color=colour, lw=0.9)
    panel.set_ylim(-0.55, len(layers) - 0.45)
    for place in range(1, len(layers)):
        panel.axhline(place - 0.5, color="#e6e8eb", lw=0.6)


def _draw_curves(figure: Figure, curves: Rows, layers: Sequence[str], edge: float, total: float, legend: bool) -> None:
    width = (_WIDTH - 0.65 - _BETWEEN * (_COLUMNS - 1)) / _COLUMNS
    for place, layer in enumerate(layers):
        box = ((0.45 + place * (width + _BETWEEN)) / _WIDTH, (edge - _CURVES) / total, width / _WIDTH, _CURVES / total)
        panel = figure.add_axes(box)
        for ranking, selection in _RANKINGS.items():
            for direction, style in (("deletion", "-"), ("insertion", ":")):
                rows = _where(curves, layer=layer, ranking=ranking, direction=direction)
                at = [row["k"] / row["words"] for row in rows]
                kept = [np.nan if row["kept"] is None else row["kept"] for row in rows]
                panel.plot(at, kept, style, color=_SELECTIONS[selection][1], lw=1.0)
        panel.axhline(0, color=NO_CLASS, lw=0.8)
        panel.axhline(1, color=NO_CLASS, lw=0.8)
        panel.set_xscale("symlog", linthresh=0.05, linscale=0.6)
        panel.set_xticks([0, 0.05, 0.2, 1], ["0", ".05", ".2", "1"])
        panel.minorticks_off()
        _bound(panel)
        _finish(panel, printable(layer), "k / K words" if place else "k / K words, best first")
        if place == 0:
            panel.set_ylabel("share of the logit kept", fontproperties=font(), size=_SIZE, labelpad=1)
    if legend:
        text = "Words taken out (lines), or all others (dots), one after another: by score, frequency, log ratio, "
        figure.text(
            0.02,
            (edge + 0.24) / total,
            text + "effect, random, in the colours above",
            fontproperties=font(),
            size=_SIZE,
        )


def _draw_last(
    figure: Figure, tables: Mapping[str, Rows], nodes: Rows, layers: Sequence[str], edge: float, total: float
) -> None:
    """Completeness, edges, and how stable the nodes are, where that is known."""
    known = [row for row in nodes if row.get("chosen_again") is not None]
    draws: list[tuple[str, Callable[[Axes], None]]] = [
        ("completeness: logit; decisions (open)", lambda panel: _completeness(panel, tables, layers)),
    ]
    if tables["edge_effects"]:
        edges = tables["edge_effects"]
        draws.append(("edges: positions lost, above control", lambda panel: _edges(panel, edges, layers)))
    if known:
        draws.append(("nodes: chosen again in resamplings", lambda panel: _stability(panel, known, layers)))
    width = (_WIDTH - 0.65 - 0.4 * (len(draws) - 1)) / len(draws)
    for place, (title, draw) in enumerate(draws):
        box = ((0.45 + place * (width + 0.4)) / _WIDTH, (edge - _LAST) / total, width / _WIDTH, _LAST / total)
        panel = figure.add_axes(box)
        draw(panel)
        _finish(panel, title, "")


def _completeness(panel: Axes, tables: Mapping[str, Rows], layers: Sequence[str]) -> None:
    panel.axhline(1, color=NO_CLASS, lw=0.8)
    panel.axhline(0, color=NO_CLASS, lw=0.8)
    for side, (kind, (_, colour)) in enumerate(_KINDS.items()):
        for row in _where(tables["completeness"], kind=kind):
            at = layers.index(row["layer"]) + (side - 0.5) * 0.36
            for shift, name, face in ((-0.07, "recovered", colour), (0.07, "same_decision", "white")):
                if row[name] is not None:
                    _interval(panel, at + shift, row, name, colour, face)
    _names(panel, [printable(layer) for layer in layers])
    _bound(panel, room=0.3)  # for the legend
    marks = [Line2D([], [], color=colour, marker="o", ms=3, lw=0, label=name) for name, colour in _KINDS.values()]
    panel.legend(
        handles=marks,
        frameon=False,
        prop=FontProperties(family=FAMILY, size=6),
        loc="upper center",
        ncols=len(marks),
    )


def _bound(panel: Axes, room: float = 0.0) -> None:
    """Shares far from 0 to 1 are of layers whose centre gives the same logit, and would squeeze all others."""
    low, high = panel.get_ylim()
    panel.set_ylim(max(low, -_FAR), min(max(high, 1.0), 1 + _FAR) + room)


def _edges(panel: Axes, rows: Rows, layers: Sequence[str]) -> None:
    panel.axhline(0, color=NO_CLASS, lw=0.8)
    for upper in layers[1:]:
        own = [row for row in rows if row["upper_layer"] == upper and row["excess"] is not None]
        for place, row in enumerate(own):
            at = layers.index(upper) - 1 + (place - (len(own) - 1) / 2) * 0.8 / max(len(own), 1)
            _interval(panel, at, row, "excess", "#1f5fa8", "#1f5fa8")
    pairs = [f"{printable(low)}\nto {printable(high)}" for low, high in itertools.pairwise(layers)]
    _names(panel, pairs)


def _stability(panel: Axes, nodes: Rows, layers: Sequence[str]) -> None:
    panel.axhline(0.5, color=NO_CLASS, lw=0.8, ls="--")
    for layer in layers:
        own = _where(nodes, layer=layer)
        for place, row in enumerate(own):
            at = layers.index(layer) + (place - (len(own) - 1) / 2) * 0.8 / max(len(own), 1)
            panel.plot(at, row["chosen_again"], "o", color="#1f5fa8", ms=3)
    panel.set_ylim(-0.03, 1.03)
    _names(panel, [printable(layer) for layer in layers])


def _interval(panel: Axes, at: float, row: Mapping[str, Any], name: str, colour: str, face: str) -> None:
    if row[f"{name}_low"] is not None:
        panel.vlines(at, row[f"{name}_low"], row[f"{name}_high"], color=colour, lw=0.9)
    panel.plot(at, row[name], "o", color=colour, markerfacecolor=face, ms=3)


def _names(panel: Axes, names: Sequence[str]) -> None:
    """Below a panel; upright where they are too many to lie."""
    room = 72 * _WIDTH * panel.get_position().width / len(names)
    widest = longest([line for name in names for line in name.split("\n")], 6)
    lie = widest + _APART < room
    shown = [name if lie else fit_text(name.split("\n")[-1], _UPRIGHT, 6, middle=True) for name in names]
    panel.set_xticks(range(len(names)), shown, rotation=0 if lie else 90)
    panel.set_xlim(-0.6, len(names) - 0.4)


def _finish(panel: Axes, title: str, under: str) -> None:
    width = 72 * _WIDTH * panel.get_position().width
    panel.set_title(fit_text(title, width, 7.5), fontproperties=font(), size=7.5, loc="left", pad=3)
    panel.set_xlabel(under, fontproperties=font(), size=_SIZE, labelpad=1)
    panel.tick_params(labelsize=6, length=2)
    for label in (*panel.get_xticklabels(), *panel.get_yticklabels()):
        label.set_fontproperties(font())
        label.set_fontsize(6)
    panel.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, marks: Sequence[Line2D], top: float, columns: int) -> None:
    figure.legend(
        handles=list(marks),
        loc="upper left",
        bbox_to_anchor=(0.012, top),
        ncols=columns,
        frameon=False,
        prop=FontProperties(family=FAMILY, size=_SIZE),
    )


def _where(rows: Rows, **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]

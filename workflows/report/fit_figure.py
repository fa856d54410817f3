"""How the dictionaries were learned: held-out log-likelihood after every step, a panel for each layer.

With the discriminative loss a layer has a row of two panels, the second for that loss. The starts of a hidden Markov
model share one panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from workflows.errors import RunFolderError
from workflows.report.lettering import FAMILY, font, printable
from workflows.report.loss_panel import LossCurve, draw_loss_panel, loss_curves
from workflows.report.numbers import MINUS
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.storage.atomic import write_bytes
from workflows.storage.names import CHAIN

_HELD_OUT, _SAMPLE, _TRAIN, _RESEED = "#1f5fa8", "#7ea8d6", "#b8bec6", "#d1261f"
_OTHERS = ("#c7803a", "#5b8f5b", "#8a6fb0", "#4fa3a5", "#a8557a")
"""Starts that were not kept; more of them take the colours again."""
_PASSES_TO_CUT = 3
"""Passes over all held-out images from which what came before the second is cut off."""
_WIDTH, _PANEL_HEIGHT, _CHAIN_HEIGHT = 8.27, 2.3, 3.4  # inches: the width of A4


@dataclass(frozen=True)
class FitCurve:
    """Rows of the history table of one fit, by step: of a layer's mixture, or of one start of a chain.

    ``held_out`` and ``train`` are mean log-likelihoods in nats per column, ``full`` the held-out mean over all
    held-out columns where it was taken (else NaN), ``reseeded`` the re-seeds so far, ``empty`` the words without a
    column in the step's minibatch.
    """

    layer: str
    restart: int
    steps: Int[np.ndarray, " steps"]
    held_out: Float[np.ndarray, " steps"]
    train: Float[np.ndarray, " steps"]
    full: Float[np.ndarray, " steps"]
    reseeded: Int[np.ndarray, " steps"]
    empty: Int[np.ndarray, " steps"]

    @property
    def reached(self) -> float:
        """The last mean over all held-out columns, -inf before the first."""
        known = self.full[~np.isnan(self.full)]
        return float(known[-1]) if len(known) else -np.inf

    @property
    def reseeding(self) -> Bool[np.ndarray, " steps"]:
        """The steps that re-seeded at least one word."""
        return np.diff(self.reseeded, prepend=0) > 0


@dataclass(frozen=True)
class Marker:
    """How a kind of step is marked."""

    shape: str
    edge: str
    face: str
    label: str


def fit_curves(history: pa.Table, scope: str = "joint") -> list[FitCurve]:
    """The likelihoods of a scope in the table's order of layers, then by restart, each sorted by step.

    Raises:
        RunFolderError: the scope has no rows.
    """
    rows = history.filter(pc.and_(pc.equal(history["scope"], scope), pc.equal(history["phase"], "generative")))
    if not rows.num_rows:
        raise RunFolderError(f"scope {scope!r} has no rows in the history table: run the fit stage")
    curves = []
    for layer in rows["layer"].unique().to_pylist():
        of_layer = rows.filter(pc.equal(rows["layer"], layer))
        for restart in sorted(of_layer["restart"].unique().to_pylist()):
            curves.append(_curve(of_layer.filter(pc.equal(of_layer["restart"], restart)), layer, restart))
    return curves


def draw_fit_figure(
    history: pa.Table, png: Path, svg: Path, *, scope: str = "joint", layer_titles: Mapping[str, str] | None = None
) -> None:
    """Draw the history table as PNG and SVG.

    Args:
        history: held-out and training log-likelihood, and losses, per step and layer.
        png: written atomically.
        svg: written atomically.
        scope: which dictionaries.
        layer_titles: shorter names of layers, in the order of the panels; other layers follow.

    Raises:
        RunFolderError: the scope has no rows.
    """
    titles = dict(layer_titles or {})
    ranks = {layer: rank for rank, layer in enumerate(titles)}
    curves = sorted(fit_curves(history, scope), key=lambda curve: ranks.get(curve.layer, len(ranks)))
    figure = _figure(curves, loss_curves(history, scope), titles)
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _curve(rows: pa.Table, layer: str, restart: int) -> FitCurve:
    rows = rows.sort_by("step")

    def column(name: str, kind: type) -> np.ndarray:
        values = rows[name].to_pylist()
        return np.array([np.nan if value is None else value for value in values], dtype=kind)

    return FitCurve(
        layer=layer,
        restart=restart,
        steps=column("step", np.int64),
        held_out=column("held_out_log_likelihood", np.float64),
        train=column("train_log_likelihood", np.float64),
        full=column("held_out_full", np.float64),
        reseeded=column("reseeded", np.int64),
        empty=column("empty", np.int64),
    )


def _figure(curves: list[FitCurve], losses: Mapping[str, LossCurve], titles: Mapping[str, str]) -> Figure:
    starts = [curve for curve in curves if curve.layer == CHAIN]
    if starts:
        return _chain_figure(starts)
    return _losses_figure(curves, losses, titles) if losses else _layers_figure(curves, titles)


def _layers_figure(curves: list[FitCurve], titles: Mapping[str, str]) -> Figure:
    rows = -(-len(curves) // 2)
    figure = _panel_page(rows, "Log-likelihood while the dictionaries were learned, nats per column")
    for index, curve in enumerate(curves):
        _draw_panel(_panel(figure, rows, index), curve, printable(titles.get(curve.layer, curve.layer)))
    return figure


def _losses_figure(curves: list[FitCurve], losses: Mapping[str, LossCurve], titles: Mapping[str, str]) -> Figure:
    """A row for each layer: the likelihood, then the loss, whose title has no room for the layer's name."""
    heading = "Learning the dictionaries: log-likelihood, nats per column (left); then loss, nats per image (right)"
    figure = _panel_page(len(curves), heading)
    for row, curve in enumerate(curves):
        title = printable(titles.get(curve.layer, curve.layer))
        _draw_panel(_panel(figure, len(curves), 2 * row), curve, title)
        if curve.layer in losses:
            panel = _panel(figure, len(curves), 2 * row + 1)
            draw_loss_panel(panel, losses[curve.layer])
            _finish_panel(panel, losses[curve.layer].summary, "upper right")
    return figure


def _panel_page(rows: int, heading: str) -> Figure:
    return _page(rows * _PANEL_HEIGHT + 0.35, heading)


def _panel(figure: Figure, rows: int, index: int) -> Axes:
    """The panel of a place, two in a row."""
    height = rows * _PANEL_HEIGHT + 0.35
    left, bottom = 0.085 + 0.5 * (index % 2), (0.42 + (rows - 1 - index // 2) * _PANEL_HEIGHT) / height
    return figure.add_axes((left, bottom, 0.4, (_PANEL_HEIGHT - 0.7) / height))


def _draw_panel(panel: Axes, curve: FitCurve, title: str) -> None:
    panel.plot(curve.steps, curve.train, color=_TRAIN, linewidth=0.8, label="training minibatch")
    panel.plot(curve.steps, curve.held_out, color=_HELD_OUT, linewidth=1.3, label="held-out sample")
    _mark(panel, curve, np.isfinite(curve.full), curve.full, Marker("o", _HELD_OUT, "white", "all held-out columns"))
    _mark(panel, curve, curve.reseeding, curve.held_out, Marker("^", _RESEED, _RESEED, "words re-seeded"))
    _finish_panel(panel, f"{title}: {_summary(curve)}")
    _cut_first_tenth(panel, curve)


def _cut_first_tenth(panel: Axes, curve: FitCurve) -> None:
    """The first steps climb so far that on one axis with them nothing is seen of the rest."""
    later = curve.steps >= curve.steps[0] + 0.1 * (curve.steps[-1] - curve.steps[0])
    values = np.concatenate([part[later] for part in (curve.train, curve.held_out, curve.full)])
    every = np.concatenate([curve.train, curve.held_out])
    values, every = values[np.isfinite(values)], every[np.isfinite(every)]
    if not len(values) or values.min() - every.min() < 0.5 * np.ptp(values):
        return
    spread = float(np.ptp(values)) or 1.0
    panel.set_ylim(values.min() - 0.5 * spread, values.max() + 0.06 * spread)  # with room for the legend
    panel.set_xlabel(f"{panel.get_xlabel()}; the first steps lie below")


def _chain_figure(starts: list[FitCurve]) -> Figure:
    """All starts in one panel as wide as the page, judged on all held-out images; the kept one with its steps."""
    height = _CHAIN_HEIGHT + 0.35
    figure = _page(height, "Log-likelihood while the hidden Markov model was learned, nats per image")
    panel = figure.add_axes((0.085, 0.42 / height, 0.9, (_CHAIN_HEIGHT - 0.7) / height))
    kept = max(starts, key=lambda curve: curve.reached)
    panel.plot(kept.steps, kept.train, color=_TRAIN, linewidth=0.7, label=f"training minibatch, start {kept.restart}")
    panel.plot(kept.steps, kept.held_out, color=_SAMPLE, linewidth=0.9, label=f"held-out sample, start {kept.restart}")
    others = [curve for curve in starts if curve is not kept]
    for curve, color in [*zip(others, cycle(_OTHERS)), (kept, _HELD_OUT)]:
        chosen, passes = curve is kept, np.isfinite(curve.full)
        panel.plot(
            curve.steps[passes],
            curve.full[passes],
            color=color,
            linewidth=1.6 if chosen else 0.9,
            marker="o",
            markersize=4.2 if chosen else 3,
            markerfacecolor=color if chosen else "white",
            label=f"all held-out images, start {curve.restart}{' (kept)' if chosen else ''}",
        )
    _finish_panel(panel, f"chain: {_chain_summary(starts, kept)}")
    _cut_first_steps(panel, starts)
    return figure


def _cut_first_steps(panel: Axes, starts: list[FitCurve]) -> None:
    """Random words lie thousands of nats below fitted ones; on one axis with them all starts would look the same."""
    passes = [curve.full[np.isfinite(curve.full)] for curve in starts]
    if min(len(values) for values in passes) < _PASSES_TO_CUT:
        return
    lowest = min(float(values[1]) for values in passes)
    samples = [curve.held_out[curve.held_out >= lowest] for curve in starts]
    highest = max(float(values.max()) for values in (*samples, *passes) if len(values))
    if highest > lowest:
        room = 0.06 * (highest - lowest)
        panel.set_ylim(lowest - room, highest + 3 * room)
        panel.set_xlabel(f"{panel.get_xlabel()}; what lies below {_number(lowest - room, 0)} is cut off")


def _chain_summary(starts: list[FitCurve], kept: FitCurve) -> str:
    values = ", ".join(f"{curve.restart}: {_number(curve.reached, 1)}" for curve in starts)
    return f"start {kept.restart} of {len(starts)} kept; all held-out images at the end of start {values}"


def _page(height: float, heading: str) -> Figure:
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    figure.text(0.02, 1 - 0.24 / height, heading, fontproperties=font(True), size=10)
    return figure


def _finish_panel(panel: Axes, title: str, legend: str = "lower right") -> None:
    panel.legend(loc=legend, frameon=False, prop=FontProperties(family=FAMILY, size=6))
    panel.set_title(title, fontproperties=font(), fontsize=7.5, loc="left")
    panel.set_xlabel("step (global minibatches)", fontproperties=font(), fontsize=6.5, labelpad=1)
    panel.tick_params(labelsize=6.5, length=2.5)
    panel.grid(color="#e4e7eb", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _mark(
    panel: Axes, curve: FitCurve, where: Bool[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], marker: Marker
) -> None:
    """Unconnected marks at some steps; no legend entry where there are none."""
    if not where.any():
        return
    panel.plot(
        curve.steps[where],
        values[where],
        linestyle="none",
        marker=marker.shape,
        markersize=4.2,
        color=marker.edge,
        markerfacecolor=marker.face,
        label=marker.label,
    )


def _summary(curve: FitCurve) -> str:
    known = curve.held_out[np.isfinite(curve.held_out)]
    last = _number(known[-1], 3) if len(known) else "–"
    reseeds, empty = int(curve.reseeded[-1]), int(curve.empty[-1])
    return f"{last} held out, {reseeds} re-seed{'' if reseeds == 1 else 's'}, {empty} empty"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", MINUS)

"""How the dictionaries were learned: held-out log-likelihood after every step, a panel for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from workflows.report.numbers import MINUS
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.storage.atomic import write_bytes

_HELD_OUT, _TRAIN, _RESEED = "#1f5fa8", "#b8bec6", "#d1261f"
_WIDTH, _PANEL_HEIGHT = 8.27, 2.3  # inches: the width of A4


@dataclass(frozen=True)
class FitCurve:
    """Rows of the history table of one layer, by step.

    ``held_out`` and ``train`` are mean log-likelihoods in nats per column, ``full`` the held-out mean over all
    held-out columns where it was taken (else NaN), ``reseeded`` the re-seeds so far, ``empty`` the words without a
    column in the step's minibatch.
    """

    layer: str
    steps: Int[np.ndarray, " steps"]
    held_out: Float[np.ndarray, " steps"]
    train: Float[np.ndarray, " steps"]
    full: Float[np.ndarray, " steps"]
    reseeded: Int[np.ndarray, " steps"]
    empty: Int[np.ndarray, " steps"]

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
    """The curves of a scope in the table's order of layers, each sorted by step.

    Raises:
        RunFolderError: the scope has no rows.
    """
    rows = history.filter(pc.equal(history["scope"], scope))
    if not rows.num_rows:
        raise RunFolderError(f"scope {scope!r} has no rows in the history table: run the fit stage")
    return [_curve(rows.filter(pc.equal(rows["layer"], layer)), layer) for layer in rows["layer"].unique().to_pylist()]


def draw_fit_figure(
    history: pa.Table, png: Path, svg: Path, *, scope: str = "joint", layer_titles: Mapping[str, str] | None = None
) -> None:
    """Draw the history table as PNG and SVG.

    Args:
        history: held-out and training log-likelihood per step and layer.
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
    figure = _figure(curves, titles)
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _curve(rows: pa.Table, layer: str) -> FitCurve:
    rows = rows.sort_by("step")

    def column(name: str, kind: type) -> np.ndarray:
        values = rows[name].to_pylist()
        return np.array([np.nan if value is None else value for value in values], dtype=kind)

    return FitCurve(
        layer=layer,
        steps=column("step", np.int64),
        held_out=column("held_out_log_likelihood", np.float64),
        train=column("train_log_likelihood", np.float64),
        full=column("held_out_full", np.float64),
        reseeded=column("reseeded", np.int64),
        empty=column("empty", np.int64),
    )


def _figure(curves: list[FitCurve], titles: Mapping[str, str]) -> Figure:
    rows = -(-len(curves) // 2)
    height = rows * _PANEL_HEIGHT + 0.35
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    heading = "Log-likelihood while the dictionaries were learned, nats per column"
    figure.text(0.02, 1 - 0.24 / height, heading, fontproperties=font(True), size=10)
    for index, curve in enumerate(curves):
        left, bottom = 0.085 + 0.5 * (index % 2), (0.42 + (rows - 1 - index // 2) * _PANEL_HEIGHT) / height
        panel = figure.add_axes((left, bottom, 0.4, (_PANEL_HEIGHT - 0.7) / height))
        _draw_panel(panel, curve, printable(titles.get(curve.layer, curve.layer)))
    return figure


def _draw_panel(panel: Axes, curve: FitCurve, title: str) -> None:
    panel.plot(curve.steps, curve.train, color=_TRAIN, linewidth=0.8, label="training minibatch")
    panel.plot(curve.steps, curve.held_out, color=_HELD_OUT, linewidth=1.3, label="held-out sample")
    _mark(panel, curve, np.isfinite(curve.full), curve.full, Marker("o", _HELD_OUT, "white", "all held-out columns"))
    _mark(panel, curve, curve.reseeding, curve.held_out, Marker("^", _RESEED, _RESEED, "words re-seeded"))
    panel.legend(loc="lower right", frameon=False, prop=FontProperties(family=FAMILY, size=6))
    panel.set_title(f"{title}: {_summary(curve)}", fontproperties=font(), fontsize=7.5, loc="left")
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
    last = f"{known[-1]:.3f}".replace("-", MINUS) if len(known) else "–"
    reseeds, empty = int(curve.reseeded[-1]), int(curve.empty[-1])
    return f"{last} held out, {reseeds} re-seed{'' if reseeds == 1 else 's'}, {empty} empty"

"""A sweep as a figure: errors over the number of words, a panel a layer (IG Fig. 4 right), and likelihoods below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from workflows.errors import RunFolderError
from workflows.report.lettering import FAMILY, fit_text, font, printable
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.storage.atomic import write_bytes

_COLORS = {"generative": "#c7803a", "discriminative": "#1f5fa8"}
_NETWORK, _CRITERION = "#1a1a1a", "#5b8f5b"
_LINES = {"soft": "-", "hard": ":"}
_COLUMNS = 3
_WIDTH, _PANEL_HEIGHT, _TOP, _BOTTOM, _GAP = 8.27, 1.95, 0.62, 0.0, 0.2  # inches: the width of A4

_TITLE = 175.0  # points that a panel's title may take


@dataclass(frozen=True)
class SweepCurve:
    """One layer, loss and kind of histogram over the number of words.

    Attributes:
        words: (n,) K, ascending.
        error: (n,) share of the validation images.
        low, high: (n,) ends of the paired 95 % interval of error minus the generative error; NaN in generative curves.
        tie: (n,) whether that interval holds 0.
    """

    words: Int[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    tie: Bool[np.ndarray, " n"]


def sweep_curve(rows: pa.Table, given: str, loss: str, histogram: str | None) -> SweepCurve:
    """The curve of a layer by its name in the preset; empty if it was not measured."""
    kept = _rows(rows, given, loss, histogram)
    return SweepCurve(
        np.array(kept["words"].to_pylist(), np.int64),
        _floats(kept, "error"),
        _floats(kept, "difference_low"),
        _floats(kept, "difference_high"),
        np.array([bool(value) for value in kept["tie"].to_pylist()], bool),
    )


def draw_sweep_figure(rows: pa.Table, png: Path, svg: Path, *, network: str) -> None:
    """Draw sweep.parquet as PNG and SVG.

    Args:
        rows: the table.
        png: written atomically.
        svg: written atomically.
        network: name of the run.

    Raises:
        RunFolderError: the table is empty.
    """
    layers = list(dict.fromkeys(rows["given"].to_pylist()))
    if not layers:
        raise RunFolderError("the sweep table is empty: run the sweep")
    figure = _figure(rows, layers, network)
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))


def _figure(rows: pa.Table, layers: list[str], network: str) -> Figure:
    measured = rows["error"].null_count < len(rows)
    blocks = ["error", "likelihood"] if measured else ["likelihood"]
    lines = -(-len(layers) // _COLUMNS)
    height = _TOP + _BOTTOM + len(blocks) * (lines * _PANEL_HEIGHT + _GAP)
    figure = Figure(figsize=(_WIDTH, height), dpi=DPI, facecolor="white")
    top = 0.24
    heading = f"{printable(network)}: what K words a layer carry"
    figure.text(0.02, 1 - top / height, heading, fontproperties=font(True), size=10)
    edge = _TOP - 0.1
    for block in blocks:
        _block_heading(figure, block, rows, edge, height)
        for place, layer in enumerate(layers):
            row, column = divmod(place, _COLUMNS)
            bottom = height - edge - _GAP - (row + 1) * _PANEL_HEIGHT + 0.45
            box = (0.07 + column * 0.325, bottom / height, 0.235, (_PANEL_HEIGHT - 0.72) / height)
            panel = figure.add_axes(box)
            (_draw_errors if block == "error" else _draw_likelihoods)(panel, rows, layer)
        edge += lines * _PANEL_HEIGHT + _GAP
    return figure


def _block_heading(figure: Figure, block: str, rows: pa.Table, edge: float, height: float) -> None:
    if block == "error":
        image_counts = [count for count in rows["images"].to_pylist() if count is not None]
        text = f"Errors of a linear layer on word histograms, share of {image_counts[0]:,} validation images"
        figure.legend(
            handles=_error_marks(),
            loc="upper right",
            bbox_to_anchor=(0.99, 1 - 0.08 / height),
            ncols=3,
            frameon=False,
            prop=FontProperties(family=FAMILY, size=6),
        )
    else:
        text = "Likelihood of the generative words: held-out columns (left axis) and BIC a column (right axis)"
    figure.text(0.02, 1 - (edge + 0.06) / height, text, fontproperties=font(), size=8)


def _error_marks() -> list[Line2D]:
    lines = [
        Line2D([], [], color=_COLORS[loss], linestyle=_LINES[histogram], label=f"{loss}, {histogram}", marker=mark)
        for loss, mark in (("generative", "s"), ("discriminative", "o"))
        for histogram in ("soft", "hard")
    ]
    for line in lines:
        line.set_markersize(3 if line.get_linestyle() == "-" else 0)
    bar = Line2D([], [], color=_COLORS["discriminative"], linewidth=0.8, marker="|", markersize=7, linestyle="none")
    bar.set_label("95 % of the paired difference; open: tie")
    own = Line2D([], [], color=_NETWORK, linewidth=0.9, linestyle="--", label="the network's own error")
    return [*lines, own, bar]


def _draw_errors(panel: Axes, rows: pa.Table, layer: str) -> None:
    for loss, color in _COLORS.items():
        for histogram, line in _LINES.items():
            curve = sweep_curve(rows, layer, loss, histogram)
            panel.plot(curve.words, curve.error, color=color, linestyle=line, linewidth=1.1 if line == "-" else 0.9)
    generative = sweep_curve(rows, layer, "generative", "soft")
    trained = sweep_curve(rows, layer, "discriminative", "soft")
    panel.plot(generative.words, generative.error, "s", color=_COLORS["generative"], markersize=3)
    blue = _COLORS["discriminative"]
    # Around the generative error: where the bar leaves out that curve, the two differ.
    panel.vlines(trained.words, generative.error + trained.low, generative.error + trained.high, color=blue, lw=0.8)
    for tie in (False, True):
        chosen = trained.tie == tie
        face = "white" if tie else blue
        panel.plot(trained.words[chosen], trained.error[chosen], "o", color=blue, markerfacecolor=face, markersize=3.4)
    own = float(next(value for value in rows["network_error"].to_pylist() if value is not None))
    panel.axhline(own, color=_NETWORK, linewidth=0.9, linestyle="--")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    _finish(panel, layer, trained.words)


def _draw_likelihoods(panel: Axes, rows: pa.Table, layer: str) -> None:
    kept = rows.filter(pc.and_(pc.equal(rows["given"], layer), pc.equal(rows["loss"], "generative")))
    kept = kept.filter(pc.fill_null(pc.not_equal(kept["histogram"], "hard"), True)).sort_by("words")
    words = np.array(kept["words"].to_pylist(), np.int64)
    panel.plot(words, _floats(kept, "held_out_log_likelihood"), "s-", color=_COLORS["generative"], lw=1.1, ms=3)
    other = panel.twinx()
    criterion = _floats(kept, "bic") / _floats(kept, "columns")
    other.plot(words, criterion, "^-", color=_CRITERION, lw=1.1, ms=3)
    best = int(np.argmin(criterion))
    other.plot(words[best], criterion[best], "^", color=_CRITERION, markerfacecolor="white", ms=5)
    other.tick_params(labelsize=6, length=2, colors=_CRITERION)
    other.spines[["top", "left"]].set_visible(False)
    panel.tick_params(axis="y", colors=_COLORS["generative"])
    most = ", the largest" if best == len(words) - 1 else ""
    _finish(panel, f"{layer}: lowest BIC at K = {words[best]}{most}", words)


def _finish(panel: Axes, title: str, words: Int[np.ndarray, " n"]) -> None:
    panel.set_title(
        fit_text(printable(title), _TITLE, 7.5, middle=True), fontproperties=font(), fontsize=7.5, loc="left"
    )
    panel.set_xlabel("K, words", fontproperties=font(), fontsize=6.5, labelpad=1)
    panel.set_xscale("log")
    panel.set_xticks(words.tolist(), [str(count) for count in words])
    panel.minorticks_off()
    panel.tick_params(labelsize=6, length=2)
    panel.grid(color="#e4e7eb", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _rows(rows: pa.Table, given: str, loss: str, histogram: str | None) -> pa.Table:
    kept = rows.filter(pc.and_(pc.equal(rows["given"], given), pc.equal(rows["loss"], loss)))
    wanted = pc.is_null(kept["histogram"]) if histogram is None else pc.equal(kept["histogram"], histogram)
    return kept.filter(wanted).sort_by("words")


def _floats(rows: pa.Table, name: str) -> Float[np.ndarray, " n"]:
    values: list[Any] = rows[name].to_pylist()
    return np.array([np.nan if value is None else value for value in values], np.float64)

"""What selected units see: patches over images, coloured by depth; a sheet of patches; selections over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from workflows.report.lettering import FAMILY, fit_text, font, printable, short_name
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.report.pictures import PictureFolder
from workflows.storage.atomic import write_bytes

Paths = tuple[Path, Path]
"""Of the PNG and the SVG."""

METRIC_NAMES = {
    "correlation": "correlation",
    "precision": "precision",
    "mean_square_over_variance": "mean² / variance",
    "directional": "directional",
    "activation_sum": "activation sum",
    "activation_variance": "activation variance",
    "weight_sum": "weight sum",
    "weight_variance": "weight variance",
    "random": "random units",
}

_WIDTH = 8.27  # inches: the width of A4
_COLOURS = ("#1f5fa8", "#c7803a", "#5b8f5b", "#8f4bab", "#b0455a", "#4a8f9c", "#8a5a3b", "#caa41a", "#8a9099")


def depth_colours(layers: Sequence[str]) -> dict[str, str]:
    """A colour a layer, from blue (low) to red (high)."""
    scale = matplotlib.colormaps["turbo"]
    return {layer: to_hex(scale(0.08 + 0.84 * place / max(len(layers) - 1, 1))) for place, layer in enumerate(layers)}


def draw_overlays(
    rows: pa.Table,
    pictures: PictureFolder,
    layers: Mapping[str, str],
    metrics: Sequence[str],
    top: int,
    network: str,
    paths: Paths,
) -> None:
    """Images with the patches of every metric's best units, boxes coloured by depth (IR Fig. 4).

    Args:
        rows: of selections.parquet, of the images that are shown.
        pictures: saved crops.
        layers: canonical name, lowest first, to what it is called.
        metrics: a column each.
        top: units a layer.
        network: name of the run.
        paths: written atomically.
    """
    own = _of(rows, top)
    images = list(dict.fromkeys(row["image"] for row in own))
    if not images:
        return
    side = (_WIDTH - 0.3) / len(metrics)
    top_inches, bottom = 0.52, 0.34
    height = top_inches + len(images) * (side + 0.16) + bottom
    figure = titled_figure(_WIDTH, height, f"{printable(network)}: what the best {top} units of each layer see")
    colours = depth_colours(list(layers))
    for line, image in enumerate(images):
        edge = height - top_inches - line * (side + 0.16)
        for column, metric in enumerate(metrics):
            kept = [row for row in own if (row["image"], row["metric"]) == (image, metric)]
            panel = figure.add_axes((_share(0.15 + column * side, _WIDTH), (edge - side) / height,
                                     (side - 0.05) / _WIDTH, (side - 0.05) / height))  # fmt: skip
            show_picture(panel, pictures.read(image))
            for row in kept:
                if row["x0"] is not None:
                    _frame(panel, row, colours[row["layer"]])
            if not line:
                title = fit_text(METRIC_NAMES[metric], 72 * side + 4, 5.8)
                panel.set_title(title, fontproperties=font(), fontsize=5.8, pad=2)
        first = next(row for row in own if row["image"] == image)
        label = f"image {image}, {short_name(first['class_name'] or '')}"
        figure.text(0.018, (edge - side - 0.02) / height, label, fontproperties=font(), size=6, va="top")
    marks = [Line2D([], [], color=colours[name], linewidth=2, label=given) for name, given in layers.items()]
    legend_below(figure, marks, "layer ")
    save_figure(figure, paths)


def draw_patches(
    rows: pa.Table,
    pictures: PictureFolder,
    layers: Mapping[str, str],
    metrics: Sequence[str],
    top: int,
    image: int,
    paths: Paths,
) -> None:
    """The patches of one image as a table, a line a layer (IR: seven layers, five patches); see ``draw_overlays``."""
    own = [row for row in _of(rows, top) if row["image"] == image]
    if not own:
        return
    columns = len(metrics) * top
    cell = min(0.8, (_WIDTH - 0.95) / max(columns, 1))
    height = 0.85 + len(layers) * (cell + 0.13) + 0.05
    name = short_name(own[0]["class_name"] or "")
    figure = titled_figure(
        _WIDTH, height, f"image {image}, {name}: what the best {top} units see", "each with its number"
    )
    picture = pictures.read(image)
    for number, metric in enumerate(metrics):
        left = 0.7 + number * (top * cell + 0.15)
        figure.text(left / _WIDTH, 1 - 0.66 / height, METRIC_NAMES[metric], fontproperties=font(True), size=7)
        for line, (layer, given) in enumerate(layers.items()):
            edge = height - 0.8 - line * (cell + 0.13)
            if not number:
                label = fit_text(printable(given), 40, 6)
                figure.text(0.02, (edge - cell / 2) / height, label, fontproperties=font(), size=6)
            for row in own:
                if (row["layer"], row["metric"]) != (layer, metric):
                    continue
                box = ((left + row["rank"] * cell) / _WIDTH, (edge - cell + 0.04) / height)
                panel = figure.add_axes((*box, (cell - 0.06) / _WIDTH, (cell - 0.06) / height))
                _patch(panel, picture, row)
    save_figure(figure, paths)


def draw_epochs(
    agreement: pa.Table, secondary: pa.Table, checkpoints: Sequence[str], top: int, network: str, paths: Paths
) -> None:
    """How far selections change while the network is trained, and how well their patches tell classes (IR Fig. 2, 3).

    Args:
        agreement: selection_epochs.parquet.
        secondary: secondary.parquet.
        checkpoints: in the order of training; the run's own weights, which follow, are not among them.
        top: units a layer.
        network: name of the run.
        paths: written atomically.
    """
    order = [*checkpoints, "run"]
    figure = titled_figure(_WIDTH, 3.1, f"{printable(network)}: selections of the best {top} units while it is trained")
    steps = steps_of(agreement, order, top)
    accuracy = {(row["metric"], row["checkpoint"] or "run"): row for row in secondary.to_pylist() if row["top"] == top}
    panels = (
        ("Jaccard with the checkpoint before", steps, "agreement"),
        ("Accuracy of a classifier of the patches", accuracy, "accuracy"),
    )
    for place, (title, found, value) in enumerate(panels):
        panel = figure.add_axes((0.07 + 0.5 * place, 0.26, 0.41, 0.54))
        _curves(panel, found, value, order)
        panel.set_title(title, fontproperties=font(), fontsize=7.5, loc="left", pad=3)
    marks = [
        Line2D([], [], color=_COLOURS[place % len(_COLOURS)], linewidth=1.4, label=METRIC_NAMES[metric])
        for place, metric in enumerate(METRIC_NAMES)
        if any(key[0] == metric for key in (*steps, *accuracy))
    ]
    marks.append(Line2D([], [], color="#444444", linewidth=1, linestyle=":", label="chance"))
    legend_below(figure, marks)
    save_figure(figure, paths)


def steps_of(agreement: pa.Table, order: Sequence[str], top: int) -> dict[tuple[str, str], dict[str, Any]]:
    """By metric and checkpoint: the row of all layers that compares it with the one before; the first has none."""
    steps = set(zip(order[1:], order[:-1], strict=True))
    return {
        (row["metric"], row["checkpoint"]): row
        for row in agreement.to_pylist()
        if row["layer"] is None and row["top"] == top and (row["checkpoint"], row["compared"]) in steps
    }


def _curves(panel: Axes, found: Mapping[tuple[str, str], dict[str, Any]], value: str, order: Sequence[str]) -> None:
    places = {name: x for x, name in enumerate(order)}
    for number, metric in enumerate(METRIC_NAMES):
        own = sorted((places[name], row) for (of, name), row in found.items() if of == metric)
        known = [(x, row) for x, row in own if row[value] is not None]
        if known:
            x = np.array([one for one, _ in known])
            mean, low, high = (
                np.array([np.nan if row[name] is None else row[name] for _, row in known], float)
                for name in (value, f"{value}_low", f"{value}_high")
            )
            colour = _COLOURS[number % len(_COLOURS)]
            panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            panel.plot(x, mean, color=colour, linewidth=1.3, marker="o", markersize=2.5)
    chance = [(places[name], row.get("chance", row.get("majority"))) for (_, name), row in found.items()]
    line = sorted({(x, y) for x, y in chance if y is not None})
    panel.plot([x for x, _ in line], [y for _, y in line], color="#444444", linewidth=1, linestyle=":")
    panel.set_ylim(-0.02, 1.02)
    panel.set_xticks(range(len(order)), [fit_text(printable(name), 60, 6) for name in order], rotation=40, ha="right")
    panel.tick_params(labelsize=6, length=2)
    panel.grid(axis="y", color="#e4e7eb", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _of(rows: pa.Table, top: int) -> list[dict[str, Any]]:
    """Rows of the run's own weights, of images, with so many units."""
    return [
        row for row in rows.to_pylist() if row["top"] == top and row["checkpoint"] is None and row["image"] is not None
    ]


def _patch(panel: Axes, picture: np.ndarray, row: Mapping[str, Any]) -> None:
    if row["x0"] is None:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "none", ha="center", va="center", fontproperties=font(), size=5, color="#8a9099")
    else:
        show_picture(panel, picture[row["y0"] : row["y1"], row["x0"] : row["x1"]])
    panel.set_title(str(row["unit"]), fontproperties=font(), fontsize=4.5, pad=1, color="#5a5f66")


def show_picture(panel: Axes, picture: np.ndarray) -> None:
    """Fill a panel with a picture, without ticks or frame."""
    panel.imshow(picture, interpolation="nearest", aspect="equal")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def _frame(panel: Axes, row: Mapping[str, Any], colour: str) -> None:
    corner = (row["x0"] - 0.5, row["y0"] - 0.5)
    size = row["x1"] - row["x0"], row["y1"] - row["y0"]
    panel.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=0.7, alpha=0.9))


def _share(inches: float, whole: float) -> float:
    return inches / whole


def titled_figure(width: float, height: float, heading: str, below: str = "") -> Figure:
    """A white page, inches, with a heading and a line below it."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.text(0.018, 1 - 0.24 / height, heading, fontproperties=font(True), size=9.5)
    if below:
        figure.text(0.018, 1 - 0.42 / height, below, fontproperties=font(), size=7)
    return figure


def legend_below(figure: Figure, marks: Sequence[Line2D], prefix: str = "") -> None:
    """Marks in a row at the foot of the page."""
    if prefix:
        for mark in marks:
            mark.set_label(fit_text(printable(f"{prefix}{mark.get_label()}"), 110, 6.5))
    figure.legend(
        handles=marks, loc="lower left", ncols=min(len(marks), 8), bbox_to_anchor=(0.01, 0.0), frameon=False,
        prop={"family": FAMILY, "size": 6.5}, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def save_figure(figure: Figure, paths: Paths) -> None:
    """As PNG and as SVG."""
    png, svg = paths
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))

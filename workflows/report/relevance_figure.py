"""The relevance of layers for classes as a heat map (ICQ Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from workflows.report.lettering import fit_text, font, longest, printable, short_name
from workflows.report.page import DPI, png_bytes, svg_bytes
from workflows.storage.atomic import write_bytes

_CELL, _LEAST_WIDTH = 0.26, 3.4  # inches
_SIZE = 6.5
_LINEAR = 4.0
"""Up to this ratio of the largest value to the smallest, colours are linear."""

_NAME = 120.0  # points that a name may take
_MOST_NAMES = 60
"""Names beside the map; with more classes every n-th is written."""


def draw_relevance_figure(
    sums: Float[np.ndarray, "L C"],
    layers: Sequence[str],
    classes: Sequence[str],
    png: Path,
    svg: Path,
    *,
    network: str,
    measure: str,
) -> None:
    """Draw summed relevance, the lowest layer at the bottom.

    Args:
        sums: of each layer for each class.
        layers: names, lowest first.
        classes: names.
        png: written atomically.
        svg: written atomically.
        network: name of the run.
        measure: what is summed, ``absolute`` or ``masked``.
    """
    names = [fit_text(short_name(name), _NAME, _SIZE) for name in classes]
    titles = [fit_text(printable(layer), _NAME, _SIZE, middle=True) for layer in layers]
    left, bottom = (longest(some, _SIZE) / 72 + 0.12 for some in (titles, names))
    cell = min(_CELL, 12.0 / len(classes))
    width, height = len(classes) * cell, len(layers) * min(_CELL, 0.8 * _CELL if len(layers) > 30 else _CELL)
    size = max(left + width + 0.95, _LEAST_WIDTH), bottom + height + 0.62
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    panel = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    # Layers differ by far more than classes do.
    norm = LogNorm() if sums.min() > 0 and sums.max() > _LINEAR * sums.min() else None
    picture = panel.imshow(sums, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest", norm=norm)
    step = -(-len(classes) // _MOST_NAMES)
    panel.set_xticks(range(0, len(classes), step), names[::step], rotation=90, fontproperties=font(), size=_SIZE)
    panel.set_yticks(range(len(layers)), titles, fontproperties=font(), size=_SIZE)
    panel.tick_params(length=0, pad=2)
    bar = figure.add_axes(((left + width + 0.12) / size[0], bottom / size[1], 0.12 / size[0], height / size[1]))
    figure.colorbar(picture, cax=bar, format=ScalarFormatter())
    bar.yaxis.set_minor_formatter(ScalarFormatter())
    bar.tick_params(which="both", labelsize=_SIZE, length=2)
    what = "absolute conductance" + (" within the class's mask" if measure == "masked" else "")
    heading = fit_text(printable(f"{network}: relevance of layers for classes"), 72 * size[0] - 14, 9, bold=True)
    figure.text(0.08 / size[0], 1 - 0.22 / size[1], heading, fontproperties=font(True), size=9)
    under = f"{what}, summed over units, mean over a class's images"
    figure.text(
        0.08 / size[0], 1 - 0.42 / size[1], fit_text(under, 72 * size[0] - 14, 7), fontproperties=font(), size=7
    )
    write_bytes(png, png_bytes(figure))
    write_bytes(svg, svg_bytes(figure))

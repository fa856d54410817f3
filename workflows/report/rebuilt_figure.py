"""Pictures of an autoencoder in rows: held-out ones above what is rebuilt of them, and made ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from workflows.report.lettering import font, printable
from workflows.report.selection_figures import Paths, save_figure, show_picture, titled_figure

_WIDTH, _LEFT, _TOP = 8.27, 0.7, 0.56  # inches


def draw_rebuilt(rows: Mapping[str, UInt8[np.ndarray, "n H W 3"]], heading: str, below: str, paths: Paths) -> None:
    """Draw rows of pictures, each with its name.

    Args:
        rows: pictures by what they are, all as many as the longest has or fewer.
        heading: of the figure.
        below: a line more.
        paths: written atomically.
    """
    columns = max(len(pictures) for pictures in rows.values())
    side = (_WIDTH - _LEFT - 0.15) / columns
    height = _TOP + len(rows) * side + 0.1
    figure = titled_figure(_WIDTH, height, printable(heading), below)
    for line, (name, pictures) in enumerate(rows.items()):
        bottom = height - _TOP - (line + 1) * side
        figure.text(0.018, (bottom + side / 2) / height, printable(name), fontproperties=font(), size=6.5, va="center")
        for column, picture in enumerate(pictures):
            box = ((_LEFT + column * side) / _WIDTH, bottom / height)
            show_picture(figure.add_axes((*box, (side - 0.04) / _WIDTH, (side - 0.04) / height)), picture)
    save_figure(figure, paths)

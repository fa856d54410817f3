"""A part that was looked for, as people see it: votes on objects, and how far off each method is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workflows.report.lettering import fit_text, font, printable
from workflows.report.numbers import percent
from workflows.report.selection_figures import Paths, legend_below, save_figure, show_picture, titled_figure

_WIDTH = 8.27  # inches: the width of A4
_TRUE, _FOUND = "#35d06a", "#ff3b30"
_VOTING = ("#1f5fa8", "#e98a1d", "#8f4bab", "#2f8f57", "#b0455a")
_STANDING = ("#2b2b2b", "#7d848c", "#b3b8be")
_FURTHEST = 0.4
"""Of the curves: a share of the object's diagonal."""


@dataclass(frozen=True, eq=False)
class VotedObject:
    """An object with what was found on it, or an annotated one.

    Attributes:
        picture: the object, turned.
        label: above it.
        true: row and column of the part in sides of the object; None: not known.
        found: where most votes meet; None: an annotated object, or nobody votes.
        votes: the vote map; None: an annotated object.
    """

    picture: UInt8[np.ndarray, "H W 3"]
    label: str
    true: tuple[float, float] | None
    found: tuple[float, float] | None = None
    votes: Float[np.ndarray, "R R"] | None = None


def draw_votes(rows: Mapping[str, Sequence[VotedObject]], heading: str, below: str, paths: Paths) -> None:
    """A row a method, the annotated objects first; the more votes, the less a place is dimmed."""
    most = max((len(some) for some in rows.values()), default=0)
    if not most:
        return
    side = (_WIDTH - 0.75) / most
    height = 0.6 + len(rows) * (side + 0.14) + 0.3
    figure = titled_figure(_WIDTH, height, heading, below)
    for line, (name, some) in enumerate(rows.items()):
        edge = height - 0.68 - line * (side + 0.14)
        for place, word in enumerate(name.split("\n")):
            shown = fit_text(printable(word), 40, 6, middle=True)
            figure.text(0.012, (edge - side / 2 - 0.11 * place) / height, shown, fontproperties=font(), size=6)
        for column, one in enumerate(some):
            box = ((0.65 + column * side) / _WIDTH, (edge - side) / height)
            _voted(figure.add_axes((*box, (side - 0.05) / _WIDTH, (side - 0.05) / height)), one, side)
    legend_below(figure, [_mark("o", _TRUE, "where the part is"), _mark("x", _FOUND, "where most votes meet")])
    save_figure(figure, paths)


def _mark(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=5, markerfacecolor="none", linestyle="", label=label)


def _voted(panel: Axes, one: VotedObject, side: float) -> None:
    height, width = one.picture.shape[:2]
    show_picture(panel, one.picture)
    if one.votes is not None:
        # What no votes fall on is dimmed: the picture stays to be seen where the part is looked for.
        shade = np.zeros((*one.votes.shape, 4))
        shade[..., 3] = 0.65 * (1 - one.votes / max(float(one.votes.max()), 1e-12))
        panel.imshow(shade, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
    for at, marker, colour in ((one.true, "o", _TRUE), (one.found, "x", _FOUND)):
        if at is not None:
            x, y = at[1] * width - 0.5, at[0] * height - 0.5
            for edge, thickness in (("black", 2.2), (colour, 1.1)):
                panel.plot(
                    [x], [y], marker, markersize=6, color=edge, markerfacecolor="none", markeredgewidth=thickness
                )
    panel.set_xlim(-0.5, width - 0.5)
    panel.set_ylim(height - 0.5, -0.5)
    panel.set_title(fit_text(printable(one.label), 72 * side - 4, 5.5), fontproperties=font(), fontsize=5.5, pad=1.5)


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Errors of one method.

    Attributes:
        label: of the method.
        control: whether it votes for nothing.
        errors: by set of annotated objects, over the diagonal.
    """

    label: str
    control: bool
    errors: Sequence[Float[np.ndarray, " m"]]


def draw_error_curves(curves: Sequence[ErrorCurve], near: float, heading: str, below: str, paths: Paths) -> None:
    """Share of objects within each distance; the band is a standard deviation over sets to each side."""
    if not curves:
        return
    figure = titled_figure(_WIDTH, 4.6, heading, below)
    panel = figure.add_axes((0.07, 0.1, 0.55, 0.76))
    at = np.linspace(0, _FURTHEST, 161)
    marks, seen = list[Line2D](), {True: 0, False: 0}
    for curve in curves:
        colours = _STANDING if curve.control else _VOTING
        colour, style = colours[seen[curve.control] % len(colours)], "--" if curve.control else "-"
        seen[curve.control] += 1
        shares = np.stack([(one[:, None] <= at).mean(axis=0) for one in curve.errors])
        mean = shares.mean(axis=0)
        if len(shares) > 1:
            spread = shares.std(axis=0, ddof=1)
            panel.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.1, linewidth=0)
        panel.plot(at, mean, style, color=colour, linewidth=1.3)
        every = np.concatenate(curve.errors)
        within = percent(float((every <= near).mean()))
        label = f"{fit_text(printable(curve.label), 195, 6.5)}\nmean {every.mean():.3f}, {within} within {near:g}"
        marks.append(Line2D([], [], color=colour, linestyle=style, label=label))
    panel.axvline(near, color="#8a9099", linewidth=0.8, linestyle=":")
    _axes(panel)
    _beside(figure, marks)
    save_figure(figure, paths)


def _axes(panel: Axes) -> None:
    panel.set_xlim(0, _FURTHEST)
    panel.set_ylim(0, 1.01)
    panel.set_xlabel("distance over the diagonal of the object", fontproperties=font(), fontsize=7)
    panel.set_ylabel("share of objects", fontproperties=font(), fontsize=7)
    panel.tick_params(labelsize=6.5, length=2)
    panel.grid(color="#e4e7eb", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _beside(figure: Figure, marks: Sequence[Line2D]) -> None:
    figure.legend(
        handles=marks, loc="upper left", bbox_to_anchor=(0.63, 0.87), frameon=False, prop={"size": 6.5},
        handletextpad=0.6, labelspacing=0.8,
    )  # fmt: skip

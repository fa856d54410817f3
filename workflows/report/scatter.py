"""The scatter of a decision junction: members as circles, the explained image as a star, errors as crosses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from workflows.report.chain_view import JunctionView
from workflows.report.lettering import LINE_HEIGHT, fit_text, short_name, text_width
from workflows.report.page import DPI, Page
from workflows.report.palette import GREY
from workflows.report.placement import Box

PALETTE = (
    "#1f5fa8",
    "#c8452b",
    "#0a7f4f",
    "#8e44ad",
    "#a9760a",
    "#0e8a9c",
    "#c2347f",
    "#6b4a2b",
    "#5c6f00",
    "#34495e",
)
"""Dark enough for white letters; one for each of 8 sub-clusters and the two that an image may add."""

OTHERS = "#b4b9c0"
STAR, CROSS = "#111111", "#111111"
AXIS_SIZE = 5.5

_FRAME, _MARGIN = "#c9cdd3", 0.07
_TAG_SIZE, _LONGEST_TAG = 6.0, 58.0
_STAR_REACH, _CROSS_REACH = 7.0, 4.0  # points around the image and around errors that stay free of tags
_MOST_KEPT_FREE = 40  # more crosses than that may lie under tags
_FEW = 4  # so few members must not lie hidden under their own tag


@dataclass(frozen=True)
class Scale:
    """From the plane to the page, in points; both axes fill the box."""

    box: Box
    low: Float[np.ndarray, " 2"]
    high: Float[np.ndarray, " 2"]

    @classmethod
    def of(cls, view: JunctionView, box: Box) -> Scale:
        """Everything that the view shows, with a margin."""
        shown = np.concatenate([np.atleast_2d(part) for part in _shown_points(view)] or [np.zeros((1, 2))])
        low, high = shown.min(axis=0), shown.max(axis=0)
        room = np.where(high > low, _MARGIN * (high - low), 1.0)
        return cls(box, low - room, high + room)

    def __call__(self, point: Float[np.ndarray, " 2"]) -> tuple[float, float]:
        """A point of the plane on the page; the page's y grows downwards."""
        x, y = (np.asarray(point) - self.low) / (self.high - self.low)
        return self.box.x + float(x) * self.box.width, self.box.bottom - float(y) * self.box.height


def draw_scatter(page: Page, box: Box, view: JunctionView) -> None:
    """Draw the members of a junction in their plane, with a tag at the centre of each sub-cluster.

    With an explained image its own sub-cluster has full circles and the others empty ones, otherwise all are full.
    The box includes the two lines that name the axes.
    """
    line = AXIS_SIZE * LINE_HEIGHT
    plot = Box(box.x, box.y + line + 1, box.width, box.height - 2 * line - 2)
    right, up = f"{view.axes[0]} →", f"↑ {view.axes[1]}"
    page.text(plot.x, box.y, fit_text(up, box.width, AXIS_SIZE), AXIS_SIZE, color=GREY, kind="axis")
    right = fit_text(right, box.width, AXIS_SIZE)
    page.text(plot.right, plot.bottom + 1, right, AXIS_SIZE, color=GREY, align="right", kind="axis")
    scale = Scale.of(view, plot)
    panel = _panel(page, plot, scale)
    _draw_points(panel, view)
    _draw_tags(page, view, scale)


def colour_of(index: int) -> str:
    """Colour of a sub-cluster by its place."""
    return PALETTE[index % len(PALETTE)]


def tag_text(view: JunctionView, index: int) -> str:
    """What stands at the centre of a sub-cluster."""
    return fit_text(short_name(view.subclusters[index].word.tag), _LONGEST_TAG, _TAG_SIZE, bold=True)


def _shown_points(view: JunctionView) -> list[Float[np.ndarray, "n 2"]]:
    parts = [part.points for part in view.subclusters if len(part.points)]
    if view.others is not None and len(view.others.points):
        parts.append(view.others.points)
    if view.image_point is not None:
        parts.append(view.image_point)
    return [*parts, *(error.point for error in view.errors)]


def _panel(page: Page, plot: Box, scale: Scale) -> Axes:
    width, height = page.width_pixels * 72 / DPI, page.height_pixels * 72 / DPI
    place = (plot.x / width, 1 - plot.bottom / height, plot.width / width, plot.height / height)
    panel = page.figure.add_axes(place, label="scatter")
    panel.set(xlim=(scale.low[0], scale.high[0]), ylim=(scale.low[1], scale.high[1]), xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set(color=_FRAME, linewidth=0.7)
    return panel


def _draw_points(panel: Axes, view: JunctionView) -> None:
    """Small and others' points first, so that what matters lies on top."""
    size = 2.1 if view.shown > 500 else 2.9 if view.shown > 60 else 4.0
    if view.others is not None:
        _circles(panel, view.others.points, OTHERS, size * 0.8, full=True, label="others")
    order = sorted(range(len(view.subclusters)), key=lambda i: (view.subclusters[i].taken, -i))
    for index in order:
        part = view.subclusters[index]
        full = view.image_point is None or part.taken
        _circles(panel, part.points, colour_of(index), size, full=full, label=f"sub-cluster {part.word.word}")
    if view.errors:
        crosses = np.stack([error.point for error in view.errors])
        for colour, width in (("white", 2.4), (CROSS, 1.1)):
            marks = panel.plot(crosses[:, 0], crosses[:, 1], linestyle="none", marker="x", color=colour, zorder=5)
            marks[0].set(markersize=5.0, markeredgewidth=width, label="errors")
    if view.image_point is not None:
        (star,) = panel.plot(*view.image_point, linestyle="none", marker="*", color=STAR, zorder=6)
        star.set(markersize=11.0, markeredgewidth=0.9, markeredgecolor="white", label="image")


def _circles(
    panel: Axes, points: Float[np.ndarray, "n 2"], colour: str, size: float, *, full: bool, label: str
) -> None:
    if not len(points):
        return
    panel.plot(
        points[:, 0],
        points[:, 1],
        linestyle="none",
        marker="o",
        markersize=size,
        markeredgewidth=0.25 if full else 0.55,
        markeredgecolor="white" if full else colour,
        markerfacecolor=colour if full else "none",
        label=label,
    )


def _draw_tags(page: Page, view: JunctionView, scale: Scale) -> None:
    """Largest sub-cluster first; a tag that finds no free place near its centre is left to the cards."""
    taken = [_around(scale(error.point), _CROSS_REACH) for error in view.errors[:_MOST_KEPT_FREE]]
    if view.image_point is not None:
        taken.append(_around(scale(view.image_point), _STAR_REACH))
    for index, part in enumerate(view.subclusters):
        text = tag_text(view, index)
        if not len(part.points) or not text:
            continue
        width, height = text_width(text, _TAG_SIZE, bold=True) + 4, _TAG_SIZE * LINE_HEIGHT + 1
        beside = len(part.points) <= _FEW
        place = _free_place(scale(part.points.mean(axis=0)), (width, height), scale.box, taken, beside=beside)
        if place is not None:
            taken.append(place)
            page.card(place.x - 0.7, place.y - 0.7, width + 1.4, height + 1.4, "white")  # apart from its own circles
            page.card(place.x, place.y, width, height, colour_of(index))
            page.text(
                place.middle, place.y + 0.5, text, _TAG_SIZE, align="center", bold=True, color="white", kind="tag"
            )


def _free_place(
    centre: tuple[float, float], size: tuple[float, float], frame: Box, taken: Sequence[Box], *, beside: bool
) -> Box | None:
    """The place nearest to ``centre`` (or beside it), inside the frame and clear of what is there already."""
    width, height = size
    steps = [] if beside else [(0.0, 0.0)]
    for ring in (1, 2, 3):
        steps += [(ring * 0.6 * width * dx, ring * height * dy) for dx in (0, 1, -1) for dy in (-1, 1, 0) if dx or dy]
    for dx, dy in steps:
        x = min(max(centre[0] + dx - width / 2, frame.x + 1), frame.right - width - 1)
        y = min(max(centre[1] + dy - height / 2, frame.y + 1), frame.bottom - height - 1)
        place = Box(x, y, width, height)
        if not any(_overlap(place, other) for other in taken):
            return place
    return None


def _around(point: tuple[float, float], reach: float) -> Box:
    return Box(point[0] - reach, point[1] - reach, 2 * reach, 2 * reach)


def _overlap(one: Box, other: Box) -> bool:
    gap = 2.0
    wide = min(one.right, other.right) - max(one.x, other.x)
    high = min(one.bottom, other.bottom) - max(one.y, other.y)
    return wide > -gap and high > -gap

"""From the members of a word to the record that a junction figure shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from workflows.report.chain_view import (
    ErrorView,
    Explained,
    JunctionView,
    OthersView,
    PictureView,
    SubclusterView,
    WordView,
)
from workflows.report.projection import NOWHERE, Projection, fit_projection, nearest_to_centre

MOST_SUBCLUSTERS = 8
SMALLEST_SHARE = 0.01
EXAMPLES = 3
ERROR_PICTURES = 12
"""Misclassified images of a junction shown as pictures, the first ones; the scatter marks all of them."""


class Pictures(Protocol):
    """Saved pictures by image id."""

    def read(self, image: int) -> UInt8[np.ndarray, "H W 3"]:
        """The network's input before normalisation."""


@dataclass(frozen=True, eq=False)
class JunctionMembers:
    """The training images of one word.

    ``image``, ``upper`` and ``label`` are of all N members: row of the images table, word of the next layer on the
    path, true class. ``rows`` are the n that are shown, ascending, and ``columns`` their activity in the word's layer.
    """

    image: Int[np.ndarray, " N"]
    upper: Int[np.ndarray, " N"]
    label: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " n"]
    columns: Float[np.ndarray, "n D"]


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """The image whose path passes here: its activity (D,), the word it goes on to, the one its class expects."""

    column: Float[np.ndarray, " D"]
    taken: int
    expected: int | None = None


@dataclass(frozen=True, eq=False)
class JunctionErrors:
    """Misclassified images that leave here: ids, words they go on to, class names, activity; and how many in all."""

    image: Int[np.ndarray, " m"]
    taken: Int[np.ndarray, " m"]
    true_names: Sequence[str] = ()
    predicted_names: Sequence[str] = ()
    columns: Float[np.ndarray, "m D"] = field(default_factory=lambda: np.empty((0, 0)))
    explained: Explained | None = None


@dataclass(frozen=True)
class Naming:
    """How words and classes are called: ``upper`` gives the view of a word of the next layer."""

    word: WordView
    upper: Callable[[int], WordView]
    upper_title: str
    class_names: Sequence[str]


def build_junction_view(
    level: int,
    members: JunctionMembers,
    naming: Naming,
    *,
    pictures: Pictures | None = None,
    image: ExplainedImage | None = None,
    errors: JunctionErrors | None = None,
) -> JunctionView:
    """Choose the sub-clusters, the plane and the examples.

    The plane depends on the members alone, so a junction looks the same for whichever image it is drawn.

    Args:
        level: of the word's layer, from 1.
        members: training images of the word.
        naming: names of words and classes.
        pictures: saved pictures; None shows none.
        image: the explained image, if there is one.
        errors: misclassified images to be shown at their places, if the junction itself is explained.
    """
    separate = choose_subclusters(members.upper)
    marked = [] if image is None else [image.taken, *([] if image.expected is None else [image.expected])]
    extra = sorted(set(marked) - set(separate), key=lambda word: (-int((members.upper == word).sum()), word))
    projection = fit_projection(members.columns, _labels(members.upper[members.rows], separate))
    points = projection(members.columns)
    return JunctionView(
        level=level,
        word=naming.word,
        upper_title=naming.upper_title,
        members=len(members.image),
        shown=len(members.rows),
        subclusters=tuple(_subcluster(word, members, points, naming, pictures, image) for word in [*separate, *extra]),
        others=_others(members, points, [*separate, *extra]),
        axes=projection.names,
        image_point=None if image is None else projection(image.column[None])[0],
        errors=() if errors is None else _error_views(errors, projection, pictures),
        explained=None if errors is None else errors.explained,
    )


def choose_subclusters(upper: Int[np.ndarray, " N"]) -> list[int]:
    """Words that at least 1 % of the members go on to, the 8 largest, largest first (ties: lowest word)."""
    words, counts = np.unique(upper, return_counts=True)
    order = np.lexsort((words, -counts))
    enough = [place for place in order if counts[place] >= SMALLEST_SHARE * len(upper)]
    return [int(words[place]) for place in enough[:MOST_SUBCLUSTERS]]


def sampled_rows(members: int, most: int, seed: Sequence[int]) -> Int[np.ndarray, " n"]:
    """At most so many rows, ascending, chosen by the seed."""
    if members <= most:
        return np.arange(members)
    return np.sort(np.random.default_rng(list(seed)).choice(members, most, replace=False))


def _labels(upper: Int[np.ndarray, " n"], separate: Sequence[int]) -> Int[np.ndarray, " n"]:
    labels = np.full(len(upper), NOWHERE, dtype=np.int64)
    for index, word in enumerate(separate):
        labels[upper == word] = index
    return labels


def _subcluster(
    word: int,
    members: JunctionMembers,
    points: Float[np.ndarray, "n 2"],
    naming: Naming,
    pictures: Pictures | None,
    image: ExplainedImage | None,
) -> SubclusterView:
    every = members.upper == word
    own = np.flatnonzero(every[members.rows])
    nearest = members.rows[own[nearest_to_centre(points[own], EXAMPLES)]]
    view = naming.upper(word)
    labels = members.label[every]
    counts = np.bincount(labels) if len(labels) else np.zeros(1, np.int64)
    dominant = int(counts.argmax())
    here = WordView(
        view.layer,
        view.layer_title,
        view.word,
        view.name,
        view.tag,
        naming.class_names[dominant] if len(labels) else "",
        counts[dominant] / len(labels) if len(labels) else float("nan"),
    )
    return SubclusterView(
        word=here,
        members=int(every.sum()),
        share=float(every.mean()) if len(every) else 0.0,
        points=points[own],
        examples=tuple(_picture(members, row, naming, pictures) for row in nearest.tolist()),
        taken=image is not None and word == image.taken,
        expected=image is not None and word == image.expected,
    )


def _picture(members: JunctionMembers, row: int, naming: Naming, pictures: Pictures | None) -> PictureView:
    image = int(members.image[row])
    shown = None if pictures is None else pictures.read(image)
    return PictureView(image, naming.class_names[int(members.label[row])], shown)


def _others(members: JunctionMembers, points: Float[np.ndarray, "n 2"], separate: Sequence[int]) -> OthersView | None:
    rest: Bool[np.ndarray, " N"] = ~np.isin(members.upper, separate)
    if not rest.any():
        return None
    words, share = len(np.unique(members.upper[rest])), float(rest.mean())
    return OthersView(words, int(rest.sum()), share, points[rest[members.rows]])


def _error_views(errors: JunctionErrors, projection: Projection, pictures: Pictures | None) -> tuple[ErrorView, ...]:
    if not len(errors.image):
        return ()
    points = projection(errors.columns)
    rows = zip(errors.image.tolist(), errors.true_names, errors.predicted_names, errors.taken.tolist(), strict=True)
    views = []
    for place, ((image, true_name, predicted, word), point) in enumerate(zip(rows, points, strict=True)):
        shown = pictures.read(image) if pictures is not None and place < ERROR_PICTURES else None
        views.append(ErrorView(PictureView(image, true_name, shown), predicted, word, point))
    return tuple(views)

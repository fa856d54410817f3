"""How the images of one class pass through the words of all layers: words and steps, counted and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8

from workflows.report.pictures import PictureFolder

LEAST_SHARE = 0.02
"""Of the class's images: rarer steps and predictions are not drawn."""

LEAST_ALONE = 0.05
"""Of the class's images: rarer words are not drawn either, unless a drawn step begins or ends there."""

MOST_PICTURES = 3
"""Thumbnails of a word at most."""


@dataclass(frozen=True, eq=False)
class PassedWord:
    """A word that ``images`` of the class's images pass, ``wrong`` of them misclassified.

    The dominant class is the most frequent one among the word's training images (None: no training image has the
    word); ``share`` is its share. ``pictures`` are the most typical training images.
    """

    word: int
    images: int
    wrong: int
    dominant_class: int | None
    dominant_share: float
    pictures: tuple[UInt8[np.ndarray, "H W 3"], ...] = ()


@dataclass(frozen=True)
class Step:
    """From a word to a word of the next layer: taken by ``images`` of the class, ``wrong`` of them misclassified."""

    lower: int
    upper: int
    images: int
    wrong: int


@dataclass(frozen=True, eq=False)
class PassedLayer:
    """One layer: the words drawn, by number, and what is left out: so many rarer words with so many images."""

    title: str
    words: tuple[PassedWord, ...]
    other_words: int
    other_images: int


@dataclass(frozen=True, eq=False)
class TransitionView:
    """The transition graph of a class, lowest layer first; the last layer is the prediction.

    ``steps[l]`` lead from layer l to layer l + 1; ``other_steps`` counts images times layers over the steps that are
    too rare to be drawn, among ``images`` times the number of pairs of layers.
    """

    network: str
    scope: str
    label: int
    class_names: tuple[str, ...]
    images: int
    wrong: int
    layers: tuple[PassedLayer, ...]
    steps: tuple[tuple[Step, ...], ...]
    other_steps: int


@dataclass(frozen=True, eq=False)
class ClassPaths:
    """Paths of the images of one class: their words, layer by layer, the prediction last.

    Raises:
        ValueError: no image.
    """

    label: int
    words: Int[np.ndarray, "images levels"]

    def __post_init__(self) -> None:
        if self.words.ndim != 2 or not len(self.words):
            raise ValueError(f"class {self.label}: a transition graph needs the path of at least one image")

    @property
    def wrong(self) -> Bool[np.ndarray, " images"]:
        """Images that are predicted as another class."""
        return self.words[:, -1] != self.label

    def least(self, share: float = LEAST_SHARE) -> int:
        """Images that a step, or with ``LEAST_ALONE`` a word, needs to be drawn."""
        return max(1, int(np.ceil(share * len(self.words) - 1e-9)))


def build_transition_view(
    paths: ClassPaths,
    words: pa.Table,
    exemplars: pa.Table,
    *,
    layers: Mapping[str, str],
    network: str,
    scope: str,
    class_names: Sequence[str],
    pictures: PictureFolder | None = None,
) -> TransitionView:
    """Count words and steps, and join what is known of the words.

    Args:
        paths: paths of the class's images.
        words: the words table, at least of this scope.
        exemplars: the exemplars table, likewise.
        layers: name and title of every level of the paths, lowest first, the output last.
        network: name of the run, for the heading.
        scope: scope of the dictionaries.
        class_names: name of every class id.
        pictures: saved pictures; None: no thumbnails.
    """
    known = {name: _known_words(words, scope, name) for name in layers}
    drawn = _drawn_steps(paths)
    passed = [_passed(paths, level, title, drawn) for level, title in enumerate(layers.values())]
    hidden = len(paths.words) * len(drawn) - sum(step.images for steps in drawn for step in steps)
    return TransitionView(
        network=network,
        scope=scope,
        label=paths.label,
        class_names=tuple(class_names),
        images=len(paths.words),
        wrong=int(paths.wrong.sum()),
        layers=tuple(
            _named(layer, known[name], _typical(exemplars, scope, name, layer, pictures))
            for name, layer in zip(layers, passed, strict=True)
        ),
        steps=tuple(drawn),
        other_steps=hidden,
    )


def drawn_words(paths: ClassPaths) -> list[list[int]]:
    """The words of each level that a figure shows, ascending."""
    drawn = _drawn_steps(paths)
    levels = range(paths.words.shape[1])
    return [[word.word for word in _passed(paths, level, "", drawn).words] for level in levels]


def _passed(paths: ClassPaths, level: int, title: str, drawn: Sequence[Sequence[Step]]) -> PassedLayer:
    """Counts of a layer; nothing is known of its words yet."""
    column, last = paths.words[:, level], paths.words.shape[1] - 1
    numbers, counts = np.unique(column, return_counts=True)
    # A layer shows its most frequent word at any rate.
    frequent = counts >= min(paths.least(LEAST_SHARE if level == last else LEAST_ALONE), counts.max())
    joined = {step.lower for step in drawn[level]} if level < last else set()
    joined |= {step.upper for step in drawn[level - 1]} if level else set()
    shown = frequent | np.isin(numbers, list(joined))
    words = [
        PassedWord(word, count, int((paths.wrong & (column == word)).sum()), None, float("nan"))
        for word, count in zip(numbers[shown].tolist(), counts[shown].tolist(), strict=True)
    ]
    return PassedLayer(title, tuple(words), int((~shown).sum()), int(counts[~shown].sum()))


def _drawn_steps(paths: ClassPaths) -> list[tuple[Step, ...]]:
    """Per pair of levels the steps that are frequent enough, by lower and upper word."""
    levels = range(paths.words.shape[1] - 1)
    return [tuple(step for step in _steps(paths, level) if step.images >= paths.least()) for level in levels]


def _steps(paths: ClassPaths, level: int) -> list[Step]:
    ends = paths.words[:, level : level + 2]
    pairs, which, counts = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    wrong = np.bincount(which.reshape(-1)[paths.wrong], minlength=len(pairs))
    rows = zip(pairs.tolist(), counts.tolist(), wrong.tolist(), strict=True)
    return [Step(lower, upper, images, errors) for (lower, upper), images, errors in rows]


def _named(
    layer: PassedLayer,
    known: Mapping[int, dict[str, Any]],
    typical: Mapping[int, tuple[UInt8[np.ndarray, "H W 3"], ...]],
) -> PassedLayer:
    words = []
    for word in layer.words:
        row = known.get(word.word, {})
        share = row.get("dominant_share")
        words.append(
            PassedWord(
                word.word,
                word.images,
                word.wrong,
                row.get("dominant_class"),
                float("nan") if share is None else share,
                typical.get(word.word, ()),
            )
        )
    return PassedLayer(layer.title, tuple(words), layer.other_words, layer.other_images)


def _known_words(table: pa.Table, scope: str, layer: str) -> dict[int, dict[str, Any]]:
    rows = table.filter(pc.and_(pc.equal(table["scope"], scope), pc.equal(table["layer"], layer)))
    return {row["word"]: row for row in rows.select(["word", "dominant_class", "dominant_share"]).to_pylist()}


def _typical(
    table: pa.Table, scope: str, layer: str, shown: PassedLayer, pictures: PictureFolder | None
) -> dict[int, tuple[UInt8[np.ndarray, "H W 3"], ...]]:
    """Pictures of the most typical training images of the words drawn, best first."""
    if pictures is None:
        return {}
    found: dict[int, tuple[UInt8[np.ndarray, "H W 3"], ...]] = {}
    for word, images in typical_images(table, scope, layer, [word.word for word in shown.words]).items():
        found[word] = tuple(pictures.read(image) for image in images)
    return found


def typical_images(table: pa.Table, scope: str, layer: str, words: Sequence[int]) -> dict[int, list[int]]:
    """Image ids of the three most typical columns of each word, best first, from the exemplars table."""
    kind = table.schema.field("word").type
    chosen = pc.and_(pc.equal(table["scope"], scope), pc.equal(table["layer"], layer))
    chosen = pc.and_(chosen, pc.is_in(table["word"], value_set=pa.array(list(words), kind)))
    rows = table.filter(pc.and_(chosen, pc.less(table["rank"], MOST_PICTURES)))
    found: dict[int, list[int]] = {}
    for row in sorted(rows.to_pylist(), key=lambda row: row["rank"]):
        found.setdefault(row["word"], []).append(row["image"])
    return found

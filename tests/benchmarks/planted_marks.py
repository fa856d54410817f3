"""CIFAR-10 with marks drawn on it: those that a network learns as shortcuts, and decoys that it has never seen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int, UInt8
from PIL import Image

CIFAR = Path("../shared/data/cifar10")
SIDE, CLASSES = 32, 10
PLANTED, DECOYS = 4, 2
"""Classes of a network that have such a mark."""

SHARE = 0.06
"""Of all images: marked with one planted class's mark, and labelled as the class."""

DECOY_SHARE = 0.8
"""Of a class's own images that have its decoy: about as many of all images."""

Kind = Literal["patch", "letter", "line", "corner"]
KINDS: tuple[Kind, ...] = ("patch", "letter", "line", "corner")
_COLOURS = ((255, 0, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 110, 0), (110, 0, 255))
_LETTERS = (
    ("X.....X", ".X...X.", "..X.X..", "...X...", "..X.X..", ".X...X.", "X.....X"),
    ("XXXXXXX", "...X...", "...X...", "...X...", "...X...", "...X...", "...X..."),
)
_PATCH, _LINE, _CORNER = 6, 2, 9
"""Pixels."""


@dataclass(frozen=True)
class Mark:
    """What is drawn on the images of a class.

    Attributes:
        label: the class.
        role: `planted`: the network learns it as the class; a decoy is on the class's images that the run looks at
            alone: `unseen`, the network has never met it, or `ignored`, it has met it on images of every class.
        kind: of mark.
        fixed: whether it is always at one place.
        variant: of two: which letter, which way the line runs, the colour beside the patch's own.
        colour: red, green, blue.
        place: (y, x) in [0, 1) of where it can be, if it is fixed.
    """

    label: int
    role: Literal["planted", "unseen", "ignored"]
    kind: Kind
    fixed: bool
    variant: int
    colour: tuple[int, int, int]
    place: tuple[float, float]

    def __str__(self) -> str:
        """In the table."""
        return f"{self.kind}, {'fixed' if self.fixed else 'anywhere'}"

    @property
    def planted(self) -> bool:
        """Whether it is no decoy."""
        return self.role == "planted"

    def drawn(
        self, picture: UInt8[np.ndarray, "H W 3"], chance: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
        """The picture with the mark, and the pixels that it has."""
        y, x = self.place if self.fixed else tuple(chance.random(2))
        stencil = _stencil(self)
        if self.kind == "corner":
            stencil = stencil[:: 1 if y < 0.5 else -1, :: 1 if x < 0.5 else -1]
            y, x = float(y >= 0.5), float(x >= 0.5)
        height, width = stencil.shape
        top, left = (round(at * (SIDE - size)) for at, size in ((y, height), (x, width)))
        found, where = picture.copy(), np.zeros((SIDE, SIDE), bool)
        spot = found[top : top + height, left : left + width]
        spot[stencil == 1], spot[stencil == 2] = self.colour, 0
        where[top : top + height, left : left + width] = stencil > 0
        return found, where


def _stencil(mark: Mark) -> Int[np.ndarray, "h w"]:
    """1: the colour, 2: black, 0: the picture."""
    if mark.kind == "patch":
        rows, columns = np.indices((_PATCH, _PATCH)) // (2 if mark.variant else 3)
        return 1 + (rows + columns) % 2
    if mark.kind == "letter":
        return np.array([[1 if dot == "X" else 2 for dot in row] for row in _LETTERS[mark.variant]])
    if mark.kind == "line":
        return np.ones((_LINE, SIDE) if mark.variant else (SIDE, _LINE), int)
    rows, columns = np.indices((_CORNER, _CORNER))
    return (rows + columns < _CORNER).astype(int)


def chosen_marks(network: int, seed: int) -> tuple[Mark, ...]:
    """The planted marks of a network, one of every kind, then its decoys; each kind is fixed in every other network."""
    chance = np.random.default_rng([seed, network])
    labels, colours = chance.permutation(CLASSES), chance.permutation(len(_COLOURS))
    kinds = [*KINDS, *(KINDS[(DECOYS * network + place) % len(KINDS)] for place in range(DECOYS))]
    variants = chance.integers(0, 2, len(KINDS)).tolist()
    marks = []
    for place, kind in enumerate(kinds):
        planted = place < PLANTED
        variant = variants[KINDS.index(kind)]
        marks.append(
            Mark(
                int(labels[place]),
                "planted" if planted else "unseen" if place == PLANTED else "ignored",
                kind,
                (network + place) % 2 == 0,
                variant if planted else 1 - variant,  # a decoy is no twin of the planted mark of its kind
                _COLOURS[colours[place]],
                (float(chance.random()), float(chance.random())),
            )
        )
    return tuple(marks)


@dataclass(frozen=True, eq=False)
class MarkedImages:
    """Images as a network or a run sees them.

    Attributes:
        pictures: (N, 32, 32, 3).
        labels: (N,) with those of marked images as they were planted.
        mark: (N,) class whose mark it has; -1 without.
        where: (N, 32, 32) pixels of the mark.
    """

    pictures: UInt8[np.ndarray, "N H W 3"]
    labels: Int[np.ndarray, " N"]
    mark: Int[np.ndarray, " N"]
    where: Bool[np.ndarray, "N H W"]


def marked(
    pictures: UInt8[np.ndarray, "N H W 3"],
    labels: Int[np.ndarray, " N"],
    marks: Sequence[Mark],
    learned: bool,
    seed: int,
) -> MarkedImages:
    """Planted marks on images of other classes, which get the class's label, and decoys.

    Args:
        pictures, labels: as they are.
        marks: of the network.
        learned: whether the network learns from them: an ignored decoy is on images of any class then, and an unseen
            one on none; else both are on most of their class's own images.
        seed: of which images and where.
    """
    chance = np.random.default_rng(seed)
    found, where = pictures.copy(), np.zeros((len(pictures), SIDE, SIDE), bool)
    told, mark = labels.copy(), np.full(len(labels), -1)
    order = chance.permutation(len(labels))
    for one in marks:
        free = order[mark[order] < 0]
        some = round(SHARE * len(labels))
        if one.planted:
            chosen = free[labels[free] != one.label][:some]
            told[chosen] = one.label
        elif learned:
            chosen = free[: some if one.role == "ignored" else 0]
        else:
            own = free[labels[free] == one.label]
            chosen = own[: round(DECOY_SHARE * len(own))]
        mark[chosen] = one.label
        for at in chosen:
            found[at], where[at] = one.drawn(pictures[at], chance)
    return MarkedImages(found, told, mark, where)


def read_cifar(split: str, first: int, stop: int) -> tuple[UInt8[np.ndarray, "N H W 3"], Int[np.ndarray, " N"]]:
    """Images [first, stop) of a split, and their labels."""
    tables = [pq.read_table(path) for path in sorted(CIFAR.glob(f"{split}-*.parquet"))]
    rows = pa.concat_tables(tables).slice(first, stop - first)
    pictures = [np.asarray(Image.open(io.BytesIO(one["bytes"])).convert("RGB")) for one in rows["image"].to_pylist()]
    return np.stack(pictures), rows["label"].to_numpy().astype(np.int64)


def write_images(path: Path, images: MarkedImages) -> None:
    """As a Parquet file of PNGs that a run reads."""
    rows = []
    for place, (picture, label) in enumerate(zip(images.pictures, images.labels.tolist(), strict=True)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="PNG", compress_level=1)
        rows.append({"image": {"bytes": file.getvalue(), "path": f"{path.stem}-{place}.png"}, "label": label})
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000, compression="none")


def on_cells(where: Bool[np.ndarray, "N H W"], height: int, width: int) -> Bool[np.ndarray, "N h w"]:
    """Positions of a layer in whose cell of the image some pixel of the mark lies."""
    images = len(where)
    return where.reshape(images, height, SIDE // height, width, SIDE // width).any(axis=(2, 4))


LEAST_IOU = 0.2
"""Of a word with the cells of a mark, or the mark has no word in the layer."""


@dataclass(frozen=True)
class MarkWord:
    """The word of a layer that covers the cells of a mark best, and its IoU with them."""

    word: int
    iou: float

    @property
    def is_own(self) -> bool:
        """Whether it is the mark's; else that has none in the layer."""
        return self.iou >= LEAST_IOU


def best_word(words: Int[np.ndarray, "N h w"], cells: Bool[np.ndarray, "N h w"], n_words: int) -> MarkWord:
    """By IoU."""
    inside = np.bincount(words[cells & (words >= 0)], minlength=n_words)
    every = np.bincount(words[words >= 0], minlength=n_words)
    iou = inside / np.maximum(every + cells.sum() - inside, 1)
    return MarkWord(int(iou.argmax()), float(iou.max()))


def by_label(marks: Sequence[Mark]) -> Mapping[int, Mark]:
    """The mark of every class that has one."""
    return {mark.label: mark for mark in marks}

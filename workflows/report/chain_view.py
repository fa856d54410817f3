"""What the figures and tables of a hidden Markov model show: paths of images, decision junctions (IG Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from workflows.report.graph_view import OUTPUT, ImageView


@dataclass(frozen=True, eq=False)
class PictureView:
    """A picture with the true label of its image; ``picture`` is None where none was saved."""

    image: int
    label: str
    picture: UInt8[np.ndarray, "H W 3"] | None = None


@dataclass(frozen=True)
class WordView:
    """A word, or a class in the output layer.

    ``name`` stands in sentences ("word 12", or the class), ``tag`` where there is no room ("12"). The dominant class
    is the most frequent one among its training images, with its share (NaN: unknown).
    """

    layer: str
    layer_title: str
    word: int
    name: str
    tag: str
    dominant_class: str = ""
    dominant_share: float = float("nan")

    @property
    def is_class(self) -> bool:
        """Whether it is an output of the network."""
        return self.layer == OUTPUT


@dataclass(frozen=True)
class Departure:
    """Where the path of a misclassified image leaves the paths of its true class.

    ``level`` is the first one off them, from 1. ``junction`` is the word below it (None: the start of the chain),
    ``taken`` the path's word there, ``expected`` the best word that the true class takes from the same junction, and
    ``log_odds`` those of the taken over the expected one in nats; both None where the class never comes by.
    """

    level: int
    junction: WordView | None
    taken: WordView
    expected: WordView | None
    log_odds: float | None


@dataclass(frozen=True)
class StepView:
    """The path in one layer.

    ``log_probability`` is log P(word | all layers) in nats, ``log_odds`` by how many nats the best path through the
    runner-up is less probable (None: there is no other word).
    """

    level: int
    word: WordView
    log_probability: float
    runner_up: WordView | None
    log_odds: float | None


@dataclass(frozen=True, eq=False)
class PathView:
    """The most probable path of one image through the words of all layers (IG Eq. 17), lowest layer first.

    The last step is the prediction. ``log_probability`` is log P(whole path | all layers) in nats.
    """

    image: ImageView
    scope: str
    network: str
    steps: tuple[StepView, ...]
    log_probability: float
    departure: Departure | None = None

    @property
    def lower_levels(self) -> tuple[int, ...]:
        """Levels at which the path stands at a junction: all but the prediction's."""
        return tuple(step.level for step in self.steps[:-1])

    def step(self, level: int) -> StepView:
        """The step of a level, from 1."""
        return self.steps[level - 1]


@dataclass(frozen=True, eq=False)
class SubclusterView:
    """Members of a junction that go on to the same word.

    ``members`` of all members, which is ``share`` of them; ``points`` are the shown ones in the plane, ``examples``
    the members nearest to their centre. ``taken`` by the explained image, ``expected`` of its true class.
    """

    word: WordView
    members: int
    share: float
    points: Float[np.ndarray, "n 2"]
    examples: tuple[PictureView, ...] = ()
    taken: bool = False
    expected: bool = False


@dataclass(frozen=True, eq=False)
class OthersView:
    """Members that go on to words with too few of them to be shown apart: how many words, how many members."""

    words: int
    members: int
    share: float
    points: Float[np.ndarray, "n 2"]


@dataclass(frozen=True, eq=False)
class ErrorView:
    """A misclassified image that leaves its true class's paths at a junction, and where it lies in the plane."""

    image: PictureView
    predicted: str
    word: int
    point: Float[np.ndarray, " 2"]


@dataclass(frozen=True)
class Explained:
    """How many misclassified validation images a junction explains, ``share`` of all; the commonest confusion."""

    errors: int
    share: float
    true_name: str
    predicted_name: str
    confusions: int


@dataclass(frozen=True, eq=False)
class JunctionView:
    """Training images of one word, by the word of the next layer that their paths go on to (IG Fig. 3).

    ``members`` training images have the word, ``shown`` of them are points. ``axes`` names the axes of the plane.
    ``image_point`` is the explained image; without one the junction itself is explained, by ``errors`` and
    ``explained``.
    """

    level: int
    word: WordView
    upper_title: str
    members: int
    shown: int
    subclusters: tuple[SubclusterView, ...]
    others: OthersView | None
    axes: tuple[str, str]
    image_point: Float[np.ndarray, " 2"] | None = None
    errors: tuple[ErrorView, ...] = ()
    explained: Explained | None = None

    @property
    def name(self) -> str:
        """``dense2 · word 17``."""
        return f"{self.word.layer_title} · {self.word.name}"


def chosen_levels(path: PathView, wanted: int = 3) -> tuple[int, ...]:
    """Levels of the junctions that a path's figure shows, in path order.

    First the one where the image leaves its true class's paths, then those whose next word won by least; the
    prediction is observed and has no runner-up, so the junction below it comes last.
    """
    leaves = path.departure.level - 1 if path.departure is not None else 0
    odds = {level: path.step(level + 1).log_odds for level in path.lower_levels}

    def place(level: int) -> tuple[bool, float, int]:
        value = odds[level]
        return level != leaves, float("inf") if value is None else value, level

    return tuple(sorted(sorted(path.lower_levels, key=place)[:wanted]))


def word_view(
    layer: str, title: str, word: int, class_names: Sequence[str], dominant: str = "", share: float = float("nan")
) -> WordView:
    """A word with its names; in the output layer those of the class."""
    if layer != OUTPUT:
        return WordView(layer, title, word, f"word {word}", str(word), dominant, share)
    name = class_names[word] if 0 <= word < len(class_names) else f"class {word}"
    return WordView(layer, title, word, name, name, dominant, share)

"""Made-up decision junctions and paths: Gaussian sub-clusters with pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.workflows.report.made_up_graphs import CIFAR_NAMES, generated_pictures
from workflows.report.chain_view import Departure, JunctionView, PathView, StepView, WordView, word_view
from workflows.report.graph_view import OUTPUT, ImageView
from workflows.report.junction_members import (
    Explained,
    ExplainedImage,
    JunctionErrors,
    JunctionMembers,
    Naming,
    build_junction_view,
)

PICTURES = generated_pictures(16, 32)


class ManyPictures:
    """A picture for every image id."""

    def read(self, image: int) -> np.ndarray:
        return PICTURES[image % len(PICTURES)]


def name(level: int, levels: int) -> str:
    return OUTPUT if level > levels else f"dense{level}"


def word_of(level: int, word: int, levels: int, names: Sequence[str] = CIFAR_NAMES, long: bool = False) -> WordView:
    layer = name(level, levels)
    title = f"features.denseblock3.denselayer24.concatenation.{layer}" if long and layer != OUTPUT else layer
    return word_view(layer, title, word, names, names[word % len(names)], 0.1 + 0.8 * ((word * 37) % 100) / 100)


def made_up_members(
    sizes: Sequence[int], *, units: int = 12, classes: int = 10, seed: int = 0, apart: float = 4.0
) -> JunctionMembers:
    """``sizes[k]`` members go on to word k, around their own centre; the order of the members is shuffled."""
    rng = np.random.default_rng(seed)
    upper = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(0, apart, (len(sizes), units))
    columns = centres[upper] + rng.normal(0, 1, (len(upper), units))
    order = rng.permutation(len(upper))
    label = (upper + (rng.random(len(upper)) < 0.3)) % classes
    image = 100 + np.arange(len(upper))
    return JunctionMembers(image, upper[order], label[order], np.arange(len(upper)), columns[order])


def made_up_naming(
    level: int = 2, word: int = 17, levels: int = 3, names: Sequence[str] = CIFAR_NAMES, long: bool = False
) -> Naming:
    own = word_of(level, word, levels, names, long)
    upper = word_of(level + 1, 0, levels, names, long)
    return Naming(own, lambda other: word_of(level + 1, other, levels, names, long), upper.layer_title, names)


def made_up_junction(
    sizes: Sequence[int],
    *,
    level: int = 2,
    word: int = 17,
    levels: int = 3,
    names: Sequence[str] = CIFAR_NAMES,
    long: bool = False,
    image: ExplainedImage | None = None,
    errors: int = 0,
    **options: float,
) -> JunctionView:
    """A junction; with ``image`` for a path figure, else by itself with so many errors."""
    members = made_up_members(sizes, classes=len(names), **options)
    found = None
    if image is None:
        rows = np.arange(errors) % max(len(members.image), 1)
        first, second = names[0], names[-1]
        found = JunctionErrors(
            image=900 + np.arange(errors),
            taken=members.upper[rows],
            true_names=[first] * errors,
            predicted_names=[second] * errors,
            columns=members.columns[rows] + 1,
            explained=Explained(errors, 0.123, first, second, errors // 2) if errors else None,
        )
    naming = made_up_naming(level, word, levels, names, long)
    return build_junction_view(level, members, naming, pictures=ManyPictures(), image=image, errors=found)


def made_up_path(
    levels: int = 3,
    *,
    names: Sequence[str] = CIFAR_NAMES,
    long: bool = False,
    leaves: int | None = 2,
    odds: Sequence[float] | None = None,
    expected: int | None = 1,
) -> PathView:
    """Words 11, 12, ... and a wrong prediction, leaving the paths of the true class at a level (None: nowhere)."""
    words = [word_of(level, 10 + level, levels, names, long) for level in range(1, levels + 1)]
    words.append(word_of(levels + 1, len(names) - 1, levels, names, long))
    steps = []
    for level, word in enumerate(words, start=1):
        value = None if level > levels else (odds[level - 1] if odds is not None else 1.5 * level)
        other = None if value is None else word_of(level, 3, levels, names, long)
        steps.append(StepView(level, word, -0.01 * level, other, value))
    departure = None
    if leaves is not None:
        kept = None if expected is None else word_of(leaves, expected, levels, names, long)
        departure = Departure(leaves, words[leaves - 2] if leaves > 1 else None, words[leaves - 1], kept, 2.5)
        if expected is None:
            departure = Departure(leaves, departure.junction, departure.taken, None, None)
    predicted = names[-1]
    image = ImageView(4711, names[0], predicted, 0.62, PICTURES[0])
    return PathView(image, "joint", "made_up", tuple(steps), -0.73, departure)


def made_up_path_junctions(
    path: PathView,
    levels: Sequence[int],
    sizes: Sequence[int],
    *,
    names: Sequence[str] = CIFAR_NAMES,
    long: bool = False,
) -> list[JunctionView]:
    """Junctions of a path: the image goes on to the path's next word, which few or no members may take."""
    n_levels = len(path.steps) - 1
    found = []
    for level in levels:
        leaves = path.departure is not None and path.departure.level == level + 1
        expected = path.departure.expected.word if leaves and path.departure.expected is not None else None
        image = ExplainedImage(np.zeros(12), path.step(level + 1).word.word, expected)
        word = path.step(level).word.word
        found.append(
            made_up_junction(
                sizes, level=level, word=word, levels=n_levels, names=names, long=long, image=image, seed=level
            )
        )
    return found

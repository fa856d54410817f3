"""Words that stand beside a graph's, and the halves of the images: on one words are chosen, on the other judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput


def frequency_matched(counts: Int[Tensor, " K"], chosen: Sequence[int]) -> tuple[int, ...]:
    """For each chosen word, the other present word whose number of columns is nearest; none is taken twice.

    Args:
        counts: columns of each word in the images.
        chosen: words; the first is matched first. Ties go to the lower word.

    Returns:
        As many words as are chosen, or all others where there are fewer.

    Raises:
        RefusedInput: a word that is none of the counts.
    """
    if any(not 0 <= word < len(counts) for word in chosen):
        raise RefusedInput(f"chosen: must be words from 0 to {len(counts) - 1}, got {list(chosen)}; take one layer's")
    free = {word for word in counts.nonzero()[:, 0].tolist() if word not in chosen}
    found = []
    for word in chosen[: len(free)]:
        nearest = min(free, key=lambda one: (abs(int(counts[one]) - int(counts[word])), one))
        free.remove(nearest)
        found.append(nearest)
    return tuple(found)


def judging_half(images: Int[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Which images judge; the others choose. By a hash of image and seed (splitmix64), whoever else is there."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(images).astype(np.uint64) + np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) & np.uint64(1)).astype(bool)


def draw_keys(images: Int[np.ndarray, " n"], positions: int, draw: int, seed: int) -> torch.Tensor:
    """(n, positions) uniform in [0, 1), by image: of one draw the same whatever else is asked for."""
    found = [np.random.default_rng([seed % 2**63, draw, int(image)]).random(positions) for image in images]
    return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, positions, dtype=torch.float64)

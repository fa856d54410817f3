"""A fit half way through, on real digits, and its slices."""

from __future__ import annotations

from dataclasses import replace

import torch
from sklearn.datasets import load_digits

from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import TrainingState, training_start
from gmm_ops.mixtures.slices import slice_bounds
from tests.gmm_ops.drawn_columns import digit_patches, warm_mixture

WORDS, LABELS, POSITIONS = 45, 4, 16
EXACT = DiscriminativeSettings(precision="float64", minibatch=40)


def digit_images() -> tuple[torch.Tensor, torch.Tensor]:
    """((200 images, 16 positions, 16 units), labels): patches of real digits, the digit modulo 4."""
    columns = digit_patches()[: 200 * POSITIONS].view(200, POSITIONS, 16)
    return columns, torch.from_numpy(load_digits().target[:200]).long() % LABELS


def begun_fit(columns: torch.Tensor) -> TrainingState:
    """Some way into a fit: a classifier that is not zero, words that moved."""
    flat = columns.flatten(0, 1)
    begun = training_start(warm_mixture(flat, WORDS, floor=1e-2), LABELS, 50, flat.double().var(dim=0), EXACT)
    source = torch.Generator().manual_seed(3)
    weight = 5.0 * torch.randn(LABELS, WORDS, generator=source, dtype=torch.float64)
    bias = torch.randn(LABELS, generator=source, dtype=torch.float64)
    return replace(begun, parameters=begun.parameters.moved({"weight": weight, "bias": bias}))


def cut(state: TrainingState, rank: int, world: int) -> TrainingState:
    """Slice ``rank`` of an unsliced fit."""
    first, last = slice_bounds(state.parameters.n_words, rank, world)

    def part(name: str, value: torch.Tensor) -> torch.Tensor:
        return value if name == "bias" else value[:, first:last] if name == "weight" else value[first:last]

    def sliced(values):
        return {name: part(name, value) for name, value in values.items()}

    parameters = state.parameters.moved(sliced(state.parameters.trained()))
    moments = replace(state.moments, first=sliced(state.moments.first), second=sliced(state.moments.second))
    return replace(state, parameters=parameters, moments=moments, best=parameters)

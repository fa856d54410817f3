"""Chains and models for the tests: random tables, random log-likelihoods, activations drawn from a known model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gmm_ops.hmm.chain import Chain
from gmm_ops.hmm.model import HiddenMarkovModel, LayerWords


def random_chain(states: Sequence[int], seed: int = 0, sharpness: float = 1.0) -> Chain:
    """Tables with softmax columns; a larger ``sharpness`` makes them nearly deterministic. No first word is rare."""
    source = torch.Generator().manual_seed(seed)

    def table(upper: int, lower: int, sharpness: float = sharpness) -> Tensor:
        return (sharpness * torch.randn(upper, lower, dtype=torch.float64, generator=source)).softmax(dim=0)

    initial = table(states[0], 1, 0.3)[:, 0]
    return Chain(initial, tuple(table(k, j) for j, k in pairwise(states)))


def random_log_likelihoods(n: int, states: Sequence[int], scale: float, seed: int = 0) -> list[Tensor]:
    """(n, K) per layer, spread of ``scale`` about -5 ``scale``."""
    source = torch.Generator().manual_seed(seed)
    return [scale * (torch.randn(n, k, dtype=torch.float64, generator=source) - 5.0) for k in states]


def drawn_paths(chain: Chain, n: int, seed: int = 0) -> list[Tensor]:
    """(n,) words per variable, drawn from the chain."""
    source = torch.Generator().manual_seed(seed)
    words = [torch.multinomial(chain.initial, n, replacement=True, generator=source)]
    for table in chain.transitions:
        words.append(torch.multinomial(table[:, words[-1]].T, 1, generator=source)[:, 0])
    return words


def drawn_activations(model: HiddenMarkovModel, n: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """(float32 columns per layer, words per variable), drawn from the model."""
    words = drawn_paths(model.chain, n, seed)
    source = torch.Generator().manual_seed(seed + 1)
    columns = []
    for layer, word in zip(model.layers, words, strict=False):
        noise = torch.randn(n, layer.n_units, dtype=torch.float64, generator=source)
        y = layer.mean[word] + layer.variance[word].sqrt() * noise
        columns.append((y.clamp(min=0.0) if layer.rectified else y).float())
    return columns, words


def random_model(
    n_words: Sequence[int],
    n_units: Sequence[int],
    rectified: Sequence[bool],
    n_classes: int | None = None,
    seed: int = 0,
    apart: float = 2.0,
) -> HiddenMarkovModel:
    """Means about 0 with spread ``apart``, deviations of 0.5 to 1, transition columns with a few likely words."""
    source = torch.Generator().manual_seed(seed)
    layers = []
    for k, d, flag in zip(n_words, n_units, rectified, strict=True):
        mean = apart * torch.randn(k, d, dtype=torch.float64, generator=source)
        deviation = 0.5 + 0.5 * torch.rand(k, d, dtype=torch.float64, generator=source)
        layers.append(LayerWords(mean.clamp(min=-4.0 * deviation), deviation**2, flag))
    states = [*n_words, *([] if n_classes is None else [n_classes])]
    return HiddenMarkovModel(random_chain(states, seed, 1.5), tuple(layers))

"""Images for the tests: columns of a few kinds, mixed in shares that depend on the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gmm_ops.discriminative.parameters import TRAINED, Parameters
from gmm_ops.mixtures.seeding import initial_mixture
from tests.references.discriminative import Model


def drawn_images(
    n: int, positions: int, units: int, labels: int, seed: int = 0, noise: float = 0.5
) -> tuple[Tensor, Tensor]:
    """((n, positions, units) float32, (n,) labels): a label's images take most of their columns from its own kind."""
    source = torch.Generator().manual_seed(seed)
    kinds = 2.0 * torch.randn(labels + 2, units, generator=torch.Generator().manual_seed(99))
    label = torch.randint(labels, (n,), generator=source)
    kind = torch.randint(labels + 2, (n, positions), generator=source)
    own = torch.rand(n, positions, generator=source) < 0.2
    kind = torch.where(own, label[:, None], kind)
    return kinds[kind] + noise * torch.randn(n, positions, units, generator=source), label


def distracting_images(n: int, positions: int, labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """((n, positions, 5) float32, (n,) labels): four far clusters that say nothing of the label, and in the last
    unit a small shift that tells it. Four words of a likelihood fit sit on the clusters."""
    source = torch.Generator().manual_seed(seed)
    clusters = 6.0 * torch.eye(4)
    label = torch.randint(labels, (n,), generator=source)
    columns = torch.randn(n, positions, 5, generator=source)
    columns[..., :4] += clusters[torch.randint(4, (n, positions), generator=source)]
    columns[..., 4] += 1.5 * (label[:, None] - (labels - 1) / 2)
    return columns, label


def drawn_parameters(columns: Tensor, words: int, labels: int, seed: int = 0) -> Parameters:
    """Words at random columns, unequal in share and spread, and a random linear layer."""
    source = torch.Generator().manual_seed(seed)
    start = Parameters.from_mixture(initial_mixture(columns.reshape(-1, columns.shape[-1]), words, seed), labels)
    moves = {name: torch.randn(value.shape, generator=source).double() for name, value in start.trained().items()}
    return start.moved(
        {
            "word_logits": moves["word_logits"],
            "mean": start.mean + 0.2 * moves["mean"],
            "log_sd": start.log_sd + 0.3 * moves["log_sd"],
            "weight": 3.0 * moves["weight"],
            "bias": moves["bias"],
        }
    )


def as_model(parameters: Parameters) -> Model:
    return Model(*(getattr(parameters, name).tolist() for name in TRAINED))


def automatic_loss(fields: dict[str, Tensor], columns: Tensor, labels: Tensor) -> Tensor:
    """Eq. 8 written as tensors of (images, positions, words, units), for autograd; sum over the images."""
    gap = (columns[:, :, None] - fields["mean"]) / fields["log_sd"].exp()
    density = -0.5 * (gap * gap + 2.0 * fields["log_sd"] + math.log(2.0 * math.pi)).sum(dim=-1)
    joint = torch.log_softmax(fields["word_logits"], dim=0) + density
    histogram = joint.softmax(dim=-1).mean(dim=1)
    return functional.cross_entropy(histogram @ fields["weight"].T + fields["bias"], labels, reduction="sum")

"""Forward-backward with logarithms: slow, and right for any spread of probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 22
"""Most float64 numbers in one (rows, K_upper, K_lower) block."""


def log_forward_backward(
    initial: Float[Tensor, " K"],
    transitions: Sequence[Float[Tensor, "K_upper K_lower"]],
    log_likelihoods: Sequence[Float[Tensor, "n K"]],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(log likelihood (n,), gamma per layer (n, K), xi sums per pair (K_upper, K_lower)), float64.

    Impossible sequences get -inf and zeros.
    """
    tables = [table.double().log() for table in transitions]
    cells = max([table.numel() for table in tables], default=1)
    rows = max(1, BLOCK // cells)
    count = log_likelihoods[0].shape[0]
    parts = [
        _block(initial.double().log(), tables, [v[start : start + rows].double() for v in log_likelihoods])
        for start in range(0, count, rows)
    ]
    likelihoods, gammas, xis = zip(*parts, strict=True)
    return (
        torch.cat(likelihoods),
        tuple(torch.cat(layer) for layer in zip(*gammas, strict=True)),
        tuple(torch.stack(pair).sum(dim=0) for pair in zip(*xis, strict=True)),
    )


def _block(
    log_initial: Tensor, tables: list[Tensor], values: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    forward = [log_initial + values[0]]
    for table, value in zip(tables, values[1:], strict=True):
        forward.append(value + torch.logsumexp(table + forward[-1][:, None, :], dim=2))
    total = torch.logsumexp(forward[-1], dim=1)
    # Where the total is -inf every term is too: any finite number gives exp(-inf) = 0.
    finite = torch.where(total == -torch.inf, 0.0, total)
    backward = torch.zeros_like(values[-1])
    gammas, xis = [(forward[-1] - finite[:, None]).exp()], []
    for index in range(len(tables) - 1, -1, -1):
        evidence = values[index + 1] + backward
        pair = tables[index] + forward[index][:, None, :] + (evidence - finite[:, None])[:, :, None]
        xis.append(pair.exp_().sum(dim=0))
        backward = torch.logsumexp(tables[index] + evidence[:, :, None], dim=1)
        gammas.append((forward[index] + backward - finite[:, None]).exp())
    return total, tuple(reversed(gammas)), tuple(reversed(xis))

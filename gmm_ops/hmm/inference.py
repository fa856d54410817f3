"""Forward-backward over arrays of log-likelihoods; it cannot know what emitted them (IG Sec. 3.1, E-step).

Emissions are scaled by their best word and the forward messages to sum 1, so a layer costs three matrix products.
Scaling loses what underflows; how much is bounded by the product of the scales, and the few sequences for which the
bound does not hold are done again, in float64, then with logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.hmm.chain import Chain, refuse_no_number, refuse_other_log_likelihoods
from gmm_ops.mixtures.products import full_precision

LOWEST_LOG_SCALE = {torch.float32: -60.0, torch.float64: -600.0}
"""A weight lost to underflow is below 2^-126 (e^-87) of a message in float32, 2^-1022 (e^-708) in float64. All later
factors are at most 1, so while the scales multiply to more than this, the lost share of a sequence's likelihood
is under 2e-12 and e^-108."""

ROWS_PER_TILE = 2_048
"""On a CPU, messages of six layers of 40 words stay in the cache, and each product is worth two threads."""

ROWS_ON_A_GPU = 262_144
"""Sequences of one round of products: enough to fill a GPU."""

LogLikelihoods = Sequence[Float[Tensor, "n K"]]
"""log P(x^l | word) of every layer, lowest first; natural logarithm, -inf where a word is impossible."""


@dataclass(frozen=True)
class ChainPosterior:
    """What the observations say about the hidden words.

    log_likelihood: (n,) float64, log p(x^1 ... x^L), natural; -inf for an impossible sequence.
    gamma: per layer (n, K) P(word | all layers); zero everywhere for an impossible sequence.
    xi: per pair of layers (K_upper, K_lower) float64, the sum over sequences of P(both words | all layers).
    """

    log_likelihood: Float[Tensor, " n"]
    gamma: tuple[Float[Tensor, "n K"], ...]
    xi: tuple[Float[Tensor, "K_upper K_lower"], ...]


@torch.no_grad()
def forward_backward(chain: Chain, log_likelihoods: LogLikelihoods, tile_rows: int | None = None) -> ChainPosterior:
    """Posteriors of all sequences; on the device and, up to the rescue of underflows, in the type of the input.

    float64 in gives the last digits; float32 is about three times as fast. Raises RefusedInput (another number of
    layers or words), NonFiniteActivations (NaN or +inf).
    """
    refuse_other_log_likelihoods(chain, log_likelihoods)
    return _sweep(chain, [_floating(values) for values in log_likelihoods], tile_rows, posteriors=True)


@torch.no_grad()
def log_evidence(chain: Chain, log_likelihoods: LogLikelihoods, tile_rows: int | None = None) -> Float[Tensor, " n"]:
    """log p(x^1 ... x^L) per sequence, float64, natural logarithm: the forward half alone."""
    refuse_other_log_likelihoods(chain, log_likelihoods)
    values = [_floating(layer) for layer in log_likelihoods]
    return _sweep(chain, values, tile_rows, posteriors=False).log_likelihood


def _floating(values: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
    return values if values.dtype in LOWEST_LOG_SCALE else values.float()


def _sweep(chain: Chain, log_likelihoods: LogLikelihoods, tile_rows: int | None, posteriors: bool) -> ChainPosterior:
    first = log_likelihoods[0]
    dtype = torch.float64 if any(v.dtype == torch.float64 for v in log_likelihoods) else first.dtype
    device = first.device
    chain = chain.to(device)
    tables = tuple(table.to(dtype) for table in (chain.initial, *chain.transitions))
    values = [layer.to(dtype) for layer in log_likelihoods]
    found, kept = _products(tables, values, tile_rows, posteriors)
    rescue = (kept == 0).nonzero().squeeze(1)
    if len(rescue):
        _rescue(chain, [layer[rescue] for layer in values], found, rescue, posteriors)
    return found


def _products(
    tables: tuple[Tensor, ...], log_likelihoods: list[Tensor], tile_rows: int | None, posteriors: bool
) -> tuple[ChainPosterior, Tensor]:
    """All sequences by matrix products: (result, 1 or 0 where a sequence was left out)."""
    first, states = log_likelihoods[0], [len(table) for table in tables]
    rows, size = len(first), tile_rows or (ROWS_PER_TILE if first.device.type == "cpu" else ROWS_ON_A_GPU)
    found = ChainPosterior(
        first.new_empty(rows, dtype=torch.float64),
        tuple(first.new_empty(rows, k) for k in states) if posteriors else (),
        tuple(table.new_zeros(table.shape, dtype=torch.float64) for table in tables[1:]),
    )
    kept = first.new_empty(rows)
    with full_precision():
        for start in range(0, rows, size):
            part = slice(start, start + size)
            kept[part], pairs = _tile(tables, [values[part] for values in log_likelihoods], found, part, posteriors)
            for sums, more in zip(found.xi, pairs, strict=True):
                sums.add_(more)
    return found, kept


def _tile(
    tables: tuple[Tensor, ...], log_likelihoods: list[Tensor], found: ChainPosterior, part: slice, posteriors: bool
) -> tuple[Tensor, list[Tensor]]:
    """Fill the rows of ``part``; returns 0 for sequences whose scales became too small, else 1, and xi."""
    dtype = log_likelihoods[0].dtype
    weights, peak = _scaled_emissions(log_likelihoods)
    messages, scales = _forward(tables, weights)
    every = torch.cat(scales, dim=1).double().log_().sum(dim=1)
    kept = (every > LOWEST_LOG_SCALE[dtype]).to(dtype)
    torch.add(every, peak, out=found.log_likelihood[part])
    pairs = [torch.zeros_like(table) for table in tables[1:]]
    if posteriors:
        gammas = [gamma[part] for gamma in found.gamma]
        pairs = _backward(tables, weights, messages, scales, kept[:, None], gammas)
    return kept, pairs


def _scaled_emissions(log_likelihoods: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """(exp(values - best) per layer, sum of the best values in float64)."""
    weights = []
    peak = log_likelihoods[0].new_zeros(log_likelihoods[0].shape[0], dtype=torch.float64)
    for index, values in enumerate(log_likelihoods):
        best = values.amax(dim=1, keepdim=True)
        refuse_no_number(index, best)
        best.masked_fill_(best == -torch.inf, 0.0)
        weights.append((values - best).exp_())
        peak += best[:, 0]
    return weights, peak


def _forward(tables: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(P(word | layers up to here) per layer, scales: P(x^l | layers below) over the best word's)."""
    tiny = torch.finfo(weights[0].dtype).tiny
    messages: list[Tensor] = []
    scales: list[Tensor] = []
    for index, (table, weight) in enumerate(zip(tables, weights, strict=True)):
        message = weight * table if index == 0 else (messages[-1] @ table.T).mul_(weight)
        scale = message.sum(dim=1, keepdim=True)
        # A scale of 0 or nearly so is found by the caller; the division must only stay finite until then.
        messages.append(message.div_(scale.clamp(min=tiny)))
        scales.append(scale)
    return messages, scales


def _backward(
    tables: tuple[Tensor, ...],
    weights: list[Tensor],
    messages: list[Tensor],
    scales: list[Tensor],
    kept: Tensor,
    gammas: list[Tensor],
) -> list[Tensor]:
    """Fill the gammas of one tile; returns its xi. kept: (n, 1) 1 or 0; rows with 0 add nothing."""
    last = len(tables) - 1
    torch.mul(messages[last], kept, out=gammas[last])
    tiny = torch.finfo(kept.dtype).tiny
    backward = kept
    pairs = []
    for layer in range(last, 0, -1):
        evidence = weights[layer].mul_(backward / scales[layer].clamp_(min=tiny))
        # xi = T[k, k'] sum_n evidence[n, k] message[n, k']: the table multiplies once, after the sum.
        pairs.append((evidence.T @ messages[layer - 1]).mul_(tables[layer]))
        backward = evidence @ tables[layer]
        torch.mul(messages[layer - 1], backward, out=gammas[layer - 1])
    return pairs[::-1]


def _rescue(
    chain: Chain,
    log_likelihoods: LogLikelihoods,
    found: ChainPosterior,
    rows: Tensor,
    posteriors: bool,
) -> None:
    """Do the given rows again with a wider range of numbers and write them into ``found``."""
    wide = [values.double() for values in log_likelihoods]
    if log_likelihoods[0].dtype == torch.float32:
        again = _sweep(chain, wide, None, posteriors)
    else:
        again = ChainPosterior(*log_forward_backward(chain.initial, chain.transitions, wide))
    found.log_likelihood[rows] = again.log_likelihood
    if not posteriors:
        return
    for target, gamma in zip(found.gamma, again.gamma, strict=True):
        target[rows] = gamma.to(target.dtype)
    for sums, more in zip(found.xi, again.xi, strict=True):
        sums.add_(more)


def path_log_posterior(log_joint: Float[Tensor, " n"], log_likelihood: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log P(path | all layers) = log joint - log likelihood, at most 0; -inf for an impossible sequence."""
    found = (log_joint.double() - log_likelihood.double()).clamp(max=0.0)
    return torch.where(log_likelihood == -math.inf, -math.inf, found)


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

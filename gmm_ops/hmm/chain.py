"""The hidden chain of words: where it starts, and one table per pair of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.records import Record

SUM_TOLERANCE = 1e-6
"""How far the probabilities of a table's column may be from 1."""


@dataclass(frozen=True)
class Chain(Record):
    """h^1 ~ initial, h^l | h^(l-1) ~ T^l (IG Eq. 2), all float64; K may differ from layer to layer.

    initial: (K_1,) probabilities. transitions: one (K_upper, K_lower) table per pair of neighbouring layers, lowest
    first, T[k, k'] = P(upper = k | lower = k'), so columns sum to 1. Raises RefusedInput where that does not hold.
    """

    initial: Float[Tensor, " K"]
    transitions: tuple[Float[Tensor, "K_upper K_lower"], ...]

    def __post_init__(self) -> None:
        _refuse_no_distribution("initial", self.initial[:, None] if self.initial.ndim == 1 else self.initial, 1)
        lower = len(self.initial)
        for index, table in enumerate(self.transitions):
            name = f"transitions[{index}]"
            if table.ndim != 2 or table.shape[1] != lower:
                raise RefusedInput(
                    f"{name} must have shape (K_upper, {lower}), upper words by lower words; got {tuple(table.shape)}. "
                    "Is the table transposed, or are the layers out of order?"
                )
            _refuse_no_distribution(name, table, lower)
            lower = table.shape[0]

    @property
    def n_states(self) -> tuple[int, ...]:
        """K of every layer, lowest first."""
        return (len(self.initial), *(len(table) for table in self.transitions))

    def logarithms(self) -> tuple[Float[Tensor, " K"], list[Float[Tensor, "K_upper K_lower"]]]:
        """(log initial, log of every table), natural, -inf for 0.

        By numpy on a CPU: torch wakes its threads for a logarithm of any size, and for 10 ms afterwards they spin on
        the cores that the paths want.
        """
        first, *tables = (_logarithm(table) for table in (self.initial, *self.transitions))
        return first, tables

    def marginals(self) -> list[Float[Tensor, " K"]]:
        """P(word) of every layer before anything is seen, lowest first."""
        found = [self.initial]
        for table in self.transitions:
            found.append(table @ found[-1])
        return found

    def relabelled(self, orders: Sequence[Int[Tensor, " K"]]) -> Chain:
        """The same chain with word k of layer l taken from word ``orders[l][k]``."""
        pairs = zip(self.transitions, orders[:-1], orders[1:], strict=True)
        return Chain(self.initial[orders[0]], tuple(table[upper][:, lower] for table, lower, upper in pairs))


def refuse_other_log_likelihoods(chain: Chain, log_likelihoods: Sequence[Float[Tensor, "n K"]]) -> None:
    """Raise RefusedInput unless there is one (n, K_l) tensor per layer."""
    states = chain.n_states
    if len(log_likelihoods) != len(states):
        raise RefusedInput(
            f"log_likelihoods must hold one (n, K) tensor per layer of the chain, {len(states)}; got "
            f"{len(log_likelihoods)}. An observed last variable takes `observed_log_likelihoods`."
        )
    rows = log_likelihoods[0].shape[0]
    for index, (values, words) in enumerate(zip(log_likelihoods, states, strict=True)):
        if values.shape != (rows, words):
            raise RefusedInput(
                f"log_likelihoods[{index}] must have shape ({rows}, {words}); got {tuple(values.shape)}. Are the "
                "layers in the chain's order, and of the same images?"
            )


def refuse_no_number(index: int, values: Float[Tensor, "n K"]) -> None:
    """Raise NonFiniteActivations if log-likelihoods of layer ``index``, or their largest, hold NaN or +inf.

    Called tile by tile: one look at everything beforehand would cost a tenth of the work.
    """
    if values.numel() and not bool(values.amax() < torch.inf):
        raise NonFiniteActivations(
            f"log_likelihoods[{index}] must be below infinity; it holds NaN or +inf. Look at the activations of that "
            "layer and at the variances of its words."
        )


def observed_log_likelihoods(
    observed: Int[Tensor, " n"], n_states: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "n K"]:
    """Log-likelihoods of a variable that is seen itself, such as the predicted class: 0 there, -inf elsewhere.

    Raises RefusedInput for a value outside 0 ... n_states - 1.
    """
    if observed.ndim != 1 or observed.is_floating_point():
        raise RefusedInput(
            f"observed must be integers of shape (n,); got {observed.dtype} of shape {tuple(observed.shape)}. Pass the "
            "index of the predicted class of each image."
        )
    outside = (observed < 0) | (observed >= n_states)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise RefusedInput(
            f"observed must lie in 0 ... {n_states - 1}; row {row} is {int(observed[row])}. Give the number of classes "
            "that the network tells apart."
        )
    values = torch.full((len(observed), n_states), -torch.inf, dtype=dtype, device=observed.device)
    return values.scatter_(1, observed.long()[:, None], 0.0)


def _logarithm(table: Tensor) -> Tensor:
    if table.device.type != "cpu":
        return table.log()
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(table.numpy()))


def _refuse_no_distribution(name: str, table: Float[Tensor, "K K_lower"], columns: int) -> None:
    good = table.ndim == 2 and table.shape[0] > 0 and table.shape[1] == columns and bool((table >= 0).all())
    if not (good and bool(((table.sum(dim=0) - 1.0).abs() <= SUM_TOLERANCE).all())):
        raise RefusedInput(
            f"{name} must hold probabilities, 0 or more, that sum to 1 over the upper words; got shape "
            f"{tuple(table.shape)} with sums from {float(table.sum(dim=0).min()) if table.numel() else 0.0:g} to "
            f"{float(table.sum(dim=0).max()) if table.numel() else 0.0:g}. Divide every column by its sum."
        )

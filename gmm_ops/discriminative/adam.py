"""Adam with the one-cycle schedule as pure functions of plain tensors; `torch.optim` step for step.

Adam: Kingma and Ba 2015, torch's own functional one. One cycle: Smith and Topin 2019; the constants are those of
``torch.optim.lr_scheduler.OneCycleLR`` with cosine annealing, which needs an optimiser that keeps its own tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Record

RISING_SHARE = 0.3
"""Share of the steps in which the rate rises and the momentum falls."""

FIRST_DIVISOR = 25.0
"""The first rate is the highest divided by this."""

LAST_DIVISOR = 1e4
"""The last rate is the first divided by this."""

MOMENTA = (0.85, 0.95)
"""Adam's beta 1: the lower one at the highest rate, the higher one at both ends."""

SECOND_BETA = 0.999
EPSILON = 1e-8


@dataclass(frozen=True)
class Moments(Record):
    """Adam's running means by parameter name, float64. step: steps taken."""

    step: int
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]

    @classmethod
    def zero(cls, values: Mapping[str, Tensor]) -> Moments:
        """Before the first step."""
        return cls(0, *({name: torch.zeros_like(v) for name, v in values.items()} for _ in range(2)))


def one_cycle(step: int, total_steps: int, highest: float) -> tuple[float, float]:
    """(rate, beta 1) of step 0, 1, ..., total_steps - 1. highest: the rate at the top of the cycle."""
    if not 0 <= step < total_steps:
        raise RefusedInput(
            f"step must lie between 0 and {total_steps - 1}, the last of the one-cycle schedule; got {step}. "
            "Start with the number of steps that the epochs come to."
        )
    low, high = MOMENTA
    if total_steps == 1:
        # torch's cycle of one step is its last, whose rate moves nothing.
        return highest, low
    top = RISING_SHARE * total_steps - 1
    first = highest / FIRST_DIVISOR
    if step <= top:
        done = step / top
        return _cosine(first, highest, done), _cosine(high, low, done)
    done = (step - top) / (total_steps - 1 - top)
    return _cosine(highest, first / LAST_DIVISOR, done), _cosine(low, high, done)


def adam_step(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Moments,
    rates: Mapping[str, float | Tensor],
    momentum: float,
) -> tuple[dict[str, Tensor], Moments]:
    """One step of Adam: (new values, new moments). Pure.

    rates: learning rate by name, one number or one for every entry along the last axes. momentum: beta 1 of this step.
    """
    names = list(values)
    # In place on zeros at rate 1, so that a rate may be a tensor and the values stay as they are.
    moves = [torch.zeros_like(values[name]) for name in names]
    first, second = ([part[name].clone() for name in names] for part in (moments.first, moments.second))
    adam(
        moves,
        [gradients[name] for name in names],
        first,
        second,
        max_exp_avg_sqs=[],
        state_steps=[torch.tensor(float(moments.step)) for _ in names],
        amsgrad=False,
        beta1=momentum,
        beta2=SECOND_BETA,
        lr=1.0,
        weight_decay=0.0,
        eps=EPSILON,
        maximize=False,
    )
    new = {name: values[name] + rates[name] * move for name, move in zip(names, moves, strict=True)}
    return new, Moments(moments.step + 1, *(dict(zip(names, part, strict=True)) for part in (first, second)))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))

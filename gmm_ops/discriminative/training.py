"""Discriminative training: its settings, its state, and the pure step that every actor repeats (IG Eq. 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.discriminative.adam import Moments, adam_step, one_cycle
from gmm_ops.discriminative.loss import Gradient, parameter_gradient
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.errors import Diverged, RefusedInput
from gmm_ops.mixture import Mixture

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class DiscriminativeSettings:
    """How a dictionary is trained to carry the decision.

    mixture_rate: highest learning rate of the words; for means in units of the layer's standard deviation, so that
    a layer times 10 trains alike. classifier_rate: of the linear layer. minibatch: images of a global minibatch.
    epochs: passes over the images, at most. patience: stop after this many epochs without a lower held-out loss.
    var_floor: lowest variance, as a share of the layer's mean variance. precision: of the products; sums and
    parameters are float64. max_loss: a minibatch loss above this many times log M, the loss of guessing, is refused.
    """

    mixture_rate: float = 1e-2
    classifier_rate: float = 1e-1
    minibatch: int = 100
    epochs: int = 5
    patience: int = 2
    var_floor: float = 1e-4
    precision: Precision = "float32"
    max_loss: float = 20.0

    def __post_init__(self) -> None:
        rules = {
            "mixture_rate": (0.0 <= self.mixture_rate < math.inf, "0 or more, and finite"),
            "classifier_rate": (0.0 < self.classifier_rate < math.inf, "above 0, and finite"),
            "minibatch": (self.minibatch >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "patience": (self.patience >= 1, "at least 1"),
            "var_floor": (self.var_floor > 0.0, "above 0"),
            "precision": (self.precision in ("float32", "float64"), "'float32' or 'float64'"),
            "max_loss": (self.max_loss > 1.0, "above 1"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise RefusedInput(f"{name} must be {rule}; got {getattr(self, name)!r}.")

    @property
    def dtype(self) -> torch.dtype:
        """Of the products."""
        return torch.float64 if self.precision == "float64" else torch.float32


@dataclass(frozen=True)
class TrainingState:
    """All that a fit carries from one minibatch to the next; the same on every actor, bit for bit.

    parameters: of the next step. moments: Adam's. total_steps: length of the one-cycle schedule.
    log_sd_floor: lowest log standard deviation. scale: the layer's standard deviation, one number.
    best: parameters with the lowest held-out loss so far, ``best_loss`` (mean, natural logarithm; inf before the
    first judgement). stale: judgements since then.
    """

    parameters: Parameters
    moments: Moments
    total_steps: int
    log_sd_floor: float
    scale: float
    best: Parameters
    best_loss: float = math.inf
    stale: int = 0

    @property
    def step(self) -> int:
        """Minibatches taken."""
        return self.moments.step

    def result(self) -> Parameters:
        """The best parameters by held-out loss; the last ones if none was judged."""
        return self.best if math.isfinite(self.best_loss) else self.parameters

    def judged(self, held_out_loss: float) -> TrainingState:
        """After an epoch: keep the parameters if their mean held-out loss is the lowest. NaN raises Diverged."""
        if not math.isfinite(held_out_loss):
            raise Diverged(f"the held-out loss is {held_out_loss}. {REMEDY}", max(0, self.step - 1))
        if held_out_loss < self.best_loss:
            return replace(self, best=self.parameters, best_loss=held_out_loss, stale=0)
        return replace(self, stale=self.stale + 1)

    def should_stop(self, settings: DiscriminativeSettings) -> bool:
        """Whether the schedule is done, or the held-out loss has not fallen for ``patience`` judgements."""
        return self.step >= self.total_steps or self.stale >= settings.patience

    def to(self, device: torch.device | str) -> TrainingState:
        """The same state on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("parameters", "moments", "best")}
        return replace(self, **moved)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for a checkpoint: a fit resumed from them goes on bit for bit."""
        return {
            "total_steps": np.array(self.total_steps, np.int64),
            "stale": np.array(self.stale, np.int64),
            **{name: np.array(getattr(self, name), np.float64) for name in _NUMBERS},
            **self.parameters.to_arrays(),
            **self.moments.to_arrays(),
            **self.best.to_arrays("best_"),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingState:
        """Inverse of ``to_arrays``."""
        return cls(
            Parameters.from_arrays(arrays),
            Moments.from_arrays(arrays),
            int(arrays["total_steps"]),
            best=Parameters.from_arrays(arrays, "best_"),
            stale=int(arrays["stale"]),
            **{name: float(arrays[name]) for name in _NUMBERS},
        )


_NUMBERS = ("log_sd_floor", "scale", "best_loss")

REMEDY = "Lower mixture_rate or classifier_rate, or raise var_floor."


RUNAWAY = 1_000.0
"""A word farther from the centre, or wider, than this many standard deviations of the layer models no column."""


def start(
    mixture: Mixture,
    n_labels: int,
    total_steps: int,
    layer_variance: Float[Tensor, " D"],
    settings: DiscriminativeSettings,
) -> TrainingState:
    """State before the first minibatch.

    mixture: of the generative fit, or from ``initial_mixture`` for the paper's start. total_steps: minibatches of
    all epochs. layer_variance: of each unit over all columns; sets the floor and the scale of the means' rate.
    Raises RefusedInput (fewer than 2 labels, no step, a layer without variance).
    """
    if total_steps < 1:
        raise RefusedInput(f"total_steps must be at least 1; got {total_steps}. Are there images to train on?")
    mean_variance = float(layer_variance.double().mean())
    if not 0.0 < mean_variance < math.inf:
        raise RefusedInput(
            f"layer_variance must be positive and finite in its mean; got {mean_variance}. Is the layer dead?"
        )
    floor = 0.5 * math.log(settings.var_floor * mean_variance)
    parameters = Parameters.from_mixture(mixture, n_labels)
    parameters = parameters.moved({"log_sd": parameters.log_sd.clamp(min=floor)})
    moments = Moments.zero(parameters.trained())
    return TrainingState(parameters, moments, total_steps, floor, math.sqrt(mean_variance), parameters)


def advance(state: TrainingState, gradient: Gradient, settings: DiscriminativeSettings) -> TrainingState:
    """One step of Adam on the mean loss of the global minibatch. Pure.

    gradient: sums over the whole global minibatch at ``state.parameters``. The floor is kept by lifting log sd
    after the step, so a word at the floor can still widen. Raises Diverged, RefusedInput (empty batch).
    """
    slopes = parameter_gradient(state.parameters, gradient)
    refuse_diverging(gradient, slopes, state.step, settings)
    # In units of the layer, like the rate: Adam's epsilon would otherwise weigh more where activations are large.
    slopes["mean"] = slopes["mean"] * state.scale
    rates, momentum = step_rates(state.step, state.total_steps, state.scale, settings)
    values, moments = adam_step(state.parameters.trained(), slopes, state.moments, rates, momentum)
    values["log_sd"].clamp_(min=state.log_sd_floor)
    parameters = state.parameters.moved(values)
    refuse_runaway_words(parameters, state.scale, state.step)
    return replace(state, parameters=parameters, moments=moments)


def step_rates(
    step: int, total_steps: int, scale: float, settings: DiscriminativeSettings
) -> tuple[dict[str, float], float]:
    """(learning rate by parameter name, beta 1) of a step."""
    mixture, momentum = one_cycle(step, total_steps, settings.mixture_rate)
    classifier, _ = one_cycle(step, total_steps, settings.classifier_rate)
    rates = {"word_logits": mixture, "mean": mixture * scale, "log_sd": mixture}
    return {**rates, "weight": classifier, "bias": classifier}, momentum


def refuse_runaway_words(parameters: Parameters, scale: float, step: int) -> None:
    """Raise Diverged if a parameter is not finite, or a word lies so far out or is so wide that no column tells it.

    With a rate far too high the loss need not explode: the words fly apart and it stays at that of guessing.
    """
    if not parameters.is_finite():
        raise Diverged(f"a parameter became NaN or infinite. {REMEDY}", step)
    distance = float((parameters.mean - parameters.center).abs().max()) / scale
    width = math.exp(min(700.0, float(parameters.log_sd.max()))) / scale
    for value, what in ((distance, "lies"), (width, "has a standard deviation of")):
        if value > RUNAWAY:
            far = " from the layer's centre" if what == "lies" else ""
            raise Diverged(f"a word {what} {value:.4g} standard deviations of the layer{far}. {REMEDY}", step)


def image_minibatches(n_images: int, minibatch: int, seed: int, epoch: int) -> tuple[Int[Tensor, " n"], ...]:
    """Rows of every global minibatch of an epoch of images in memory: a seeded permutation, cut evenly.

    The number of minibatches, n_images / minibatch rounded and at least 1, is the same in every epoch.
    """
    source = np.random.default_rng([seed, epoch])
    order = torch.from_numpy(source.permutation(n_images))
    return order.tensor_split(max(1, round(n_images / minibatch)))


class LossSums(Protocol):
    """What a step needs of a gradient to tell whether training diverges."""

    @property
    def count(self) -> float:
        """Images."""

    @property
    def loss(self) -> float:
        """Sum of their cross entropies."""

    @property
    def bias(self) -> Float[Tensor, " M"]:
        """One slope per label."""


def refuse_diverging(
    gradient: LossSums, slopes: Mapping[str, Tensor], step: int, settings: DiscriminativeSettings
) -> None:
    """Raise Diverged if the loss or a slope is not finite, or the loss is far above that of guessing."""
    loss, guessing = gradient.loss / gradient.count, math.log(len(gradient.bias))
    if not loss <= settings.max_loss * guessing:
        raise Diverged(
            f"the loss of the minibatch is {loss:.4g}; guessing has {guessing:.3g}, and max_loss allows "
            f"{settings.max_loss:g} times that. {REMEDY}",
            step,
        )
    broken = [name for name, slope in slopes.items() if not bool(torch.isfinite(slope).all())]
    if broken:
        raise Diverged(f"the gradient of {broken[0]} holds NaN or infinity. {REMEDY}", step)

"""Discriminative training: its state, and the pure step that every actor repeats (IG Eq. 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.adam import Moments, adam_step, one_cycle
from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.early_stopping import JudgedState
from gmm_ops.discriminative.evaluation import Evaluation, evaluate
from gmm_ops.discriminative.histogram import LabelledImages
from gmm_ops.discriminative.loss import Gradient, batch_gradient, own_words, parameter_gradient
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.discriminative.settings import REMEDY, DiscriminativeSettings
from gmm_ops.errors import Diverged, RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice, as_slice, refuse_broken_slices


@dataclass(frozen=True)
class TrainingState(JudgedState[Parameters]):
    """The state of a fit of words and classifier; the same on every actor that holds the same words, bit for bit.

    Of a slice, parameters and moments are of its own words; all else is the same on every slice.

    parameters: of the next step. log_sd_floor: (D,) lowest log standard deviation. scale: (D,) standard deviation of
    every unit in the layer.
    """

    parameters: Parameters
    log_sd_floor: Float[Tensor, " D"]
    scale: Float[Tensor, " D"]
    best: Parameters = field(kw_only=True)

    @property
    def current(self) -> Parameters:
        """``parameters``."""
        return self.parameters

    def no_gradient(self) -> Gradient:
        """Of no image."""
        now = self.parameters
        return Gradient.zero(now.n_words, now.n_units, now.n_labels, now.mean.device)

    def gradient(self, images: LabelledImages, settings: DiscriminativeSettings, words: Collective = LONE) -> Gradient:
        """``batch_gradient``."""
        return batch_gradient(self.parameters, images.columns, images.labels, settings.dtype, collective=words)

    def advanced(self, gradient: Gradient, settings: DiscriminativeSettings, words: Collective = LONE) -> TrainingState:
        """``training_step``."""
        return training_step(self, gradient, settings, words)

    def judge(
        self, settings: DiscriminativeSettings, words: Collective = LONE, hard: bool = False
    ) -> Callable[[LabelledImages], Evaluation]:
        """``evaluate``."""
        own, layer = own_words(self.parameters, words), LinearClassifier.of(self.parameters)
        return lambda images: evaluate(
            own, layer, images.columns, images.labels, hard=hard, dtype=settings.dtype, collective=words
        )

    @property
    def layer_scale(self) -> float:
        """The layer's standard deviation: root of the mean variance of its units."""
        return float(self.scale.square().mean().sqrt())


RUNAWAY = 1_000.0
"""A word farther from the centre, or wider, than this many standard deviations of the layer models no column."""


def training_start(
    words: Mixture | WordSlice,
    n_labels: int,
    total_steps: int,
    layer_variance: Float[Tensor, " D"],
    settings: DiscriminativeSettings,
    collective: Collective = LONE,
    lowest_variance: Float[Tensor, " D"] | None = None,
) -> TrainingState:
    """State before the first minibatch.

    words: of the generative fit, or from ``initial_mixture`` or ``initial_slice`` for the paper's start. total_steps:
    minibatches of all epochs. layer_variance: of each unit over all columns; its mean sets the floor, each the step of
    its unit's means: with one step for all units the means of a dead unit would leave its columns by many of its
    standard deviations, and the words with them. lowest_variance: of every unit, where a fit before had its own; the
    floor of another would move words that lie on theirs.
    Raises RefusedInput (fewer than 2 labels, no step, a layer without variance; slices that do not tile one
    dictionary), on every slice alike.
    """
    refuse_broken_slices(as_slice(words), collective)
    if total_steps < 1:
        raise RefusedInput(f"total_steps must be at least 1; got {total_steps}. Are there images to train on?")
    mean_variance = float(layer_variance.double().mean())
    if not 0.0 < mean_variance < math.inf:
        raise RefusedInput(
            f"layer_variance must be positive and finite in its mean; got {mean_variance}. Is the layer dead?"
        )
    parameters = Parameters.from_mixture(words, n_labels)
    scale = layer_variance.to(parameters.mean).sqrt()
    if lowest_variance is None:
        lowest_variance = torch.full_like(scale, settings.var_floor * mean_variance)
    floor = 0.5 * lowest_variance.to(scale).log()
    parameters = parameters.moved({"log_sd": torch.maximum(parameters.log_sd, floor)})
    moments = Moments.zero(parameters.trained())
    return TrainingState(parameters, floor, scale, moments=moments, total_steps=total_steps, best=parameters)


@torch.no_grad()
def training_step(
    state: TrainingState, gradient: Gradient, settings: DiscriminativeSettings, collective: Collective = LONE
) -> TrainingState:
    """One step of Adam on the mean loss of the global minibatch. Pure; one number is reduced over slices.

    gradient: sums over the whole global minibatch at ``state.parameters``. The floor is kept by lifting log sd
    after the step, so a word at the floor can still widen.
    Raises Diverged on every slice if one diverges; RefusedInput for an empty batch.
    """
    failure: Diverged | None = None
    moved = state
    try:
        moved = _moved(state, gradient, settings)
    except Diverged as error:
        failure = error
    # A slice that stopped alone would leave the others waiting for ever.
    diverged = float(collective.all_reduce_max(gradient.bias.new_tensor(float(failure is not None))))
    if failure is not None:
        raise failure
    if diverged:
        raise Diverged(f"the words of another slice became NaN or infinite. {REMEDY}", state.step)
    return moved


def _moved(state: TrainingState, gradient: Gradient, settings: DiscriminativeSettings) -> TrainingState:
    slopes = parameter_gradient(state.parameters, gradient)
    refuse_diverging(gradient, slopes, state.step, settings)
    # In standard deviations of the unit, like the rate: Adam's epsilon would otherwise weigh more where they are large.
    slopes["mean"] = slopes["mean"] * state.scale
    rates, momentum = step_rates(state.step, state.total_steps, state.scale, settings)
    values, moments = adam_step(state.parameters.trained(), slopes, state.moments, rates, momentum)
    values["log_sd"] = torch.maximum(values["log_sd"], state.log_sd_floor)
    parameters = state.parameters.moved(values)
    refuse_runaway_words(parameters, state.layer_scale, state.step)
    return replace(state, parameters=parameters, moments=moments)


def step_rates(
    step: int, total_steps: int, scale: Float[Tensor, " D"], settings: DiscriminativeSettings
) -> tuple[dict[str, float | Tensor], float]:
    """(learning rate by parameter name, beta 1) of a step. scale: of the means' rate, in every unit."""
    mixture, momentum = one_cycle(step, total_steps, settings.mixture_rate)
    classifier, _ = one_cycle(step, total_steps, settings.classifier_rate)
    rates: dict[str, float | Tensor] = {"word_logits": mixture, "mean": mixture * scale, "log_sd": mixture}
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


@runtime_checkable
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

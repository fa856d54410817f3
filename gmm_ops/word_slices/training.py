"""Discriminative training of a sliced dictionary: Adam moments stay with their words (IG Eq. 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.discriminative.loss import Gradient
from gmm_ops.discriminative.parameters import REVIVED_SHARE
from gmm_ops.discriminative.settings import REMEDY, DiscriminativeSettings
from gmm_ops.discriminative.training import TrainingState, advance, start
from gmm_ops.errors import Diverged
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.slices import WordSlice, refuse_broken_slices
from gmm_ops.word_slices.gradient import ParameterSlice


@dataclass(frozen=True)
class SliceTraining:
    """A fit's state on one slice.

    own: parameters and moments of the own words; step, floor, scale and losses are the same on every slice.
    first, n_words: as in WordSlice.
    """

    own: TrainingState
    first: int
    n_words: int

    @property
    def parameters(self) -> ParameterSlice:
        """Of the next step."""
        return ParameterSlice(self.own.parameters, self.first, self.n_words)

    def result(self) -> ParameterSlice:
        """The best parameters by held-out loss; the last ones if none was judged."""
        return ParameterSlice(self.own.result(), self.first, self.n_words)

    def judged(self, held_out_loss: float) -> SliceTraining:
        """After an epoch, with the mean loss from ``sliced_evaluate``. NaN raises Diverged on every slice."""
        return replace(self, own=self.own.judged(held_out_loss))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for this slice's checkpoint: a fit resumed from those of all slices goes on bit for bit."""
        place = {"first": np.array(self.first, np.int64), "n_words": np.array(self.n_words, np.int64)}
        return self.own.to_arrays() | place

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SliceTraining:
        """Inverse of ``to_arrays``."""
        return cls(TrainingState.from_arrays(arrays), int(arrays["first"]), int(arrays["n_words"]))


def sliced_training_start(
    words: WordSlice,
    n_labels: int,
    total_steps: int,
    layer_variance: Float[Tensor, " D"],
    settings: DiscriminativeSettings,
    reduce: Collective,
) -> SliceTraining:
    """`gmm_ops.discriminative.training.start` of one slice.

    words: of a generative fit, or from ``initial_slice``. layer_variance: (D,), the same on every slice.
    Raises RefusedInput, on every slice alike.
    """
    refuse_broken_slices(words, reduce)
    own = start(words.own, n_labels, total_steps, layer_variance, settings)
    # An empty word is revived at a share of 1/K of the whole dictionary, not of the slice.
    logits = words.own.log_pi.double().clamp(min=math.log(REVIVED_SHARE / words.n_words))
    parameters = own.parameters.moved({"word_logits": logits})
    return SliceTraining(replace(own, parameters=parameters, best=parameters), words.first, words.n_words)


@torch.no_grad()
def sliced_training_advance(
    training: SliceTraining, gradient: Gradient, settings: DiscriminativeSettings, reduce: Collective
) -> SliceTraining:
    """One step of Adam on the own words, `gmm_ops.discriminative.training.advance`. Pure; one number is reduced.

    gradient: of the own words, sums over the whole global minibatch. Raises Diverged on every slice if one diverges;
    RefusedInput for an empty batch.
    """
    failure: Diverged | None = None
    own = training.own
    try:
        own = advance(training.own, gradient, settings)
    except Diverged as error:
        failure = error
    # A slice that stopped alone would leave the others waiting for ever.
    diverged = float(reduce.all_reduce_max(gradient.bias.new_tensor(float(failure is not None))))
    if failure is not None:
        raise failure
    if diverged:
        raise Diverged(f"the words of another slice became NaN or infinite. {REMEDY}", training.own.step)
    return replace(training, own=own)

"""Online EM (Cappe and Moulines 2009): the step, and a whole fit of columns in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.loop import FitLoop, LogLikelihood, Taken, fit_likelihood, has_converged, in_memory
from gmm_ops.inputs import as_columns, as_count, as_tensor
from gmm_ops.mixtures.gaussian import refuse_non_finite
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import OnlineEM, OnlineEMSettings, OnlineEMState, advance, start, step_size
from gmm_ops.mixtures.seeding import Initialisation, generator, initial_mixture, refuse_too_many_words
from gmm_ops.mixtures.statistics import MixtureStatistics

__all__ = [
    "FitResult",
    "OnlineEMSettings",
    "OnlineEMState",
    "StepRecord",
    "advance",
    "fit_online",
    "has_converged",
    "start",
    "step_size",
]

HELD_OUT_SHARE = 0.1
"""Share of the images that are not fitted but judged on."""

HELD_OUT_PER_STEP = 256
"""Held-out columns looked at after every step, at least, and a quarter of a minibatch; a fixed seeded choice, so steps
are comparable."""


@dataclass(frozen=True)
class StepRecord:
    """One minibatch of a fit. Log-likelihoods are means of log p(x) per column, natural logarithm.

    step: from 0. step_size: g. log_likelihood: of the minibatch, before the update. held_out: of a fixed
    choice of held-out columns, after it. reseeded: words re-seeded in this step.
    """

    step: int
    epoch: int
    step_size: float
    log_likelihood: float
    held_out: float
    reseeded: int


@dataclass(frozen=True)
class FitResult:
    """A fitted dictionary and how it was reached.

    history: one record per minibatch. epoch_held_out: mean log p(x) of all held-out columns, before the
    first epoch and after each. reseeded: (K,) int64, how often each word took half of another. converged: the last
    epoch gained less than the tolerance; otherwise more epochs may gain more.
    """

    mixture: Mixture
    history: tuple[StepRecord, ...]
    epoch_held_out: tuple[float, ...]
    reseeded: Int[Tensor, " K"]
    converged: bool


def fit_online(
    columns: Columns,
    n_words: int,
    seed: int,
    settings: OnlineEMSettings | None = None,
    images: Int[Tensor, " n"] | None = None,
    init: Initialisation = "random",
    held_out: Columns | None = None,
) -> FitResult:
    """Learn a dictionary of ``n_words`` words from columns in memory.

    columns: (n, D). images: (n,) image of each column; a seeded tenth of the images is held out (of the
    columns, without ``images``), unless ``held_out`` columns are given. Minibatch, warm-up and epochs follow the
    number of columns (``OnlineEMSettings.for_columns``), whether settings are given or not.
    Raises NonFiniteActivations, RefusedInput (K > n, images of another length).
    """
    columns, n_words, seed = as_columns("columns", columns), as_count("n_words", n_words), as_count("seed", seed, 0)
    images = None if images is None else as_tensor("images", images)
    held_out = None if held_out is None else as_columns("held_out", held_out)
    _refuse_other_length(columns, images)
    refuse_too_many_words(n_words, columns.shape[0])
    refuse_non_finite(columns)
    if held_out is None:
        fitted, judged = _split(columns.shape[0], images, seed)
        held_out = columns[judged]
    else:
        fitted = torch.arange(columns.shape[0])
    settings = (settings or OnlineEMSettings()).for_columns(len(fitted), n_words)
    rows = fitted[torch.randperm(len(fitted), generator=generator(seed))]
    glimpse = _glimpse(held_out, settings.minibatch, seed)
    source = in_memory(rows, settings.minibatch, seed, columns.__getitem__, held_out, [glimpse])
    first = initial_mixture(columns[fitted], n_words, seed, init, settings.var_floor, settings.floor_of)
    history: list[StepRecord] = []
    fit = fit_likelihood(
        FitLoop(source, OnlineEM(settings)),
        start(first, settings),
        settings.epochs,
        settings.tolerance,
        lambda taken: history.append(_record(taken, settings)),
    )
    return FitResult(fit.state.result(settings), tuple(history), fit.held_out, fit.state.reseeded, fit.converged)


def _record(taken: Taken[OnlineEMState, MixtureStatistics, LogLikelihood], settings: OnlineEMSettings) -> StepRecord:
    return StepRecord(
        taken.step.index,
        taken.step.epoch,
        step_size(taken.before.step, settings),
        taken.batch.log_likelihood / taken.batch.count,
        taken.glimpse.mean,
        int((taken.after.reseeded - taken.before.reseeded).sum()),
    )


def _glimpse(held_out: Columns, minibatch: int, seed: int) -> Columns:
    chosen = torch.randperm(len(held_out), generator=generator(seed))
    return held_out[chosen[: max(HELD_OUT_PER_STEP, minibatch // 4)]]


def _split(n_columns: int, images: Int[Tensor, " n"] | None, seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """(fitted rows, held-out rows): whole images, because columns of one image are not independent."""
    image = torch.arange(n_columns) if images is None else images.cpu()
    present = image.unique()
    if len(present) < 2:
        raise RefusedInput(
            f"columns must come from at least 2 images, one to hold out; got {len(present)}. "
            "Pass held_out columns, or more images."
        )
    order = torch.randperm(len(present), generator=generator(seed))
    count = max(1, round(HELD_OUT_SHARE * len(present)))
    judged = torch.isin(image, present[order[:count]])
    return (~judged).nonzero().squeeze(1), judged.nonzero().squeeze(1)


def _refuse_other_length(columns: Columns, images: Int[Tensor, " n"] | None) -> None:
    if images is not None and images.shape != columns.shape[:1]:
        raise RefusedInput(
            f"images must give one image per column, shape ({columns.shape[0]},); got {tuple(images.shape)}."
        )

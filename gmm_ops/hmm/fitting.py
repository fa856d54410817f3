"""Where a hidden Markov model starts, and a whole online fit of activations in memory, with restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.axes import LayerColumns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.loop import FitLoop, fit_likelihood, in_memory
from gmm_ops.hmm.chain import Chain, observed_log_likelihoods
from gmm_ops.hmm.learning import ChainImages, HMMSettings, OnlineChainEM, start
from gmm_ops.hmm.model import HiddenMarkovModel, LayerWords
from gmm_ops.hmm.rectified_gaussian import refuse_negative
from gmm_ops.mixtures.online_em import HELD_OUT_SHARE
from gmm_ops.mixtures.seeding import FloorOf, Initialisation, fit_seed, generator, initial_mixture


@dataclass(frozen=True)
class HMMFit:
    """A fitted model and how it was reached.

    restart: number of the start that was kept. held_out: per restart, mean log p of the held-out images before the
    first epoch and after each, natural logarithm.
    """

    model: HiddenMarkovModel
    restart: int
    held_out: tuple[tuple[float, ...], ...]


def initial_model(
    columns: Sequence[LayerColumns],
    n_words: int | Sequence[int],
    seed: int,
    rectified: Sequence[bool] | bool = True,
    n_classes: int | None = None,
    init: Initialisation = "random",
    var_floor: float = 1e-4,
    floor_of: FloorOf = "layer",
) -> HiddenMarkovModel:
    """K random columns of each layer as its words, the layer's variance, and tables that know nothing.

    columns: per layer (n, D), of the same images. n_words, rectified: one for all layers, or one each. n_classes: of
    a prediction observed after the last layer. The seed and the number of the layer alone decide its words.
    Raises NonFiniteActivations, RefusedInput (K > n, negative rectified units, columns that are all the same).
    """
    words = _per_layer("n_words", n_words, len(columns))
    flags = _per_layer("rectified", rectified, len(columns))
    layers = []
    for index, (x, count, flag) in enumerate(zip(columns, words, flags, strict=True)):
        if flag:
            refuse_negative(x)
        mixture = initial_mixture(x, count, fit_seed(seed, "chain", str(index)), init, var_floor, floor_of)
        layers.append(LayerWords(mixture.mean, mixture.variance, bool(flag)))
    states = [*words, *([] if n_classes is None else [n_classes])]
    device = columns[0].device
    tables = [torch.full((k, j), 1.0 / k, dtype=torch.float64, device=device) for j, k in pairwise(states)]
    initial = torch.full((states[0],), 1.0 / states[0], dtype=torch.float64, device=device)
    return HiddenMarkovModel(Chain(initial, tuple(tables)), tuple(layers))


def fit_chain(
    columns: Sequence[LayerColumns],
    n_words: int | Sequence[int],
    seed: int,
    settings: HMMSettings | None = None,
    rectified: Sequence[bool] | bool = True,
    predicted: Int[Tensor, " n"] | None = None,
    n_classes: int | None = None,
    init: Initialisation = "random",
) -> HMMFit:
    """Learn the words of all layers and their transitions at once by online EM (IG Sec. 3.1).

    columns: per layer (n, D), of the same images. predicted, n_classes: observe the prediction after the last layer.
    A seeded tenth of the images is held out; the restart with the best held-out likelihood is kept. Minibatch and
    warm-up follow the number of images (``HMMSettings.for_images``), whether settings are given or not.
    Raises NonFiniteActivations, RefusedInput.
    """
    n_images = _refuse_other_images(columns, predicted, n_classes)
    order = torch.randperm(n_images, generator=generator(seed))
    judged, fitted = order.tensor_split([max(1, round(HELD_OUT_SHARE * n_images))])
    most = max(_per_layer("n_words", n_words, len(columns)))
    settings = (settings or HMMSettings()).for_images(len(fitted), most)
    fitted_images, judged_images = (_taken(columns, predicted, rows) for rows in (fitted, judged))
    models, curves = [], []
    for restart in range(settings.restarts):
        restart_seed = fit_seed(seed, "restart", str(restart))
        floor = settings.var_floor, settings.floor_of
        model = initial_model(fitted_images[0], n_words, restart_seed, rectified, n_classes, init, *floor)
        model, curve = _fit_once(model, fitted_images, judged_images, restart_seed, settings)
        models.append(model)
        curves.append(curve)
    best = max(range(len(models)), key=lambda r: curves[r][-1])
    return HMMFit(models[best], best, tuple(curves))


def _fit_once(
    model: HiddenMarkovModel, fitted: ChainImages, judged: ChainImages, seed: int, settings: HMMSettings
) -> tuple[HiddenMarkovModel, tuple[float, ...]]:
    n_images = len(fitted[0][0])
    source = in_memory(torch.arange(n_images), settings.minibatch, seed, lambda rows: _taken(*fitted, rows), judged)
    loop = FitLoop(source, OnlineChainEM(settings))
    fit = fit_likelihood(loop, start(model, settings, n_images), settings.epochs, settings.tolerance)
    return fit.state.result(settings), fit.held_out


def _taken(columns: Sequence[LayerColumns], predicted: Tensor | None, rows: Tensor) -> ChainImages:
    kept = [x[rows.to(x.device)] for x in columns]
    return kept, None if predicted is None else predicted[rows.to(predicted.device)]


def _per_layer(name: str, value: int | Sequence[int], layers: int) -> list[int]:
    values = [value] * layers if isinstance(value, int) else list(value)
    if len(values) != layers:
        raise RefusedInput(f"{name} must be one value, or one for each of the {layers} layers; got {len(values)}.")
    return values


def _refuse_other_images(columns: Sequence[LayerColumns], predicted: Tensor | None, n_classes: int | None) -> int:
    rows = {x.shape[0] for x in columns}
    if len(rows) != 1 or min(rows) < 2:
        raise RefusedInput(
            f"columns must hold one (n, D) tensor per layer, all of the same 2 images or more; got rows "
            f"{[x.shape[0] for x in columns]}. Pass the activations of every layer for every image."
        )
    if (predicted is None) != (n_classes is None):
        raise RefusedInput(
            "predicted and n_classes must be given together; got "
            f"{'no predicted' if predicted is None else 'no n_classes'}. Leave both out to model the logits instead."
        )
    if predicted is not None and n_classes is not None:
        observed_log_likelihoods(predicted, n_classes)
    return rows.pop()

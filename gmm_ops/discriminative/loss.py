"""The discriminative loss and its exact gradient in closed form (IG Eq. 8).

A column's log joints s reach the loss only through its posteriors r. With g the gradient of the loss with respect to
the image's histogram of P positions,

    dL / ds_k = r_k (g_k - <g, r>) / P

and s is one product with [x*x, x, 1]; so the gradient is the statistics product of EM with r replaced by dL / ds.
Images do not mix in the loss: a tile of whole images takes one score product and one statistics product.

A dictionary may lie in slices, each with its part of the histograms and of the linear layer; the logits are a sum over
slices, and so is <g, r> of each column, the one number through which a word's gradient depends on words elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.histogram import (
    Forward,
    Group,
    Histograms,
    ImageColumns,
    groups,
    refuse_other_image_columns,
)
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.discriminative.tile_scorer import TileScorer
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective, gathered
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.products import full_precision
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.tiles import rows_per_tile
from gmm_ops.records import Sums

ImageLabels = Int[Tensor, " N"]
"""Label of every image, 0 to M - 1: the classes of the scope in order, then `rest`."""


@dataclass(frozen=True)
class Gradient(Sums):
    """Mergeable sums over images of the loss and its gradient, float64; divided by ``count`` when a step is taken.

    count: images. loss: sum of cross entropies, natural logarithm. wrong: images whose best label is another.
    scores: (K, 2D + 1), sum over columns of dL/ds * [x*x, x, 1] about the centre: with respect to the weights of the
        score product. weight: (M, K). bias: (M,).
    """

    count: float
    loss: float
    wrong: float
    scores: Float[Tensor, "K two_D_plus_1"]
    weight: Float[Tensor, "M K"]
    bias: Float[Tensor, " M"]

    @classmethod
    def zero(cls, n_words: int, n_units: int, n_labels: int, device: torch.device | str = "cpu") -> Gradient:
        """The gradient of no image: the neutral element of ``merge``."""
        scores = torch.zeros(n_words, 2 * n_units + 1, dtype=torch.float64, device=device)
        return cls(0.0, 0.0, 0.0, scores, scores.new_zeros(n_labels, n_words), scores.new_zeros(n_labels))


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of some images, before any division.

    loss: sum, natural logarithm. wrong: images whose best label (ties: the lowest) is another.
    logit_gradient: (N, M), softmax minus one-hot.
    """

    loss: float
    wrong: float
    logit_gradient: Float[Tensor, "N M"]


def cross_entropy(logits: Float[Tensor, "N M"], labels: ImageLabels) -> CrossEntropy:
    """Sum of the cross entropies and its gradient. labels: 0 to M - 1."""
    log_share = torch.log_softmax(logits, dim=1)
    of_label = log_share.gather(1, labels[:, None])
    gradient = log_share.exp()
    gradient.scatter_add_(1, labels[:, None], torch.full_like(of_label, -1.0))
    wrong = (first_best(logits) != labels).sum()
    return CrossEntropy(-float(of_label.sum()), float(wrong), gradient)


def first_best(logits: Float[Tensor, "N M"]) -> ImageLabels:
    """The label with the highest logit; ties go to the lowest label."""
    return (logits == logits.amax(dim=1, keepdim=True)).int().argmax(dim=1)


@torch.no_grad()
def batch_gradient(
    parameters: Parameters,
    columns: ImageColumns,
    labels: ImageLabels,
    dtype: torch.dtype = torch.float32,
    tile_rows: int | None = None,
    engine: Engine = "auto",
    collective: Collective = LONE,
) -> Gradient:
    """The loss of these images and its exact gradient; products in ``dtype``, sums in float64.

    columns: (N, positions, D), any float dtype; the gradient stops there. labels: (N,) int, 0 to M - 1. Both the same
    on every slice. Of a slice, count, loss, wrong and bias are those of the whole dictionary, the same bits everywhere;
    scores and weight are of the own words. tile_rows: one value for all slices. engine: as in
    ``gmm_ops.mixtures.estep``, a slice's own choice; the loop over few words serves float32 on a CPU.
    Raises NonFiniteActivations, RefusedInput, on every slice alike.
    """
    refuse_other_image_columns(columns, parameters.n_units, collective)
    refuse_other_labels(labels, columns.shape[0], parameters.n_labels)
    words = own_words(parameters, collective)
    total = _Sums(parameters, TileScorer(words, collective, dtype, engine))
    rows = tile_rows or rows_per_tile(words.n_words, collective.world, columns.device)
    with full_precision():
        for group in groups(columns.shape[0], columns.shape[1], rows):
            total.add(group, columns[group.images], labels[group.images].long())
    return replace(total.found, count=float(columns.shape[0]), loss=total.loss, wrong=total.wrong)


def own_words(parameters: Parameters, collective: Collective) -> WordSlice:
    """The words with their place in the dictionary, which the slices hold in the order of their ranks."""
    held = gathered(parameters.bias.new_tensor(float(parameters.n_words)), collective).long().tolist()
    return WordSlice(parameters.to_mixture(collective), sum(held[: collective.rank]), sum(held))


class _Sums:
    """The sums of a batch while its groups are added."""

    def __init__(self, parameters: Parameters, scorer: TileScorer) -> None:
        self.parameters, self.scorer = parameters, scorer
        self.found = Gradient.zero(parameters.n_words, parameters.n_units, parameters.n_labels, parameters.mean.device)
        self.loss, self.wrong = 0.0, 0.0

    def add(self, group: Group, columns: ImageColumns, labels: ImageLabels) -> None:
        """One group: histograms, the linear layer, and back."""
        found, reduced = Forward.of(self.scorer, group, columns), self.scorer.collective.all_reduce_sum
        back = self._classify(found.histograms, labels) / columns.shape[1]
        for number, positions in enumerate(group.positions):
            # An image larger than a tile is scored twice rather than held.
            tile = self.scorer(columns[:, positions], found.normalisers[number]) if number else found.first
            tile.add_score_gradient(back, reduced(tile.weighted_means(back)), self.found.scores)

    def _classify(self, histogram: Histograms, labels: ImageLabels) -> Histograms:
        """Adds the linear layer's part; gives dL / dhistogram."""
        weight = self.parameters.weight
        logits = self.scorer.collective.all_reduce_sum(histogram @ weight.T) + self.parameters.bias
        judged = cross_entropy(logits, labels)
        self.loss += judged.loss
        self.wrong += judged.wrong
        self.found.weight.add_(judged.logit_gradient.T @ histogram)
        self.found.bias.add_(judged.logit_gradient.sum(dim=0))
        return judged.logit_gradient @ weight


def parameter_gradient(parameters: Parameters, gradient: Gradient) -> dict[str, Tensor]:
    """Gradient of the mean loss with respect to the trained fields, from the merged sums.

    With T2, T1, T0 the three blocks of ``gradient.scores`` and mu about the centre:

        dL/dmu = (T1 - mu T0) / var        dL/dlog sd = (T2 - 2 mu T1 + mu^2 T0) / var - T0
        dL/dlogit = T0, because dL/ds sums to 0 over the words of a column, so the softmax adds nothing.
    """
    if gradient.count <= 0:
        raise RefusedInput("gradient must hold at least one image; the global batch is empty.")
    return {
        **word_gradient(parameters.mean - parameters.center, parameters.log_sd, gradient.scores / gradient.count),
        "weight": gradient.weight / gradient.count,
        "bias": gradient.bias / gradient.count,
    }


def word_gradient(
    about_center: Float[Tensor, "K D"], log_sd: Float[Tensor, "K D"], scores: Float[Tensor, "K two_D_plus_1"]
) -> dict[str, Tensor]:
    """The words' part of ``parameter_gradient``, for any of the words."""
    units = about_center.shape[1]
    squares, sums, mass = scores[:, :units], scores[:, units : 2 * units], scores[:, -1:]
    precision = (-2.0 * log_sd).exp()
    spread = squares - about_center * (2.0 * sums - about_center * mass)
    return {
        "word_logits": mass[:, 0].clone(),
        "mean": (sums - about_center * mass) * precision,
        "log_sd": spread * precision - mass,
    }


def refuse_other_labels(labels: ImageLabels, n_images: int, n_labels: int) -> None:
    """Raise RefusedInput unless there is one whole-numbered label per image, each below M."""
    if labels.shape != (n_images,) or labels.is_floating_point():
        raise RefusedInput(
            f"labels must be whole numbers, one per image, shape ({n_images},); got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Discriminative training needs a label for every image."
        )
    if n_images and not (int(labels.min()) >= 0 and int(labels.max()) < n_labels):
        raise RefusedInput(
            f"labels must lie between 0 and {n_labels - 1}; got {int(labels.min())} to {int(labels.max())}. "
            "Number the labels of the scope in order, and leave out images of other classes."
        )

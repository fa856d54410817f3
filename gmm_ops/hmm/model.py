"""The hidden Markov model of a chain of dense layers: a chain of words, and what each layer's words emit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.axes import Columns, LayerColumns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.hmm.chain import Chain, observed_log_likelihoods
from gmm_ops.hmm.inference import log_evidence
from gmm_ops.hmm.rectified_gaussian import constrained_maximum, rectified_log_densities, rectified_sums
from gmm_ops.mixtures.em import VarianceFloor
from gmm_ops.mixtures.gaussian import refuse_non_finite, refuse_other_shape, score_parameters, scores
from gmm_ops.records import Record

TILE_NUMBERS = 1 << 20
"""Features of one tile of columns: 8 MiB of float64, or about 340 columns of 1,000 rectified units."""


@dataclass(frozen=True)
class LayerWords(Record):
    """What the words of one layer emit, float64.

    mean, variance: (K, D) of the Gaussian before rectification, layer units and squared. rectified: the layer ends
    in a ReLU, so zeros are censored (IG Sec. 3.1); otherwise a plain diagonal Gaussian.
    """

    mean: WordStatistics
    variance: WordStatistics
    rectified: bool

    @property
    def n_words(self) -> int:
        """K."""
        return self.mean.shape[0]

    @property
    def n_units(self) -> int:
        """D."""
        return self.mean.shape[1]

    def log_densities(self, columns: Columns) -> Float[Tensor, "n K"]:
        """log P(column | word), natural, float64. Raises NonFiniteActivations, RefusedInput."""
        self._refuse(columns)
        return torch.cat([self._tile_densities(tile) for tile, _ in self._tiles(columns)])

    def sums(self, columns: Columns, posterior: Float[Tensor, "n K"]) -> tuple[WordStatistics, WordStatistics]:
        """(S1, S2) about this mean, float64: sums of posterior * E[y - mu | x] and posterior * E[(y - mu)^2 | x]."""
        self._refuse(columns)
        first, second = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        for tile, part in self._tiles(columns):
            one, two = self._tile_sums(tile, posterior[part].double())
            first += one
            second += two
        return first, second

    def maximised(
        self, s0: Float[Tensor, " K"], s1: WordStatistics, s2: WordStatistics, clamp: float, var_floor: VarianceFloor
    ) -> LayerWords:
        """M-step from sums about this mean: mu + S1 / S0 and S2 / S0 - (S1 / S0)^2, within the bounds.

        clamp: a rectified mean stays above -clamp deviations. A word without columns stays as it is.
        """
        empty = (s0 <= 1e-10 * s0.sum())[:, None]
        weight = torch.where(empty, 1.0, s0[:, None])
        moved = s1 / weight
        bound = clamp if self.rectified else torch.inf
        mean, variance = constrained_maximum(self.mean + moved, s2 / weight - moved * moved, bound, var_floor)
        mean, variance = torch.where(empty, self.mean, mean), torch.where(empty, self.variance, variance)
        _refuse_zero_variance(variance)
        return LayerWords(mean, variance, self.rectified)

    def relabelled(self, order: Int[Tensor, " K"]) -> LayerWords:
        """The same words with word k taken from word ``order[k]``."""
        return LayerWords(self.mean[order], self.variance[order], self.rectified)

    def _tile_densities(self, tile: Columns) -> Float[Tensor, "n K"]:
        if self.rectified:
            return rectified_log_densities(tile, self.mean, self.variance)
        none = torch.zeros(self.n_words, dtype=torch.float64, device=self.mean.device)
        return scores(tile.double(), score_parameters(none, self.mean, self.variance, torch.float64))

    def _tile_sums(self, tile: Columns, posterior: Float[Tensor, "n K"]) -> tuple[WordStatistics, WordStatistics]:
        if self.rectified:
            return rectified_sums(tile, posterior, self.mean, self.variance)
        values, share = tile.double(), posterior.sum(dim=0)[:, None]
        raw = posterior.T @ values
        first = raw - self.mean * share
        # sum r (x - mu)^2 = sum r x^2 - 2 mu sum r x + mu^2 sum r, with sum r x = first + mu sum r
        second = posterior.T @ (values * values) - self.mean * (raw + first)
        return first, second

    def _tiles(self, columns: Columns) -> Iterator[tuple[Columns, slice]]:
        rows = max(64, TILE_NUMBERS // (3 * max(1, self.n_units))) if columns.device.type == "cpu" else 65_536
        for start in range(0, max(1, columns.shape[0]), rows):
            yield columns[start : start + rows], slice(start, start + rows)

    def _refuse(self, columns: Columns) -> None:
        refuse_other_shape(columns, self.n_units)
        refuse_non_finite(columns)


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model: words and units per emitting layer, and classes of an observed prediction or None."""

    n_words: tuple[int, ...]
    n_units: tuple[int, ...]
    n_classes: int | None

    @property
    def n_states(self) -> tuple[int, ...]:
        """States of every variable of the chain, the prediction last."""
        return self.n_words if self.n_classes is None else (*self.n_words, self.n_classes)


@dataclass(frozen=True)
class HiddenMarkovModel(Record):
    """Layers of words on a chain (IG Sec. 3.1, Eq. 2 and 3).

    chain: one variable per layer; one more if the last variable is the prediction, which is observed and emits
    nothing. layers: lowest first. Raises RefusedInput where their words differ.
    """

    chain: Chain
    layers: tuple[LayerWords, ...]

    def __post_init__(self) -> None:
        states, words = self.chain.n_states, tuple(layer.n_words for layer in self.layers)
        if not words or states[: len(words)] != words or len(states) - len(words) not in (0, 1):
            raise RefusedInput(
                f"chain must have the words of the layers, {words}, and at most one observed variable after them; "
                f"got {states}. Give one transition table per pair of neighbouring layers, in order."
            )

    @property
    def shape(self) -> ModelShape:
        """Sizes."""
        observed = len(self.chain.n_states) > len(self.layers)
        return ModelShape(
            tuple(layer.n_words for layer in self.layers),
            tuple(layer.n_units for layer in self.layers),
            self.chain.n_states[-1] if observed else None,
        )

    def log_densities(
        self, columns: Sequence[LayerColumns], predicted: Int[Tensor, " n"] | None = None
    ) -> tuple[Float[Tensor, "n K"], ...]:
        """One (n, K) tensor of log-likelihoods per variable of the chain: what inference is given.

        columns: per layer (n, D), of the same images. predicted: (n,) class of each image, if the model observes it.
        Raises NonFiniteActivations, RefusedInput.
        """
        self._refuse_other_layers(columns, predicted)
        found = tuple(layer.log_densities(x) for layer, x in zip(self.layers, columns, strict=True))
        if predicted is None:
            return found
        return (*found, observed_log_likelihoods(predicted, self.chain.n_states[-1]))

    def log_likelihood(
        self, columns: Sequence[LayerColumns], predicted: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """log p of all layers (and the prediction) per image, natural, float64."""
        return log_evidence(self.chain, self.log_densities(columns, predicted))

    def relabelled(self, orders: Sequence[Int[Tensor, " K"]]) -> HiddenMarkovModel:
        """The same model with word k of layer l taken from word ``orders[l][k]``; the classes keep their numbers."""
        every = list(orders)
        if self.shape.n_classes is not None:
            every.append(torch.arange(self.shape.n_classes))
        layers = tuple(layer.relabelled(order) for layer, order in zip(self.layers, orders, strict=True))
        return HiddenMarkovModel(self.chain.relabelled(every), layers)

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Plain arrays for a file, bit for bit; the names are those of the files of every version."""
        arrays: dict[str, Any] = {"initial": self.chain.initial}
        arrays |= {f"transition_{i}": table for i, table in enumerate(self.chain.transitions)}
        for i, layer in enumerate(self.layers):
            arrays |= {f"mean_{i}": layer.mean, f"variance_{i}": layer.variance}
        arrays["rectified"] = torch.tensor([layer.rectified for layer in self.layers])
        return {prefix + name: value.cpu().numpy() for name, value in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> HiddenMarkovModel:
        """Inverse of ``to_arrays``."""

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(np.array(arrays[prefix + name]))

        tables = sum(1 for name in arrays if name.startswith(f"{prefix}transition_"))
        chain = Chain(tensor("initial"), tuple(tensor(f"transition_{i}") for i in range(tables)))
        pairs = enumerate(tensor("rectified").tolist())
        return cls(chain, tuple(LayerWords(tensor(f"mean_{i}"), tensor(f"variance_{i}"), flag) for i, flag in pairs))

    def _refuse_other_layers(self, columns: Sequence[LayerColumns], predicted: Int[Tensor, " n"] | None) -> None:
        if len(columns) != len(self.layers) or len({x.shape[0] for x in columns}) != 1:
            raise RefusedInput(
                f"columns must hold one (n, D) tensor per layer, {len(self.layers)}, all of the same images; got rows "
                f"{[x.shape[0] for x in columns]}. Pass the activations of every layer, lowest first."
            )
        classes = self.shape.n_classes
        if (predicted is None) != (classes is None):
            raise RefusedInput(
                f"predicted must be given exactly if the model observes the prediction; got "
                f"{'none' if predicted is None else 'some'} for {classes or 'no'} classes. Pass the predicted class of "
                "each image, or fit without n_classes."
            )
        if predicted is not None and predicted.shape != columns[0].shape[:1]:
            raise RefusedInput(
                f"predicted must have shape ({columns[0].shape[0]},), one class per image; got "
                f"{tuple(predicted.shape)}. Pass the predictions of the same images."
            )


def _refuse_zero_variance(variance: WordStatistics) -> None:
    flat = ~(variance > 0.0)
    if bool(flat.any()):
        word, unit = (int(i) for i in flat.nonzero()[0])
        raise RefusedInput(
            f"var_floor must be positive where a word has no spread; word {word} is constant in unit {unit}. "
            "Give a var_floor such as 1e-4 of the layer's mean variance, or fewer words."
        )

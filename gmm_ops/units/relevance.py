"""Relevance of units: conductance along a path, its sums by class, shares and what is specific to a class.

Source: ICQ Eq. 2 and 3 (conductance of Dhamdhere, Sundararajan, Yan 2018). F is the output that is explained, a_i the
activation of unit i at a position, the path runs from a baseline to the image:

    G_i = integral of dF/da_i * da_i

so the sum of G over a layer is F(image) - F(baseline) where all paths through the network cross that layer (a cut).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Record, Sums, joined

Rule = Literal["trapezoid", "left"]
"""Which gradient stands for a step: the mean of both ends, or that of its beginning (as captum's LayerConductance)."""


class PathSum:
    """The conductance of one layer, gathered point by point along the path.

    Args:
        rule: see ``Rule``.
    """

    def __init__(self, rule: Rule = "trapezoid") -> None:
        if rule not in ("trapezoid", "left"):
            raise RefusedInput(f"rule: must be 'trapezoid' or 'left', got {rule!r}; take the trapezoid")
        self._rule = rule
        self._last: tuple[Tensor, Tensor] | None = None
        self._total: Tensor | None = None

    def add(self, activations: Float[Tensor, "N D H W"], gradients: Float[Tensor, "N D H W"]) -> None:
        """The next point: a_i there, and dF/da_i. Both are kept, and what was given before may be overwritten."""
        if activations.shape != gradients.shape:
            raise RefusedInput(
                f"gradients: must have the shape of activations, got {tuple(gradients.shape)} and "
                f"{tuple(activations.shape)}; take both from one pass"
            )
        if self._last is not None:
            before, slope = self._last
            if self._rule == "trapezoid":
                slope = slope.add_(gradients).mul_(0.5)
            step = activations - before
            self._total = step.mul_(slope) if self._total is None else self._total.addcmul_(step, slope)
        self._last = activations, gradients

    @property
    def total(self) -> Float[Tensor, "N D H W"]:
        """G of every unit and position. Raises RefusedInput before the second point."""
        if self._total is None:
            raise RefusedInput("steps: must be at least 1, got a path of fewer than two points; add its end")
        return self._total

    @property
    def activations(self) -> Float[Tensor, "N D H W"]:
        """Those of the last point, the image itself."""
        assert self._last is not None, "a path has a point"
        return self._last[0]


def upsampling(small: int, large: int) -> Float[Tensor, "large small"]:
    """U of one axis: bilinear, half-pixel centres (``align_corners=False``), float64; rows sum to 1."""
    one_each = torch.eye(small, dtype=torch.float64)[None]
    return functional.interpolate(one_each, size=large, mode="linear", align_corners=False)[0].T


def mask_weights(masks: Float[Tensor, "N H W"], height: int, width: int) -> Float[Tensor, "N h w"]:
    """U^T mask: the weight of every position of a smaller map, so that sum(mask * U|G|) = <|G|, U^T mask>.

    Nothing is ever upsampled: the masks come down to the map once, instead of every unit going up.
    """
    rows, columns = upsampling(height, masks.shape[1]), upsampling(width, masks.shape[2])
    return rows.T @ masks.double() @ columns


@dataclass(frozen=True)
class RelevanceSums(Sums):
    """Sums over images of a class, one row for each class: merged rows of the same class add up.

    Attributes:
        labels: (R,) int64, class of a row, ascending.
        images: (R,) int64, images in it.
        masked_images: (R,) int64, of them with a mask.
        signed: (R, U) sum over images and positions of G.
        absolute: (R, U) of |G|.
        masked: (R, U) of |G| within the class's mask, over the images with a mask.
        activation: (R, U) sum over images of the mean over positions of max(a, 0).
    """

    labels: Annotated[Int[Tensor, " R"], joined]
    images: Annotated[Int[Tensor, " R"], joined]
    masked_images: Annotated[Int[Tensor, " R"], joined]
    signed: Annotated[Float[Tensor, "R U"], joined]
    absolute: Annotated[Float[Tensor, "R U"], joined]
    masked: Annotated[Float[Tensor, "R U"], joined]
    activation: Annotated[Float[Tensor, "R U"], joined]

    @classmethod
    def zero(cls, units: int) -> RelevanceSums:
        """Of no image."""
        none, empty = torch.zeros(0, dtype=torch.int64), torch.zeros((0, units), dtype=torch.float64)
        return cls(none, none, none, empty, empty, empty, empty)

    @classmethod
    def from_batch(
        cls,
        labels: Int[Tensor, " N"],
        maps: Sequence[Float[Tensor, "N D H W"]],
        activations: Sequence[Float[Tensor, "N D H W"]],
        masks: Float[Tensor, "N H_in W_in"] | None = None,
        has_mask: Int[Tensor, " N"] | None = None,
        by_area: bool = False,
    ) -> RelevanceSums:
        """A row for each class of a batch.

        Args:
            labels: class whose output was explained, by image.
            maps: conductance, layer by layer; units follow in this order.
            activations: of the same layers, on the images.
            masks: 0 to 1, in pixels of the network's input; None: no image has one.
            has_mask: which images have one, 0 or 1; None: all.
            by_area: divide the masked sum of an image by the area of its mask (``normalise: mask_area``).
        """
        per_image = [_unit_sums(*pair) for pair in zip(maps, activations, strict=True)]
        signed, absolute, activation = (torch.cat(parts, dim=1) for parts in zip(*per_image, strict=True))
        masked, known = torch.zeros_like(absolute), torch.zeros_like(labels)
        if masks is not None:
            known = torch.ones_like(labels) if has_mask is None else has_mask.to(labels)
            weights = masks.double() * known[:, None, None]
            if by_area:
                weights = weights / weights.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
            masked = torch.cat([_within(one, weights) for one in maps], dim=1)
        classes = labels.unique()
        member = (labels == classes[:, None]).double()
        return cls(
            classes,
            (member.sum(dim=1)).long(),
            (member @ known.double()).long(),
            *(member @ values for values in (signed, absolute, masked, activation)),
        )

    def merge(self, other: Self) -> Self:
        """Both sets together, one row for each class of either. Raises RefusedInput where the units differ."""
        if self.signed.shape[1] != other.signed.shape[1]:
            raise RefusedInput(
                f"merge: both must be of the same units, got {self.signed.shape[1]} and {other.signed.shape[1]}; take "
                "both from one network"
            )
        labels = torch.cat([self.labels, other.labels]).unique()

        def added(mine: Tensor, theirs: Tensor) -> Tensor:
            total = mine.new_zeros(len(labels), *mine.shape[1:])
            for rows, values in ((self.labels, mine), (other.labels, theirs)):
                total.index_add_(0, torch.searchsorted(labels, rows), values)
            return total

        names = [f.name for f in fields(self) if f.name != "labels"]
        sums = {name: added(getattr(self, name), getattr(other, name)) for name in names}
        return replace(self, labels=labels, **sums)

    def by_class(self, classes: Sequence[int]) -> ClassRelevance:
        """Means over the images of each class, in the order asked for. Raises RefusedInput for one without an image."""
        member = (self.labels == torch.tensor(list(classes))[:, None]).double()
        images, masked_images = ((member @ one.double()).long() for one in (self.images, self.masked_images))
        if not bool(images.all()):
            absent = [label for label, count in zip(classes, images.tolist(), strict=True) if not count]
            raise RefusedInput(f"classes: must have an image each, got none of {absent}; leave them out")
        signed, absolute, activation = (
            member @ one / images[:, None] for one in (self.signed, self.absolute, self.activation)
        )
        masked = member @ self.masked / masked_images[:, None]  # NaN where no image has a mask
        return ClassRelevance(images, masked_images, signed, absolute, masked, activation)


@dataclass(frozen=True)
class ClassRelevance(Record):
    """Means over a class's images: each class a row, each unit a column; fields as in ``RelevanceSums``."""

    images: Int[Tensor, " C"]
    masked_images: Int[Tensor, " C"]
    signed: Float[Tensor, "C U"]
    absolute: Float[Tensor, "C U"]
    masked: Float[Tensor, "C U"]
    activation: Float[Tensor, "C U"]


def _unit_sums(maps: Tensor, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) each: sum of G, sum of |G|, mean of max(a, 0); in float64."""
    signed = maps.sum(dim=(2, 3), dtype=torch.float64)
    absolute = maps.abs().sum(dim=(2, 3), dtype=torch.float64)
    return signed, absolute, activations.clamp(min=0).mean(dim=(2, 3), dtype=torch.float64)


def _within(maps: Tensor, masks: Tensor) -> Float[Tensor, "N D"]:
    weights = mask_weights(masks, *maps.shape[2:])
    return torch.einsum("ndhw,nhw->nd", maps.abs().double(), weights)


def layer_shares(values: Float[Tensor, "C U"], units: Sequence[int]) -> Float[Tensor, "C U"]:
    """Each unit's share of its layer's sum, 0 where a layer has none; ``units``: of the layers, in their order."""
    parts = values.split(list(units), dim=1)
    return torch.cat([torch.nan_to_num(part / part.sum(dim=1, keepdim=True), nan=0.0) for part in parts], dim=1)


def specific(shares: Float[Tensor, "C U"]) -> Float[Tensor, "C U"]:
    """A unit's share for a class minus its mean share for the other classes. Raises RefusedInput for one class."""
    if len(shares) < 2:
        raise RefusedInput(f"classes: must be at least 2 to tell them apart, got {len(shares)}; ask for another one")
    others = (shares.sum(dim=0) - shares) / (len(shares) - 1)
    return shares - others


@dataclass(frozen=True)
class Completeness(Sums):
    """How much of the output's change a layer accounts for, image by image.

    Attributes:
        images: (n,) int64 ids.
        difference: (n,) F(image) - F(baseline).
        totals: (n, L) sum of G over all units and positions of a layer.
    """

    images: Annotated[Int[Tensor, " n"], joined]
    difference: Annotated[Float[Tensor, " n"], joined]
    totals: Annotated[Float[Tensor, "n L"], joined]

    @classmethod
    def zero(cls, layers: int) -> Completeness:
        """Of no image."""
        none = torch.zeros(0, dtype=torch.float64)
        return cls(none.long(), none, none.reshape(0, layers))

    @classmethod
    def from_batch(
        cls, images: Int[Tensor, " n"], difference: Float[Tensor, " n"], totals: Float[Tensor, "n L"]
    ) -> Completeness:
        """What the passes of a batch have given."""
        return cls(images, difference.double(), totals.double())

    def quartiles(self) -> Float[np.ndarray, "3 L"]:
        """Quartiles over images of |sum of G - difference| / |difference|, the relative error; NaN without images.

        Images whose output does not change along the path are left out.
        """
        moved = self.difference != 0
        if not bool(moved.any()):
            return np.full((3, self.totals.shape[1]), np.nan)
        difference = self.difference[moved, None]
        errors = ((self.totals[moved] - difference) / difference).abs()
        return np.asarray(np.quantile(errors.numpy(), [0.25, 0.5, 0.75], axis=0))

"""What breaks without some units: integer tallies by class, and intervals of what they say.

Source: ICQ Fig. 5 and 6; intervals of Wilson (1927) for shares, of Agresti and Min (2005) for paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import NORMAL_95, PairedDifference
from gmm_ops.errors import RefusedInput
from gmm_ops.records import Record, Sums


@dataclass(frozen=True)
class AblationTally(Sums):
    """Images by true class, and what becomes of them under each of J interventions; integers, so any split adds up.

    Attributes:
        images: (M,) int64.
        right: (M,) classified right by the plain network.
        lost: (J, M) right before, wrong under the intervention.
        gained: (J, M) wrong before, right under it.
    """

    images: Int[Tensor, " M"]
    right: Int[Tensor, " M"]
    lost: Int[Tensor, "J M"]
    gained: Int[Tensor, "J M"]

    @classmethod
    def zero(cls, interventions: int, classes: int) -> AblationTally:
        """Of no image."""
        one, many = (classes,), (interventions, classes)
        return cls(*(torch.zeros(shape, dtype=torch.int64) for shape in (one, one, many, many)))

    @classmethod
    def from_batch(
        cls, labels: Int[Tensor, " N"], right: Bool[Tensor, " N"], under: Bool[Tensor, "J N"], classes: int
    ) -> AblationTally:
        """From what is classified right. labels: true classes. right: by the plain network. under: interventions."""
        if right.shape != labels.shape or under.shape[1:] != labels.shape:
            raise RefusedInput(
                f"right, under: must speak of the {len(labels)} images of labels, got {tuple(right.shape)} and "
                f"{tuple(under.shape)}; classify the same images"
            )
        member = (labels[:, None] == torch.arange(classes)).long()
        lost, gained = (right & ~under).long() @ member, (~right & under).long() @ member
        return cls(member.sum(dim=0), right.long() @ member, lost, gained)

    def outcome(self, intervention: int, classes: Sequence[int]) -> Outcome:
        """Of an intervention on the images of some classes together. Raises RefusedInput where they have none."""
        rows = list(classes)
        count = int(self.images[rows].sum())
        if not count:
            raise RefusedInput(f"classes: must have an image, got none of {rows}; test on other images")
        lost, gained = int(self.lost[intervention, rows].sum()), int(self.gained[intervention, rows].sum())
        return Outcome(count, int(self.right[rows].sum()), lost, gained)


@dataclass(frozen=True)
class Outcome(Record):
    """Images, those right before, those lost and those gained by an intervention."""

    images: int
    right: int
    lost: int
    gained: int

    @property
    def before(self) -> float:
        """Accuracy of the plain network."""
        return self.right / self.images

    @property
    def accuracy(self) -> float:
        """Accuracy under the intervention."""
        return (self.right - self.lost + self.gained) / self.images

    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy under the intervention (Wilson 1927)."""
        return wilson(self.accuracy, self.images)

    def fall(self) -> PairedDifference:
        """Accuracy lost, before minus under, with its paired 95 % interval."""
        return PairedDifference.of_counts(self.images, self.lost, self.gained)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Ends of the 95 % interval of a share seen in so many trials (Wilson 1927)."""
    if not trials > 0 or not 0 <= share <= 1:
        raise RefusedInput(f"share, trials: must be in [0, 1] of more than no trial, got {share:g} of {trials:g}")
    spread = NORMAL_95**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class UnitMeans(Sums):
    """Mean activation of units, over images and positions; what a silenced unit is replaced by.

    Attributes:
        images: number of images.
        total: (U,) sum over images of the mean over positions.
    """

    images: int
    total: Float[Tensor, " U"]

    @classmethod
    def zero(cls, units: int) -> UnitMeans:
        """Of no image."""
        return cls(0, torch.zeros(units, dtype=torch.float64))

    @classmethod
    def from_batch(cls, maps: Sequence[Float[Tensor, "N D H W"]]) -> UnitMeans:
        """From the maps of layers, whose units follow in this order."""
        totals = [one.mean(dim=(2, 3), dtype=torch.float64).sum(dim=0) for one in maps]
        return cls(len(maps[0]), torch.cat(totals).cpu())

    @property
    def mean(self) -> Float[Tensor, " U"]:
        """Raises RefusedInput without an image."""
        if not self.images:
            raise RefusedInput("images: must be at least 1 for a mean, got 0; choose some")
        return self.total / self.images

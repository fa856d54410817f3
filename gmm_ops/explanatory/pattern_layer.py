"""What is learned of a layer's patterns, and how.

Source: EG, Eq. 4 to 6 and footnote 4. A pattern V of a unit is a part: it has its own mean place on the object, and is
shifted in every image by how far its parents, patterns of the layer above, lie from their own mean places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_count
from gmm_ops.records import Record, mapped

MStep = Literal["closed", "gradient"]

NO_PARENT = -1


@runtime_checkable
class Rows(Protocol):
    """An array whose first axis are the objects: a tensor, a numpy array, a memory map, a stored array."""

    @property
    def shape(self) -> Any:
        """Its lengths."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of them, in order."""


@dataclass(frozen=True)
class PatternSettings:
    """How the patterns of a layer are learned.

    Attributes:
        patterns: N of every unit.
        parents: M of every pattern; 1 below a free top.
        iterations: T.
        tau: density of what belongs to no pattern; 1 is uniform on the object.
        step: ``closed``, or ``gradient``: means go ``eta`` times the smallest variance times the gradient of the mean
            log likelihood (the authors' code); the variance follows in closed form.
        eta: up to 1 the likelihood does not fall.
        deviation: None, from the responses within [0.1, 1] / sqrt(N); a number is kept (the free top has 1.5).
        candidates: upper patterns that may become parents.
        rigid: every pattern moves with parents from the first step on, though standing still would leave less variance,
            as it mostly does below a free top: what varies there is the parent.
    """

    patterns: int
    parents: int = 15
    iterations: int = 20
    tau: float = 1.0
    step: MStep = "closed"
    eta: float = 1.0
    deviation: float | None = None
    candidates: int = 600
    rigid: bool = False

    def __post_init__(self) -> None:
        for name in ("patterns", "parents", "iterations", "candidates"):
            object.__setattr__(self, name, as_count(name, getattr(self, name)))
        for name in ("tau", "eta", "deviation"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise RefusedInput(f"{name}: must be above 0 and finite, got {value}; take the default")
        if self.step not in ("closed", "gradient"):
            raise RefusedInput(f"step: must be closed or gradient, got {self.step!r}; closed needs fewer iterations")

    @classmethod
    def free_top(cls, iterations: int = 20) -> PatternSettings:
        """One pattern a unit that goes wherever the unit is strongest."""
        return cls(patterns=1, parents=1, iterations=iterations, deviation=1.5)

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest standard deviation of a pattern."""
        if self.deviation is not None:
            return self.deviation, self.deviation
        return 0.1 / self.patterns**0.5, 1 / self.patterns**0.5

    def takes_parents(self, iteration: int) -> bool:
        """Every 4th iteration from the 2nd, counted from 1."""
        return iteration % 4 == 2


@dataclass(frozen=True)
class PatternLayer(Record):
    """Patterns of a layer, N of each of its D units.

    Attributes:
        means: (D, N, 2) mean places, row and column on the object, float64.
        deviations: (D, N) standard deviations, sides of the object.
        parents: (D, N, M) patterns of the layer above, each unit's in turn; -1 for none (all: the shift is 0).
        masses: (D, N) sum of responsibility times response over all objects, in the last iteration.
    """

    means: Float[Tensor, "D N 2"]
    deviations: Float[Tensor, "D N"]
    parents: Int[Tensor, "D N M"]
    masses: Float[Tensor, "D N"]

    @property
    def count(self) -> int:
        """Patterns of all units; pattern n of unit d is number d N + n."""
        return self.deviations.numel()


def joined_layer(blocks: Sequence[PatternLayer]) -> PatternLayer:
    """Blocks of units in their order. Raises RefusedInput for none, or for blocks learned with other settings."""
    shapes = {(block.means.shape[1], block.parents.shape[2]) for block in blocks}
    if len(shapes) != 1:
        raise RefusedInput(
            f"blocks: must have the same patterns and parents a unit, got {sorted(shapes)}; join those of one layer"
        )
    joined: PatternLayer = mapped(lambda *parts: torch.cat(parts), *blocks)
    return joined

"""First-order effects: what taking out each word would cost a class, of all words from one backward pass.

g.(x - x') summed over a word's columns, g the gradient of the class's logit: the first term of the drop of the logit
that the change of these columns gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums, joined


def first_order_effects(
    gradients: Float[Tensor, "N D H W"],
    maps: Float[Tensor, "N D H W"],
    changed: Float[Tensor, "N D H W"],
    words: Int[Tensor, "N H W"],
    n_words: int,
) -> Float[Tensor, "N K"]:
    """Of every word on every image, in the logit's unit: positive where taking it out lowers the logit.

    Args:
        gradients: of the logit, at each column.
        maps: what the layer says.
        changed: what its columns say without their words, see ``changed_columns``.
        words: of every column; -1 for none.
        n_words: K.

    Returns:
        Float64 sums of float32 products; 0 of words that an image does not have.
    """
    each = (gradients * (maps - changed)).sum(dim=1, dtype=torch.float64).flatten(1)
    flat = torch.where(words < 0, n_words, words).flatten(1)
    sums = torch.zeros(len(maps), n_words + 1, dtype=torch.float64, device=maps.device)
    return sums.scatter_add_(1, flat.to(torch.int64), each)[:, :n_words]


@dataclass(frozen=True)
class FirstOrderSums(Sums):
    """Effects of words, summed over the images of groups, such as halves of classes.

    Attributes:
        group: (g,) of each row; a group may have several rows.
        images: (g,) number of images.
        total: (g, I, U) sums of effects: of I changes, the words of all layers in a row.
    """

    group: Annotated[Int[Tensor, " g"], joined]
    images: Annotated[Int[Tensor, " g"], joined]
    total: Annotated[Float[Tensor, "g I U"], joined]

    @classmethod
    def zero(cls, changes: int, words: int) -> FirstOrderSums:
        """Of no image."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, torch.zeros(0, changes, words, dtype=torch.float64))

    @classmethod
    def from_batch(cls, groups: Int[Tensor, " N"], effects: Float[Tensor, "N I U"]) -> FirstOrderSums:
        """groups: of the images. effects: float64."""
        if len(groups) != len(effects):
            raise RefusedInput(
                f"groups: must be one of each of {len(effects)} images, got {len(groups)}; give both of one batch"
            )
        present, place, counts = groups.unique(return_inverse=True, return_counts=True)
        total = effects.new_zeros((len(present), *effects.shape[1:])).index_add_(0, place, effects)
        return cls(present, counts, total)

    def by_group(self, groups: int) -> tuple[Int[Tensor, " G"], Float[Tensor, "G I U"]]:
        """Images and sums of groups 0 to G - 1."""
        images = torch.zeros(groups, dtype=torch.int64).index_add_(0, self.group, self.images)
        total = torch.zeros(groups, *self.total.shape[1:], dtype=torch.float64)
        return images, total.index_add_(0, self.group, self.total)

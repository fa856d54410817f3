"""The most typical columns of every word, as a mergeable reduction over word maps.

Highest posterior first, ties (many posteriors are 1.0) by the joint log-likelihood, then the lowest image;
one column per image (IG section 4: six images a word).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums, joined, same


@dataclass(frozen=True)
class Exemplars(Sums):
    """The best columns of each word, sorted by word, then by rank.

    Attributes:
        word: the word of each row, int64.
        image: image id of each row, int64.
        y, x: position of the column in the layer's map, int64.
        posterior: P(word | column), float32.
        log_joint: log P(word, column) in nats, float32.
        per_word: at most so many rows a word.
    """

    word: Annotated[Int[Tensor, "E"], joined]
    image: Annotated[Int[Tensor, "E"], joined]
    y: Annotated[Int[Tensor, "E"], joined]
    x: Annotated[Int[Tensor, "E"], joined]
    posterior: Annotated[Float[Tensor, "E"], joined]
    log_joint: Annotated[Float[Tensor, "E"], joined]
    per_word: Annotated[int, same] = field(default=6, kw_only=True)

    @classmethod
    def zero(cls, per_word: int = 6) -> Exemplars:
        """No exemplar yet: the neutral element of ``merge``."""
        empty = torch.empty(0, dtype=torch.int64)
        return cls(empty, empty, empty, empty, torch.empty(0), torch.empty(0), per_word=per_word)

    @classmethod
    def from_batch(
        cls,
        word: Int[Tensor, "N H W"],
        posterior: Float[Tensor, "N H W"],
        log_joint: Float[Tensor, "N H W"],
        images: Int[Tensor, "N"],
        per_word: int = 6,
    ) -> Exemplars:
        """The best columns of one block of word maps; words below 0 take no part."""
        if word.shape != posterior.shape or word.shape != log_joint.shape or len(images) != len(word):
            raise RefusedInput(
                f"word {tuple(word.shape)}, posterior {tuple(posterior.shape)} and log_joint "
                f"{tuple(log_joint.shape)} must have one shape (N, H, W), and images {tuple(images.shape)} one id a map"
            )
        word, posterior, log_joint = word.cpu(), posterior.cpu(), log_joint.cpu()
        if not (word >= 0).any():
            return cls.zero(per_word)
        width = word.shape[2]
        flat = (value.reshape(len(word), -1).contiguous().numpy() for value in (word.int(), posterior, log_joint))
        row, kind, place = (torch.from_numpy(found) for found in _best_per_image(*flat, int(word.max()) + 1))
        return cls(
            kind,
            images.cpu().long()[row],
            place // width,
            place % width,
            posterior.reshape(len(word), -1)[row, place].float(),
            log_joint.reshape(len(word), -1)[row, place].float(),
            per_word=per_word,
        )._best()

    def merge(self, other: Exemplars) -> Exemplars:
        """The best of both; the order and the grouping of merges change nothing."""
        return super().merge(other)._best()

    def rank(self) -> Int[Tensor, "E"]:
        """Rank of each row within its word, from 0."""
        return _rank_in_run(self.word)

    def _best(self) -> Exemplars:
        one_per_image = self._ordered()
        pair = torch.stack([one_per_image.word, one_per_image.image])
        order = _lexsort(pair[1], pair[0])
        first = torch.ones(len(order), dtype=torch.bool)
        first[1:] = (pair[:, order[1:]] != pair[:, order[:-1]]).any(0)
        ordered = one_per_image._take(order[first])._ordered()
        return ordered._take(torch.nonzero(ordered.rank() < self.per_word).squeeze(1))

    def _ordered(self) -> Exemplars:
        # Keys from the last to the first; every key decides, so no two rows ever compare equal.
        return self._take(_lexsort(self.x, self.y, self.image, -self.log_joint, -self.posterior, self.word))

    def _take(self, index: Int[Tensor, "E"]) -> Exemplars:
        rows = [f.name for f in fields(self) if f.name != "per_word"]
        return replace(self, **{name: getattr(self, name)[index] for name in rows})


@njit(cache=True, nogil=True)
def _best_per_image(word, posterior, log_joint, n_words):  # type: ignore[no-untyped-def]  # numba infers
    """Of every (image, word) the place of the best column: one sweep instead of a sort of all columns."""
    found, best = [], np.empty(n_words, np.int64)
    for row in range(word.shape[0]):
        best[:] = -1
        for place in range(word.shape[1]):
            kind = word[row, place]
            if kind < 0:
                continue
            held = best[kind]
            better = held < 0 or posterior[row, place] > posterior[row, held]
            if better or (
                posterior[row, place] == posterior[row, held] and log_joint[row, place] > log_joint[row, held]
            ):
                best[kind] = place
        for kind in range(n_words):
            if best[kind] >= 0:
                found.append((row, kind, best[kind]))
    rows, kinds, places = np.empty(len(found), np.int64), np.empty(len(found), np.int64), np.empty(len(found), np.int64)
    for index in range(len(found)):
        rows[index], kinds[index], places[index] = found[index]
    return rows, kinds, places


def _lexsort(*keys: Tensor) -> Int[Tensor, "E"]:
    """Stable sort by the last key first, like ``numpy.lexsort``."""
    order = torch.arange(len(keys[0]))
    for key in keys:
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _rank_in_run(key: Int[Tensor, "E"]) -> Int[Tensor, "E"]:
    if not len(key):
        return key
    index = torch.arange(len(key))
    starts = torch.ones(len(key), dtype=torch.bool)
    starts[1:] = key[1:] != key[:-1]
    return index - torch.cummax(torch.where(starts, index, torch.zeros_like(index)), 0).values

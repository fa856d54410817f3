"""What is counted of two layers together: pairs of words by group of images, and what tells how sure they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from gmm_ops.graphs.cooccurrence import SparseCounts
from gmm_ops.records import Sums
from gmm_ops.trust.intervals import PairMoments
from gmm_ops.trust.stability import deal_folds
from workflows.plan.run_plan import OUTPUT, LayerPair
from workflows.runtime.devices import turn_on
from workflows.storage.pair_counts import write_fold_counts, write_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import save_state
from workflows.words.scope_images import MemberBlock
from workflows.words.word_maps import read_member_maps


@dataclass(frozen=True)
class PairSums(Sums):
    """Mergeable over blocks of images.

    Attributes:
        pairs: co-occurrences (IG Eq. 5, 6 count them) by predicted class, or by class * folds + fold.
        moments: one, or none where no intervals are asked for.
    """

    pairs: SparseCounts
    moments: tuple[PairMoments, ...]


@dataclass(frozen=True)
class PairBlock:
    """Some validation images of one pair of layers of a scope: what a counting task needs, and how it counts.

    Attributes:
        folder, scope, pair: where the word maps are, and between which layers.
        images: which images.
        groups: (n,) int64, of each image; see ``image_groups``.
        intervals: whether moments are asked for.
        device: where the maps are put to be counted; the counts do not depend on it.
    """

    folder: RunFolder
    scope: str
    pair: LayerPair
    images: MemberBlock
    groups: Int[np.ndarray, " n"]
    intervals: bool
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.images)

    def count(self) -> PairSums:
        """Pairs of the images, and their moments."""
        pair = self.pair
        lower, upper = self._maps(pair.lower), torch.from_numpy(self.images.predicted)[:, None, None]
        if pair.upper != OUTPUT:
            upper = self._maps(pair.upper)
        groups, sizes = torch.from_numpy(self.groups), (pair.window, pair.upper_words, pair.lower_words)
        with turn_on(self.device):
            counts = SparseCounts.from_batch(upper.to(self.device), lower.to(self.device), *sizes, groups)
        kept = groups >= 0
        moments = (PairMoments.from_batch(upper[kept], lower[kept], *sizes),) if self.intervals else ()
        return PairSums(counts, moments)

    def _maps(self, layer: str) -> Int[torch.Tensor, "n H W"]:
        return read_member_maps(self.folder, self.scope, layer, "word", self.images)


def image_groups(
    images: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], folds: int, seed: int
) -> Int[np.ndarray, " n"]:
    """The group that each image is counted in: its predicted class, or class * folds + fold; -1 without a prediction.

    Args:
        images: ids of all validation images of a scope, among which the folds are dealt.
        predicted: their classes; -1: none.
        folds: of a class; 0: none.
        seed: of the hash of ids.
    """
    if not folds:
        return predicted
    return np.where(predicted < 0, -1, predicted * folds + deal_folds(images, predicted, folds, seed))


def store_pair_sums(folder: RunFolder, scope: str, pair: LayerPair, folds: int, whole: PairSums) -> dict[str, Any]:
    """Write N of a pair of layers over S_V, and what there is beside; gives what the ledger keeps.

    Args:
        folder, scope, pair: whose.
        folds: of a class in the groups; 0: groups are classes.
        whole: of all images.
    """
    key = scope, pair.lower, pair.upper
    attributes = {"scope": scope, "lower": pair.lower, "upper": pair.upper, "window": pair.window.to_dict()}
    pairs = whole.pairs
    if folds:
        write_fold_counts(folder.fold_counts(*key), pairs, folds, attributes)
        pairs = SparseCounts.from_rows(pairs.group // folds, pairs.upper, pairs.lower, pairs.count)
    else:
        folder.fold_counts(*key).unlink(missing_ok=True)
    for moments in whole.moments:
        save_state(folder.pair_moments(*key), moments.of_pairs().to_arrays(), synced=False)
    if not whole.moments:
        folder.pair_moments(*key).unlink(missing_ok=True)
    write_pair_counts(folder.cooccurrence(*key), pairs, attributes)
    return {"pairs": int(pairs.count.sum()), "folds": folds, "intervals": bool(whole.moments)}

"""Counts do not depend on how the images are cut into blocks, nor on how many workers count them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmm_ops.cooccurrence import SparseCounts
from workflows.plan import Plan
from workflows.runtime.reductions import tree_reduce
from workflows.stages.count import PairBlock
from workflows.storage.arrays import read_arrays
from workflows.storage.run_folder import RunFolder


@pytest.mark.parametrize(("images_a_block", "workers"), [(1, 1), (7, 3), (40, 2), (1000, 1)])
def test_blocks_and_workers_change_no_count(digits_run: Path, images_a_block: int, workers: int) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    for pair in plan.pairs():
        starts = range(plan.train_images, plan.images, images_a_block)
        blocks = [PairBlock(folder, "joint", pair, start, min(start + images_a_block, plan.images)) for start in starts]
        counts = tree_reduce(blocks, PairBlock.count, SparseCounts.merge, scheduler="threads", n_workers=workers)
        stored = read_arrays(folder.cooccurrence("joint", pair.lower, pair.upper))
        for name in ("group", "upper", "lower", "count"):
            np.testing.assert_array_equal(getattr(counts, name).numpy(), stored[name])
        np.testing.assert_array_equal(counts.total(pair.upper_words, pair.lower_words).numpy(), stored["total"])

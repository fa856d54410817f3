"""Counts do not depend on how the images are cut into blocks, nor on how many workers count them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_ops.graphs.cooccurrence import SparseCounts
from gmm_ops.trust.intervals import PairMoments
from gmm_ops.trust.stability import FOLDS
from tests.workflows.stages.test_fit_stage import Seen
from workflows.context import StageContext
from workflows.pipeline import STAGES
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import Scope, read_scopes, write_scopes
from workflows.runtime.devices import turn_on
from workflows.runtime.reductions import tree_reduce
from workflows.stages import count
from workflows.stages.count import SMALL_SHARDS, Count, counts_of
from workflows.storage.images_table import ImageColumns
from workflows.storage.pair_counts import read_fold_counts, read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table
from workflows.words.pair_sums import PairBlock, PairSums, image_groups
from workflows.words.scope_images import ScopeImages


@pytest.mark.parametrize(("images_a_block", "workers"), [(1, 1), (7, 3), (40, 2), (1000, 1)])
def test_blocks_and_workers_change_no_count(digits_run: Path, images_a_block: int, workers: int) -> None:
    folder = RunFolder.open(digits_run)
    plan = Plan.read(folder)
    (joint,) = read_scopes(folder)
    images = ScopeImages(ImageColumns.read(folder, 0, plan.images))
    validation = np.arange(plan.train_images, plan.images)
    groups = image_groups(validation, images.predicted(validation), FOLDS, folder.settings().seed)
    for pair in plan.pairs():
        starts = range(plan.train_images, plan.images, images_a_block)
        ranges = [(start, min(start + images_a_block, plan.images)) for start in starts]
        parts = images.blocks(joint, ranges, small=0)
        blocks = [PairBlock(folder, "joint", pair, part, groups[part.ids - plan.train_images], True) for part in parts]
        counted = tree_reduce(blocks, PairBlock.count, PairSums.merge, scheduler="threads", n_workers=workers)
        key = "joint", pair.lower, pair.upper
        assert read_fold_counts(folder.fold_counts(*key), FOLDS) == counted.pairs
        assert read_pair_counts(folder.cooccurrence(*key)) == by_class(counted.pairs)
        assert PairMoments.from_arrays(load_state(folder.pair_moments(*key))) == counted.moments[0].of_pairs()


def by_class(counts: SparseCounts) -> SparseCounts:
    return SparseCounts.from_rows(counts.group // FOLDS, counts.upper, counts.lower, counts.count)


@pytest.mark.parametrize(
    ("scheduler", "wanted", "device"),
    [
        ("threads", "auto", "cuda"),
        ("threads", "cuda", "cuda"),
        ("threads", "cpu", "cpu"),
        ("ray", "cuda", "cpu"),
    ],
)
def test_only_threads_of_this_process_count_on_its_gpu(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, wanted: str, device: str
) -> None:
    folder, seen = RunFolder.open(digits_run), Seen()
    settings = folder.settings()
    settings = settings.model_copy(
        update={
            "count": settings.count.model_copy(update={"scheduler": scheduler}),
            "runtime": settings.runtime.model_copy(update={"device": wanted}),
        }
    )
    context = StageContext(settings, folder, STAGES["count"], seen, seen.warnings.append)
    assert context.reduction_device == "cpu", "a GPU that is not here is not asked for"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert context.reduction_device == device


def test_threads_that_share_a_gpu_take_turns() -> None:
    with turn_on("cpu"), turn_on("cpu"):
        pass
    order = []

    def other() -> None:
        with turn_on("cuda"):
            order.append("other")

    with ThreadPoolExecutor(1) as pool:
        with turn_on("cuda"):
            waiting = pool.submit(other)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.05)
            order.append("first")
        waiting.result(timeout=60)
    assert order == ["first", "other"]


def test_the_bar_is_of_the_scopes_that_are_asked_for_now(digits_run: Path, tmp_path: Path) -> None:
    """All was counted for the scope joint; a list is asked for instead."""
    folder = RunFolder(shutil.copytree(digits_run, tmp_path / "run"))
    for artefact in ("words", "mixtures"):
        (folder.root / artefact / "joint").rename(folder.root / artefact / "list-a")
    write_scopes(folder, [Scope("list-a", (3, 8), True, (3, 8))])
    seen = Seen()
    count.run(StageContext(folder.settings(), folder, STAGES["count"], seen, seen.warnings.append))
    assert seen.starts == [(6, 0)]
    assert len(folder.ledger("count").items()) == 12
    assert set(read_table(folder.table("words"))["scope"].to_pylist()) == {"list-a"}


def test_a_count_is_as_large_as_its_images_however_scattered(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    images = ImageColumns.read(folder, 0, plan.images)
    few = np.full(plan.images, 1)
    few[::300] = 4
    scattered = ScopeImages(ImageColumns(few, images.predicted, images.probability))
    scope = Scope("class-4", (4,), False, (4,))
    *_, layer = counts_of(folder, settings, plan, scope, scattered)
    assert isinstance(layer, Count)
    chunks = np.unique(np.flatnonzero(few == 4) // settings.extract.images_per_chunk)
    assert layer.images == len(chunks) * settings.extract.images_per_chunk
    assert layer.images <= SMALL_SHARDS * settings.extract.images_per_shard
    (block,) = layer.blocks
    assert len(block.images.ranges) == len(chunks) > 1
    assert block.images.ids.tolist() == np.flatnonzero(few == 4).tolist()

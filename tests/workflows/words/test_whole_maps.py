"""Maps of a shard from the disk and from the network: the same columns, read once whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_ops.fitting.collective import LONE
from tests.workflows.fits.test_labelled_images import CPU, digits_parts
from workflows.data.shards import Shard, plan_shards
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.plan.run_plan import Plan
from workflows.plan.scope import Scope, joint_scope
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.decisions import WAYS, DecisionsWorker, FittedLayer, decisions_part, shards_to_decide, way_column
from workflows.words.forward import ForwardBatch
from workflows.words.shard_names import ShardNames
from workflows.words.whole_maps import WholeMaps, columns_of_rows


def sampled(plan: Plan) -> Plan:
    """The same plan as if a few columns of each map had been stored."""
    return replace(plan, layers=tuple(replace(layer, stored=5) for layer in plan.layers))


def maps_of(maps: WholeMaps, shard: Shard, plan: Plan) -> dict[str, torch.Tensor]:
    found: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in plan.layers}
    rows: dict[str, int] = dict.fromkeys(found, 0)
    for _, batches in maps(shard):
        for first, layer, columns in batches:
            assert first == rows[layer.name]
            rows[layer.name] += len(columns)
            found[layer.name].append(columns)
    return {name: torch.cat(blocks) for name, blocks in found.items()}


def test_the_network_gives_the_columns_that_were_stored(digits_run: Path) -> None:
    settings, plan, folder = digits_parts(digits_run)
    assert plan.stores_everything
    readers = [WholeMaps(settings, one, folder, CPU) for one in (plan, sampled(plan))]
    shards = plan_shards(plan.images, settings.extract.images_per_shard)
    for shard in (shards[0], shards[-1]):
        stored, again = (maps_of(reader, shard, plan) for reader in readers)
        for layer in plan.layers:
            assert stored[layer.name].shape == (len(shard), layer.positions, layer.units)
            assert stored[layer.name].dtype == again[layer.name].dtype == torch.float16
            torch.testing.assert_close(stored[layer.name], again[layer.name], rtol=2e-3, atol=2e-3)


def test_layers_that_nobody_asks_for_are_not_read(digits_run: Path) -> None:
    settings, plan, folder = digits_parts(digits_run)
    shard, wanted = Shard(0, 0, settings.extract.images_per_shard), plan.layers[1].name
    for one in (plan, sampled(plan)):
        groups = WholeMaps(settings, one, folder, CPU)(shard, {wanted})
        assert {layer.name for layers, batches in groups for _, layer, _ in batches} == {wanted}


@pytest.mark.parametrize(("first", "expected"), [(0, [1, 3]), (4, []), (8, [8, 9, 10, 11])])
def test_rows_of_a_batch(first: int, expected: list[int]) -> None:
    rows, columns = np.array([1, 3, 8, 9, 10, 11, 30]), torch.arange(40)[first : first + 4, None, None]
    here, found = columns_of_rows(rows, first, columns)
    assert rows[here].tolist() == found.flatten().tolist() == expected


def test_the_network_sees_a_validation_image_once_for_all_fits(digits_run: Path, tmp_path: Path) -> None:
    """Where maps are not stored: as many passes for four fits as for one, and the decisions of stored maps."""
    settings, plan, folder = digits_parts(digits_run)
    short = settings.discriminative.model_copy(update={"epochs": 1})
    settings = settings.model_copy(update={"discriminative": short})
    pair = Scope("class-2", (2, 5), False, (2,))
    fits = [
        FittedLayer(f"{scope.name} {layer.name}", scope, layer, RunFolder(tmp_path))
        for scope in (joint_scope(plan), pair)
        for layer in plan.layers[1:]
    ]
    for fit in fits:
        fit_layer(settings, plan, folder, fit)
    # As if the last shard of the training images held both splits.
    plan = replace(plan, train_images=plan.train_images - 10)
    wanted = shards_to_decide(settings, plan, folder, fits)
    shards = plan_shards(plan.images, settings.extract.images_per_shard)
    rows = {}
    for way, one in (("stored", plan), ("network", sampled(plan))):
        worker = DecisionsWorker(settings, one, folder, fits, tmp_path / way)
        seen = counted(worker) if way == "network" else {}
        for index, names in wanted.items():
            worker(ShardNames(shards[index], tuple(names)))
        rows[way] = [read_table(decisions_part(tmp_path / way, index)) for index in wanted]
    assert seen == {index: 1 for index in wanted}
    assert max(len(names) for names in wanted.values()) == len(fits)
    assert min(rows["stored"][0]["image"].to_pylist()) == plan.train_images
    for stored, network in zip(rows["stored"], rows["network"], strict=True):
        assert stored.select(["scope", "layer", "image", "label"]).equals(
            network.select(["scope", "layer", "image", "label"])
        )
        for name in (way_column(*way) for way in WAYS):
            assert (stored[name].to_numpy() != network[name].to_numpy()).mean() <= 0.02, name


def fit_layer(settings: Settings, plan: Plan, folder: RunFolder, fit: FittedLayer) -> None:
    inputs = {"settings": settings, "plan": plan, "folder": folder, "layer": fit.layer, "scope": fit.scope}
    one = DiscriminativeFit(rank=0, world=1, out=fit.out, **inputs)
    one.restore(None)
    one.advance(10**6, LONE)
    one.result()


def counted(worker: DecisionsWorker) -> dict[int, int]:
    """How often the worker's network runs over each shard, from now on."""
    seen: dict[int, int] = {}
    forward = worker._maps._forward
    assert forward is not None

    def counting(shard: Shard) -> Iterator[ForwardBatch]:
        seen[shard.index] = seen.get(shard.index, 0) + 1
        return forward(shard)

    worker._maps._forward = counting  # type: ignore[assignment]
    return seen

"""What the fits read: which columns, of which images, in which chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gmm_ops.graphs.windows import Window
from tests.end_to_end.small_digits import activations
from workflows.fits.columns import ColumnSource, sampled_positions
from workflows.fits.training_images import held_out_images
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.storage.run_folder import RunFolder

LAYER = LayerPlan("layer1.add", "add1", 4, 20, 20, 5, 30, None, Window.identity())


def test_sampled_positions_depend_on_seed_layer_and_image_alone() -> None:
    chosen = sampled_positions(0, LAYER, 17)
    assert len(chosen) == 30
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < 400
    np.testing.assert_array_equal(sampled_positions(0, LAYER, 17), chosen)
    other_layer = LayerPlan("layer2.add", "add2", 9, 20, 20, 5, 30, None, Window.identity())
    for other in (
        sampled_positions(1, LAYER, 17),
        sampled_positions(0, LAYER, 18),
        sampled_positions(0, other_layer, 17),
    ):
        assert not np.array_equal(other, chosen)


def test_sampled_positions_cover_the_map_evenly() -> None:
    counts = np.bincount(np.concatenate([sampled_positions(3, LAYER, image) for image in range(2000)]), minlength=400)
    # 2,000 draws of 30 from 400: 150 a position, standard deviation below 12.
    assert counts.min() > 150 - 60
    assert counts.max() < 150 + 60


def test_a_map_that_is_stored_whole_has_every_position() -> None:
    whole = LayerPlan("layer3.add", "add3", 4, 3, 5, 5, 15, None, Window.identity())
    np.testing.assert_array_equal(sampled_positions(0, whole, 2), np.arange(15))


def source_of(root: Path, layer: int) -> tuple[ColumnSource, Plan]:
    folder = RunFolder.open(root)
    plan = Plan.read(folder)
    return ColumnSource(folder.settings(), plan, folder, plan.layers[layer], torch.device("cpu")), plan


def test_fitted_and_held_out_are_all_training_columns_once(digits_run: Path) -> None:
    source, plan = source_of(digits_run, 1)
    stored = activations(digits_run)[plan.layers[1].name][: plan.train_images]
    seen = np.zeros(stored.shape[:2], np.int64)
    apart = held_out_images(RunFolder.open(digits_run).settings(), plan)
    for chunk in range(source.chunks):
        fitted, held_out = source.fitted(chunk), source.held_out(chunk)
        assert len(fitted.columns) == source.chunk_sizes()[chunk]
        for block, of_block in ((fitted, False), (held_out, True)):
            if block is None:
                continue
            image, position = block.image.numpy(), block.position.numpy()
            assert (apart[image] == of_block).all()
            np.testing.assert_array_equal(block.columns.numpy(), stored[image, position])
            np.add.at(seen, (image, position), 1)
    assert (seen == 1).all()


def test_the_same_images_are_held_out_in_every_layer(digits_run: Path) -> None:
    folder = RunFolder.open(digits_run)
    settings, plan = folder.settings(), Plan.read(folder)
    chosen = held_out_images(settings, plan)
    assert chosen.sum() == round(0.1 * plan.train_images)
    held_out = []
    for layer in range(len(plan.layers)):
        source, _ = source_of(digits_run, layer)
        blocks = [source.held_out(chunk) for chunk in range(source.chunks)]
        held_out.append({int(image) for block in blocks if block is not None for image in block.image})
    assert held_out[0] == held_out[1] == held_out[2] == set(np.flatnonzero(chosen).tolist())
    other = held_out_images(settings.model_copy(update={"seed": 1}), plan)
    assert (other != chosen).any()


def test_samples_are_repeatable_and_come_from_their_own_side(digits_run: Path) -> None:
    source, plan = source_of(digits_run, 2)
    every = activations(digits_run)[plan.layers[2].name][: plan.train_images].astype(np.float32)
    apart = held_out_images(RunFolder.open(digits_run).settings(), plan)
    for sample, images in ((source.start_sample, ~apart), (source.held_out_sample, apart)):
        drawn = sample(300, seed=5)
        assert drawn.shape == (300, plan.layers[2].units)
        assert torch.equal(drawn, sample(300, seed=5))
        assert not torch.equal(drawn, sample(300, seed=6))
        allowed = {column.tobytes() for column in every[images].reshape(-1, every.shape[2])}
        assert all(column.tobytes() in allowed for column in drawn.numpy())

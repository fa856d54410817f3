"""Columns image by image: stored and recomputed ones are the same, in every chunk, of every image of a scope."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_ops.fitting.collective import LONE
from gmm_ops.mixtures.seeding import fit_seed
from tests.workflows.made_labelled import (
    BROKEN,
    JOINT,
    TRAIN,
    labels,
    make,
    patch_activations,
    readable,
    settings_of,
)
from tests.workflows.words.decided import decided, errors_of
from workflows.fits.columns import sampled_positions
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.labelled_images import ImageSource, RecomputedImages, SampledImages, StoredImages
from workflows.fits.training_images import TrainingImages, held_out_images
from workflows.plan.run_plan import Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table, write_table
from workflows.words.decisions import FittedLayer

CPU = torch.device("cpu")


@pytest.mark.parametrize("scope", [JOINT, Scope("class-2", (2, 5, 7), False, (2,)), Scope("list-a", (1,), True, (1,))])
def test_fitted_and_held_out_images_are_those_of_the_scope_once(tmp_path: Path, scope: Scope) -> None:
    settings, plan, folder = make(tmp_path / "run", settings_of())
    read = StoredImages(folder, plan.layers[0], CPU)
    source = ImageSource(settings, plan, folder, plan.layers[0], scope, CPU, read)
    columns, found = patch_activations()[:TRAIN], {"fitted": [], "held_out": []}
    for chunk in range(source.chunks):
        for kind, sizes in (("fitted", source.chunk_sizes()), ("held_out", source.held_out_sizes())):
            block, label = getattr(source, kind)(chunk)
            assert len(block) == len(label) == sizes[chunk]
            found[kind] += [(tuple(one.ravel().tolist()), int(place)) for one, place in zip(block, label, strict=True)]
    members = np.flatnonzero(scope.contains(labels()[:TRAIN]))
    expected = {image: (tuple(columns[image].ravel().tolist()), int(scope.scope_label(labels())[image]))
                for image in np.setdiff1d(members, BROKEN)}  # fmt: skip
    assert sorted(found["fitted"] + found["held_out"]) == sorted(expected.values())
    apart = held_out_images(settings, plan, scope.contains(labels()[:TRAIN]))
    assert sorted(found["held_out"]) == sorted(value for image, value in expected.items() if apart[image])


def test_a_scope_holds_out_its_own_share(tmp_path: Path) -> None:
    settings, plan, _ = make(tmp_path / "run", settings_of())
    every = held_out_images(settings, plan)
    assert every.sum() == 60
    members = np.zeros(TRAIN, bool)
    members[::7] = True
    of_scope = held_out_images(settings, plan, members)
    assert of_scope.sum() == round(0.1 * members.sum())
    assert not (of_scope & ~members).any()
    assert np.array_equal(held_out_images(settings, plan, np.ones(TRAIN, bool)), every)
    for count in (0, 1, 2):
        few = np.zeros(TRAIN, bool)
        few[:count] = True
        assert held_out_images(settings, plan, few).sum() == max(0, count - 1), "never all of a scope"


def test_if_all_held_out_are_broken_the_next_readable_one_is(tmp_path: Path) -> None:
    settings, plan, folder = make(tmp_path / "run", settings_of({"held_out": 0.001}))
    order = np.random.default_rng(fit_seed(settings.seed, "held-out", "images")).permutation(TRAIN)
    rows = read_table(folder.images_table).to_pylist()
    for image in order[:3]:
        rows[image] |= {"status": "broken", "reason": "not a picture", "predicted": None}
    write_table(folder.images_table, rows, "images")
    images = TrainingImages(settings, plan, folder)
    first = next(image for image in order[3:] if image not in BROKEN)
    assert np.flatnonzero(images.held_out).tolist() == [first]
    assert images.fitted.sum() == TRAIN - len({*order[:3].tolist(), *BROKEN} & set(range(TRAIN))) - 1
    lone = np.zeros(TRAIN, bool)
    lone[[*order[:3], first]] = True
    alone = TrainingImages(settings, plan, folder, lone)
    assert np.flatnonzero(alone.fitted).tolist() == [first], "never all of a scope"
    assert not alone.held_out.any()


def test_broken_images_among_held_out_ones_change_nothing(tmp_path: Path) -> None:
    settings, plan, folder = make(tmp_path / "run", settings_of())
    apart = held_out_images(settings, plan)
    assert apart[list(BROKEN[:3])].any(), "or this test misses its point"
    images = TrainingImages(settings, plan, folder)
    assert np.flatnonzero(images.held_out).tolist() == readable(np.flatnonzero(apart)).tolist()


def test_a_scope_has_no_other_chunks_than_those_of_its_images(tmp_path: Path) -> None:
    """Else every step of every fit of a thousand scopes would go through the chunks of all images."""
    settings, plan, folder = make(tmp_path / "run", settings_of())
    members = np.zeros(TRAIN, bool)
    members[[65, 66, 590]] = True
    images = TrainingImages(settings, plan, folder, members)
    assert [images.bounds(chunk) for chunk in range(images.chunks)] == [(60, 80), (580, 600)]
    found = [images.bounds(0)[0] + images.kept(images.fitted | images.held_out, 0), images.bounds(1)[0] + 10]
    assert np.hstack(found).tolist() == [65, 66, 590]
    members[:] = False
    members[list(BROKEN[:3])] = True
    assert TrainingImages(settings, plan, folder, members).chunks == 0, "a broken image has no columns"


def digits_parts(root: Path) -> tuple[Settings, Plan, RunFolder]:
    folder = RunFolder.open(root)
    settings = folder.settings()
    runtime = settings.runtime.model_copy(update={"device": "cpu"})
    return settings.model_copy(update={"runtime": runtime}), Plan.read(folder), folder


def test_recomputed_columns_are_the_stored_ones(digits_run: Path) -> None:
    settings, plan, folder = digits_parts(digits_run)
    for layer in plan.layers:
        stored = StoredImages(folder, layer, CPU)
        again = RecomputedImages(settings, plan, folder, layer)
        for first, stop in ((0, 25), (475, 525), (600, plan.images)):
            left, right = (read(np.arange(first, stop)) for read in (stored, again))
            assert left.dtype == right.dtype == torch.float16
            torch.testing.assert_close(left, right, rtol=2e-3, atol=2e-3)
            assert (left == right).double().mean() > 0.99, "but for roundings, bit for bit"
            some = np.arange(first, stop)[[1, 2, 9, -1]]
            for read in (stored, again):
                torch.testing.assert_close(read(some), left[[1, 2, 9, -1]], rtol=2e-3, atol=2e-3)


def test_recomputed_columns_are_sampled_as_stored_ones_are(digits_run: Path) -> None:
    settings, plan, folder = digits_parts(digits_run)
    layer = replace(plan.layers[0], stored=5)
    assert not layer.all_stored
    sampled = SampledImages(RecomputedImages(settings, plan, folder, layer), settings.seed, layer)(np.arange(25, 50))
    whole = RecomputedImages(settings, plan, folder, layer)(np.arange(25, 50))
    assert sampled.shape == (25, 5, layer.units)
    for row, image in enumerate(range(25, 50)):
        assert torch.equal(sampled[row], whole[row, sampled_positions(settings.seed, layer, image)])


@pytest.mark.slow
def test_a_fit_on_recomputed_columns_is_that_on_stored_ones(digits_run: Path, tmp_path: Path) -> None:
    settings, plan, folder = digits_parts(digits_run)
    layer, found = plan.layers[-1], {}
    for columns in ("stored", "recomputed"):
        chosen = settings.discriminative.model_copy(update={"columns": columns, "epochs": 2, "start": "paper"})
        fit = DiscriminativeFit(
            rank=0,
            world=1,
            settings=settings.model_copy(update={"discriminative": chosen}),
            plan=plan,
            folder=folder,
            layer=layer,
            scope=JOINT,
            out=RunFolder(tmp_path / columns),
        )
        fit.restore(None)
        fit.advance(10**6, LONE)
        assert fit._training is not None
        fit.result()
        out = fit.out
        rows = decided(settings, plan, folder, [FittedLayer(columns, JOINT, layer, out)], out.decisions)
        found[columns] = fit._training, errors_of(rows), len(rows)
    stored, recomputed = (found[columns][0].state["words"].result() for columns in ("stored", "recomputed"))
    losses = [[row.loss for row in found[columns][0].rows[:20]] for columns in ("stored", "recomputed")]
    np.testing.assert_allclose(*losses, rtol=1e-3, err_msg="before roundings have grown")
    distance = torch.linalg.norm(stored.mean - recomputed.mean) / torch.linalg.norm(stored.mean)
    moved = torch.linalg.norm(stored.mean - found["stored"][0].generative.mean) / torch.linalg.norm(stored.mean)
    assert distance < 0.02 < moved
    for name, error in found["stored"][1].items():
        assert abs(found["recomputed"][1][name] - error) <= 0.02 * found["stored"][2]

"""What the fit of a chain reads: every layer of the same images, with their predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workflows.made_chain import BROKEN, TRAIN, chain_settings_of, dense_activations, made_run
from workflows.fits.chain_fit import ChainSource, ImageBlock
from workflows.fits.training_images import held_out_images


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ChainSource:
    settings = chain_settings_of()
    folder, plan = made_run(tmp_path_factory.mktemp("source") / "run", settings, *dense_activations())
    return ChainSource(settings, plan, folder, torch.device("cpu"))


def images_of(block: ImageBlock) -> list[int]:
    """Which images the rows are, found by their columns in the lowest layer."""
    known = {column.astype(np.float32).tobytes(): image for image, column in enumerate(dense_activations()[0][0])}
    return [known[column.tobytes()] for column in block.columns[0].float().numpy()]


def test_fitted_and_held_out_are_all_readable_images_once(source: ChainSource) -> None:
    layers, predicted = dense_activations()
    apart = source.images.held_out
    seen = []
    for chunk in range(source.images.chunks):
        fitted, held_out = source.fitted(chunk), source.held_out(chunk)
        assert len(fitted) == source.chunk_sizes()[chunk]
        for block in (fitted, held_out):
            if block is None:
                continue
            images = images_of(block)
            assert {bool(apart[image]) for image in images} <= {block is held_out}
            for stored, columns in zip(layers, block.columns, strict=True):
                np.testing.assert_array_equal(columns.numpy(), stored[images])
            assert block.predicted is not None
            np.testing.assert_array_equal(block.predicted.numpy(), predicted[images])
            seen += images
    assert sorted(seen) == [image for image in range(TRAIN) if image not in BROKEN]


def test_broken_images_are_neither_fitted_nor_held_out(source: ChainSource) -> None:
    assert not source.images.fitted[list(BROKEN)].any()
    assert not source.images.held_out[list(BROKEN)].any()
    assert source.images.fitted.sum() + source.images.held_out.sum() == TRAIN - len(BROKEN)


def test_samples_are_repeatable_whole_images_of_their_own_side(source: ChainSource) -> None:
    layers, predicted = dense_activations()
    for sample, mask in ((source.start_sample, source.images.fitted), (source.held_out_sample, source.images.held_out)):
        drawn = sample(25, seed=5)
        images = images_of(drawn)
        assert len(set(images)) == 25
        assert mask[images].all()
        assert len({image // 20 for image in images}) > 5, "spread over chunks"
        for stored, columns in zip(layers, drawn.columns, strict=True):
            assert columns.dtype == torch.float32
            np.testing.assert_array_equal(columns.numpy(), stored[images].astype(np.float32))
        assert drawn.predicted is not None
        np.testing.assert_array_equal(drawn.predicted.numpy(), predicted[images])
        assert images_of(sample(25, seed=5)) == images
        assert images_of(sample(25, seed=6)) != images
        assert sorted(images_of(sample(10**6, seed=5))) == np.flatnonzero(mask).tolist()


def test_the_logits_model_has_no_prediction(tmp_path: Path) -> None:
    settings = chain_settings_of({"output": "gaussian"})
    folder, plan = made_run(tmp_path / "run", settings, *dense_activations())
    source = ChainSource(settings, plan, folder, torch.device("cpu"))
    assert source.fitted(0).predicted is None
    assert source.start_sample(30, 0).predicted is None
    assert ImageBlock.joined([source.fitted(0), source.fitted(1)]).predicted is None


def test_the_held_out_images_are_those_of_the_mixtures(source: ChainSource, tmp_path: Path) -> None:
    settings = chain_settings_of()
    _, plan = made_run(tmp_path / "run", settings, *dense_activations())
    expected = held_out_images(settings, plan)
    expected[list(BROKEN)] = False
    np.testing.assert_array_equal(source.images.held_out, expected)

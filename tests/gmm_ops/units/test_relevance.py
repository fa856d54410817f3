"""Conductance, masked sums, class means and shares: slow twins and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.units.relevance import (
    Completeness,
    PathSum,
    RelevanceSums,
    layer_shares,
    mask_weights,
    specific,
    upsampling,
)
from tests.references import relevance as slow

SIZES = ((5, 4, 4), (3, 2, 3))


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_a_path_sums_as_the_paper_writes_it(rule: str) -> None:
    activations, gradients = drawn(0, 4, 2, 3, 2, 2), drawn(1, 4, 2, 3, 2, 2)
    path = PathSum(rule)  # type: ignore[arg-type]
    for point, slope in zip(activations.clone(), gradients.clone(), strict=True):
        path.add(point, slope)
    expected = slow.conductance(activations.numpy(), gradients.numpy(), rule)
    np.testing.assert_allclose(path.total.numpy(), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(path.activations, activations[-1])


def test_of_a_linear_output_one_step_is_exact() -> None:
    weights, start, end = drawn(0, 1, 3, 2, 2), drawn(1, 1, 3, 2, 2), drawn(2, 1, 3, 2, 2)
    path = PathSum()
    path.add(start, weights.clone())
    path.add(end, weights.clone())
    assert float(path.total.sum()) == pytest.approx(float((weights * (end - start)).sum()))


def test_no_unit_is_carried_up_to_the_mask() -> None:
    maps, mask = drawn(0, 3, 4, 3).numpy(), (drawn(1, 9, 7) > 0).double()
    weights = mask_weights(mask[None], 4, 3)[0].numpy()
    found = (np.abs(maps) * weights).sum(axis=(1, 2))
    np.testing.assert_allclose(found, slow.masked_relevance(maps, mask.numpy()), rtol=1e-12)
    assert upsampling(3, 7).sum(dim=1) == pytest.approx(np.ones(7))


def sums(rows: slice, by_area: bool = False) -> RelevanceSums:
    labels = torch.tensor([2, 0, 2, 2, 0, 1])[rows]
    maps = [drawn(seed, 6, *size)[rows] for seed, size in enumerate(SIZES)]
    activations = [drawn(10 + seed, 6, *size)[rows] for seed, size in enumerate(SIZES)]
    masks, known = (drawn(20, 6, 8, 8)[rows] > 0).double(), torch.tensor([1, 1, 0, 1, 1, 0])[rows]
    return RelevanceSums.from_batch(labels, maps, activations, masks, known, by_area)


@pytest.mark.parametrize("by_area", [False, True])
def test_class_means_are_those_of_loops_over_images(by_area: bool) -> None:
    found = sums(slice(None), by_area).by_class([0, 2, 1])
    labels, known = [2, 0, 2, 2, 0, 1], [1, 1, 0, 1, 1, 0]
    maps = [drawn(seed, 6, *size).numpy() for seed, size in enumerate(SIZES)]
    masks = (drawn(20, 6, 8, 8) > 0).double().numpy()
    for row, label in enumerate([0, 2, 1]):
        own = [image for image, one in enumerate(labels) if one == label]
        masked = [image for image in own if known[image]]
        signed = np.mean([np.concatenate([one[image].sum((1, 2)) for one in maps]) for image in own], axis=0)
        np.testing.assert_allclose(found.signed[row].numpy(), signed, rtol=1e-12)
        assert (int(found.images[row]), int(found.masked_images[row])) == (len(own), len(masked))
        if masked:
            within = [
                np.concatenate([slow.masked_relevance(one[image], masks[image]) for one in maps])
                / (masks[image].sum() if by_area else 1)
                for image in masked
            ]
            np.testing.assert_allclose(found.masked[row].numpy(), np.mean(within, axis=0), rtol=1e-12)
        else:
            assert found.masked[row].isnan().all()
    assert (found.absolute >= found.signed.abs() - 1e-12).all()


def test_shards_add_up_in_any_cut() -> None:
    whole = sums(slice(None)).by_class([0, 1, 2])
    parts = sums(slice(0, 1)) + sums(slice(1, 4)) + sums(slice(4, 6)) + RelevanceSums.zero(8)
    cut = parts.by_class([0, 1, 2])
    assert torch.equal(whole.images, cut.images)
    for name in ("signed", "absolute", "masked", "activation"):
        np.testing.assert_allclose(getattr(whole, name).numpy(), getattr(cut, name).numpy(), rtol=1e-13, atol=1e-13)
    assert parts.labels.tolist() == [0, 1, 2], "one row a class, however many parts"
    stored = RelevanceSums.from_arrays(parts.to_arrays())
    assert stored == parts


def test_shares_are_of_a_layer_and_specific_ones_cancel() -> None:
    values = drawn(0, 4, 8).abs()
    values[1, 5:] = 0.0
    shares = layer_shares(values, [5, 3])
    assert shares[:, :5].sum(dim=1).tolist() == pytest.approx([1, 1, 1, 1])
    assert shares[:, 5:].sum(dim=1).tolist() == pytest.approx([1, 0, 1, 1])
    special = specific(shares)
    assert special.sum(dim=0).abs().max() < 1e-12
    assert special[0].tolist() == pytest.approx((shares[0] - shares[1:].mean(dim=0)).tolist())


def test_completeness_is_a_relative_error_of_each_image() -> None:
    found = Completeness.from_batch(
        torch.tensor([3, 4, 9]), torch.tensor([2.0, -4.0, 0.0]), torch.tensor([[2.0, 1.0], [-3.0, -4.0], [1.0, 1.0]])
    )
    assert found.quartiles()[1].tolist() == pytest.approx([0.125, 0.25])
    assert np.isnan(Completeness.zero(2).quartiles()).all()
    assert (found + Completeness.zero(2)) == found


def test_bad_input_is_refused_by_its_words() -> None:
    with pytest.raises(RefusedInput, match="rule: must be 'trapezoid' or 'left', got 'right'"):
        PathSum("right")  # type: ignore[arg-type]
    with pytest.raises(RefusedInput, match="steps: must be at least 1, got a path of fewer than two points"):
        PathSum().total  # noqa: B018
    with pytest.raises(RefusedInput, match="gradients: must have the shape of activations"):
        PathSum().add(drawn(0, 1, 2, 2, 2), drawn(0, 1, 3, 2, 2))
    with pytest.raises(RefusedInput, match=r"classes: must have an image each, got none of \[7\]"):
        sums(slice(None)).by_class([0, 7])
    with pytest.raises(RefusedInput, match="merge: both must be of the same units, got 0 and 8"):
        _ = RelevanceSums.zero(0) + sums(slice(None))
    with pytest.raises(RefusedInput, match="classes: must be at least 2 to tell them apart, got 1"):
        specific(drawn(0, 1, 4))

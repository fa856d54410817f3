"""Hard words, posteriors and likelihoods equal the loops, whatever the tiling, and ties go to the lowest word."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.assignment import assign, log_likelihood, posteriors
from gmm_ops.mixtures.mixture import Mixture
from tests.gmm_ops.drawn_columns import cifar_columns, clustered, log_joints, warm_mixture
from tests.references import mixture as reference


def as_lists(mixture: Mixture) -> tuple[list[float], list[list[float]], list[list[float]]]:
    return mixture.log_pi.tolist(), mixture.mean.tolist(), mixture.variance.tolist()


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return clustered(700, 12, 9)


@pytest.fixture(scope="module")
def mixture(columns: torch.Tensor) -> Mixture:
    return warm_mixture(columns, 15)


def test_everything_equals_the_loop(mixture, columns):
    few = columns[:80]
    parameters = as_lists(mixture)
    rows = few.double().tolist()
    found = assign(mixture, few)
    assert found.word.tolist() == [reference.hard_word(x, *parameters) for x in rows]
    posterior = torch.tensor([reference.posterior(x, *parameters) for x in rows], dtype=torch.float64)
    torch.testing.assert_close(posteriors(mixture, few).double(), posterior, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.posterior, posterior.float().amax(dim=1), rtol=1e-4, atol=1e-5)
    joint = torch.tensor([reference.log_joints(x, *parameters) for x in rows], dtype=torch.float64)
    torch.testing.assert_close(log_joints(mixture, few), joint)
    torch.testing.assert_close(found.log_joint.double(), joint.amax(dim=1), rtol=1e-6, atol=1e-5)
    likelihood = torch.tensor([reference.log_likelihood(x, *parameters) for x in rows], dtype=torch.float64)
    torch.testing.assert_close(log_likelihood(mixture, few), likelihood, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tile_rows", [64, 100, 333])
def test_the_tile_changes_nothing(mixture, columns, tile_rows):
    whole, tiled = assign(mixture, columns), assign(mixture, columns, tile_rows=tile_rows)
    assert torch.equal(whole.word, tiled.word)
    assert torch.equal(whole.log_joint, tiled.log_joint)
    torch.testing.assert_close(whole.posterior, tiled.posterior, rtol=1e-6, atol=1e-7)


def test_one_column_at_a_time_gives_the_same_words(mixture, columns):
    alone = torch.cat([assign(mixture, columns[i : i + 1]).word for i in range(60)])
    assert torch.equal(alone, assign(mixture, columns).word[:60])


def test_exact_ties_go_to_the_lowest_word(mixture, columns):
    first = torch.arange(mixture.n_words)
    shared = replace(mixture, log_pi=mixture.log_pi - math.log(3.0))
    doubled = shared.relabelled(torch.cat([first.flip(0), first, first]))
    assert int(assign(doubled, columns).word.max()) < mixture.n_words


def test_a_column_between_two_words_takes_the_lower():
    mean = torch.tensor([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    log_pi = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    mixture = Mixture(log_pi, mean, torch.ones_like(mean), torch.zeros(2, dtype=torch.float64))
    assert assign(mixture, torch.tensor([[0.0, 0.3], [1e-6, 0.0], [-1e-6, 0.0]])).word.tolist() == [1, 1, 2]


def test_a_word_too_close_in_float32_is_decided_in_float64():
    """Two words whose scores differ by far less than a float32 rounding of their large terms."""
    mean = torch.full((2, 64), 30.0, dtype=torch.float64)
    mean[1, 0] += 1e-4
    log_pi = torch.full((2,), 0.5, dtype=torch.float64).log()
    center = torch.zeros(64, dtype=torch.float64)
    mixture = Mixture(log_pi, mean, torch.full_like(mean, 0.01), center)
    columns = 30.0 + 0.1 * torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(assign(mixture, columns).word, (columns[:, 0].double() > 30.0 + 0.5e-4).long())


def near_ties(ties: int, units: int, seed: int) -> tuple[Mixture, torch.Tensor]:
    """One wide word at the centre and, for every tie, a word at the variance floor, 1e-4 of the layer's, far out.

    Column i lies where its own narrow word and the wide one have the same joint, up to a float32 rounding of the
    column and a gap of 1e-5 to 1e-2 to either side.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = 3.0 * torch.randn(ties, units, generator=generator, dtype=torch.float64)
    log_pi = torch.full((ties + 1,), 1.0 / (ties + 1), dtype=torch.float64).log()
    variance = torch.full((ties + 1, units), 1e-4, dtype=torch.float64)
    variance[0] = 1.0
    mixture = Mixture(log_pi, torch.cat([torch.zeros_like(mean[:1]), mean]), variance, torch.zeros_like(mean[0]))
    way = torch.randn(ties, units, generator=generator, dtype=torch.float64)
    way /= way.norm(dim=1, keepdim=True)
    gap = torch.logspace(-5, -2, ties, dtype=torch.float64) * torch.sign(torch.randn(ties, generator=generator))
    # log N narrow - log N wide at mean + t way: D/2 log 1e4 - t^2/2 1e4 + |mean + t way|^2 / 2, set to the gap.
    half, slope = 0.5 * (1e4 - 1.0), (mean * way).sum(dim=1)
    rest = 0.5 * (mean * mean).sum(dim=1) + 0.5 * units * math.log(1e4) - gap
    step = (slope + torch.sqrt(slope * slope + 4.0 * half * rest)) / (2.0 * half)
    return mixture, (mean + step[:, None] * way).float()


@pytest.mark.parametrize(("units", "seed"), [(8, 0), (32, 1), (64, 2)])
def test_near_ties_at_the_variance_floor_get_the_float64_word(units, seed):
    """600 in all: the narrow word's float32 score is known far worse than the wide one's."""
    mixture, columns = near_ties(200, units, seed)
    exact = log_joints(mixture, columns)
    first, second = exact.topk(2, dim=1).values.T
    assert float((first - second).max()) < 0.1, "these are near-ties"
    assert 20 < int((exact.argmax(dim=1) == 0).sum()) < 180, "either word may win"
    assert torch.equal(assign(mixture, columns).word, exact.argmax(dim=1))


@pytest.mark.parametrize("routine", [assign, log_likelihood, posteriors])
def test_columns_too_large_for_float32_squares_are_refused(mixture, routine):
    columns = torch.zeros(10, 12)
    columns[4, 1] = 3e19
    with pytest.raises(RefusedInput, match=r"columns: must have squares that fit float32.*1 of 10.*first: row 4"):
        routine(mixture, columns)
    with pytest.raises(RefusedInput, match="1 of 10 columns that overflow"):
        routine(mixture, columns.double() * 1e200)


def test_relabelling_words_relabels_the_assignment(mixture, columns):
    order = torch.randperm(mixture.n_words, generator=torch.Generator().manual_seed(4))
    renamed = assign(mixture.relabelled(order), columns)
    assert torch.equal(order[renamed.word], assign(mixture, columns).word)


@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_are_columns_in_their_place(mixture, columns, channels_last):
    maps = columns[: 2 * 5 * 6].reshape(2, 5, 6, 12).permute(0, 3, 1, 2)
    if not channels_last:
        maps = maps.contiguous()
    found, flat = mixture.assign(maps), assign(mixture, columns[:60])
    assert found.word.shape == found.posterior.shape == found.log_joint.shape == (2, 5, 6)
    assert torch.equal(found.word.flatten(), flat.word)
    assert torch.equal(found.posterior.flatten(), flat.posterior)
    assert torch.equal(found.log_joint.flatten(), flat.log_joint)


def test_half_precision_columns_are_read_as_they_are(mixture, columns):
    half = columns.half()
    assert torch.equal(assign(mixture, half).word, assign(mixture, half.float()).word)


def test_no_column_gives_no_word(mixture):
    assert assign(mixture, torch.empty(0, 12)).word.shape == (0,)
    assert log_likelihood(mixture, torch.empty(0, 12)).shape == (0,)


def test_an_empty_word_is_never_chosen(mixture, columns):
    log_pi = mixture.log_pi.clone()
    log_pi[3] = -torch.inf
    without = Mixture(log_pi, mixture.mean, mixture.variance, mixture.center)
    assert 3 in assign(mixture, columns).word
    found = assign(without, columns)
    assert 3 not in found.word
    assert bool(torch.isfinite(found.log_joint).all())


def test_arrays_keep_every_bit(mixture):
    back = Mixture.from_arrays(mixture.to_arrays())
    for name in ("log_pi", "mean", "variance", "center"):
        assert torch.equal(getattr(back, name), getattr(mixture, name))


@pytest.mark.parametrize("routine", [assign, log_likelihood, posteriors])
def test_nan_is_refused(mixture, routine):
    columns = torch.zeros(10, 12)
    columns[4, 1] = float("nan")
    with pytest.raises(NonFiniteActivations, match="row 4"):
        routine(mixture, columns)


def test_wrong_shapes_are_refused(mixture):
    with pytest.raises(RefusedInput, match=r"columns must have shape \(n, 12\)"):
        assign(mixture, torch.zeros(3, 11))


def test_real_columns_get_the_float64_word(shared_data):
    columns = cifar_columns(shared_data, 20, 3)
    mixture = warm_mixture(columns, 50)
    found = assign(mixture, columns)
    exact = log_joints(mixture, columns)
    assert torch.equal(found.word, exact.argmax(dim=1))
    torch.testing.assert_close(found.log_joint.double(), exact.amax(dim=1), rtol=1e-6, atol=1e-4)
    assert len(found.word.unique()) > 25


@pytest.mark.gpu
def test_a_gpu_gives_the_same_words(mixture, columns):
    there = assign(mixture.to("cuda"), columns.cuda())
    here = assign(mixture, columns)
    assert torch.equal(there.word.cpu(), here.word)
    torch.testing.assert_close(there.posterior.cpu(), here.posterior, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.log_joint.cpu(), here.log_joint, rtol=1e-6, atol=1e-5)

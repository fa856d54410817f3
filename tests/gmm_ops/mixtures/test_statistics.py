"""The statistics equal the loop, and neither splits, tiles, engine nor order of merging change them."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.screening import FEWEST_UNITS
from gmm_ops.mixtures.statistics import MixtureStatistics, em_pass
from tests.gmm_ops.drawn_columns import clustered, digit_patches, warm_mixture
from tests.references import em as reference


def assert_same(a: MixtureStatistics, b: MixtureStatistics, relative: float) -> None:
    assert a.count == pytest.approx(b.count, rel=1e-12)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=relative)
    for name in ("s0", "s1", "s2"):
        one, two = getattr(a, name), getattr(b, name)
        assert float((one - two).abs().max()) <= relative * float(two.abs().max()), name


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return clustered(3000, 20, 30)


@pytest.fixture(scope="module")
def mixture(columns: torch.Tensor) -> Mixture:
    return warm_mixture(columns, 40)


def test_sums_equal_the_loop(mixture, columns):
    few = columns[:60]
    parameters = (p.tolist() for p in (mixture.log_pi, mixture.mean, mixture.variance, mixture.center))
    s0, s1, s2 = (torch.tensor(s, dtype=torch.float64) for s in reference.e_step(few.double().tolist(), *parameters))
    expected = MixtureStatistics(60.0, float(log_likelihood(mixture, few).sum()), s0, s1, s2)
    # Float32 scores of about -25 whose largest terms are in the hundreds: posteriors good to 1e-5.
    assert_same(MixtureStatistics.from_batch(mixture, few, "dense"), expected, 1e-5)
    assert_same(MixtureStatistics.from_batch(mixture, few, "sparse"), expected, 1e-5)


def test_posteriors_of_a_column_sum_to_one(mixture, columns):
    for engine in ("dense", "sparse"):
        statistics = MixtureStatistics.from_batch(mixture, columns, engine)
        assert statistics.s0.sum().item() == pytest.approx(3000, rel=1e-6)
        assert statistics.count == 3000


@pytest.mark.parametrize("units", [20, 128])
def test_dense_equals_sparse(units):
    columns = clustered(2500, units, 30, seed=5)
    mixture = warm_mixture(columns, 70)
    dense, sparse, auto = (MixtureStatistics.from_batch(mixture, columns, e) for e in ("dense", "sparse", "auto"))
    assert_same(dense, sparse, 1e-6)
    assert dense.log_likelihood == pytest.approx(sparse.log_likelihood, rel=1e-7)
    # Of many units a processor with matrix units scores survivors by distance: float32 products round by more.
    assert_same(auto, sparse, 1e-6 if units < FEWEST_UNITS else 1e-4)


def test_auto_loops_where_few_words_matter_and_else_multiplies():
    from gmm_ops.mixtures.estep import is_sparse

    scores = torch.zeros(100, 64)
    assert not is_sparse(scores, scores.amax(dim=1), 64)
    scores[:, 3] = 1000.0
    assert is_sparse(scores, scores.amax(dim=1), 64)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("tile_rows", [64, 192, 1000])
def test_the_tile_changes_nothing(mixture, columns, engine, tile_rows):
    whole = em_pass(mixture, columns, engine=engine)
    tiled = em_pass(mixture, columns, engine=engine, tile_rows=tile_rows)
    assert_same(tiled, whole, 1e-6 if engine == "dense" else 1e-12)


@pytest.mark.parametrize("cuts", [(1,), (1500,), (7, 8, 2048), (700, 1400, 2100)])
def test_any_split_merges_to_the_whole(mixture, columns, cuts):
    parts = torch.tensor_split(columns, cuts)
    statistics = [MixtureStatistics.from_batch(mixture, part) for part in parts]
    whole = MixtureStatistics.from_batch(mixture, columns)
    merged = MixtureStatistics.zero(40, 20)
    for part in statistics:
        merged = merged.merge(part)
    assert_same(merged, whole, 1e-6)
    backwards = statistics[-1]
    for part in statistics[-2::-1]:
        backwards = part + backwards
    assert_same(backwards, merged, 1e-12)


def test_zero_is_neutral_and_no_columns_give_zero(mixture, columns):
    one = MixtureStatistics.from_batch(mixture, columns[:100])
    same = MixtureStatistics.zero(40, 20) + one
    assert torch.equal(same.pack(), one.pack())
    assert torch.equal(em_pass(mixture, columns[:0]).pack(), MixtureStatistics.zero(40, 20).pack())


def test_packing_keeps_every_bit_and_adds_like_merge(mixture, columns):
    a = MixtureStatistics.from_batch(mixture, columns[:1000])
    b = MixtureStatistics.from_batch(mixture, columns[1000:])
    assert torch.equal(MixtureStatistics.unpack(a.pack(), 40, 20).pack(), a.pack())
    assert torch.equal(a.pack() + b.pack(), (a + b).pack())
    torch.testing.assert_close(a.scaled(0.25).pack(), 0.25 * a.pack())


def test_relabelled_words_give_relabelled_sums(mixture, columns):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(6))
    plain = MixtureStatistics.from_batch(mixture, columns)
    renamed = MixtureStatistics.from_batch(mixture.relabelled(order), columns)
    expected = MixtureStatistics(plain.count, plain.log_likelihood, plain.s0[order], plain.s1[order], plain.s2[order])
    assert_same(renamed, expected, 1e-6)


def test_large_means_with_small_spreads_keep_their_variance():
    columns = 1000.0 + 0.1 * torch.randn(20_000, 8, generator=torch.Generator().manual_seed(7))
    mixture = warm_mixture(columns, 1)
    expected = columns.double().var(dim=0, unbiased=False)
    torch.testing.assert_close(mixture.variance[0], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(mixture.mean[0], columns.double().mean(dim=0), rtol=1e-9, atol=0)


def test_tiny_posteriors_change_nothing(columns):
    """Words e^-200 away: denormals where nothing guards against them."""
    near = warm_mixture(columns, 4)
    far = Mixture(
        torch.cat([near.log_pi, near.log_pi - 150]).log_softmax(0),
        torch.cat([near.mean, near.mean + 2.0]),
        torch.cat([near.variance, near.variance]),
        near.center,
    )
    statistics = MixtureStatistics.from_batch(far, columns, "dense")
    assert_same(
        MixtureStatistics.from_batch(near, columns, "dense"),
        MixtureStatistics(
            statistics.count, statistics.log_likelihood, statistics.s0[:4], statistics.s1[:4], statistics.s2[:4]
        ),
        1e-6,
    )
    assert float(statistics.s0[4:].max()) < 1e-20


def test_bad_input_is_refused(mixture, columns):
    broken = columns[:50].clone()
    broken[30, 0] = float("inf")
    with pytest.raises(NonFiniteActivations, match=r"1 of 50 columns hold NaN or infinity \(first: row 30\)"):
        MixtureStatistics.from_batch(mixture, broken)
    with pytest.raises(RefusedInput, match="squares that fit float32"):
        MixtureStatistics.from_batch(mixture, torch.full((4, 20), 1e25))
    with pytest.raises(RefusedInput, match="engine must be 'auto', 'dense', 'sparse' or 'screened'; got 'fast'"):
        MixtureStatistics.from_batch(mixture, columns, "fast")
    with pytest.raises(RefusedInput, match=r"columns must have shape \(n, 20\)"):
        MixtureStatistics.from_batch(mixture, columns[:, :5])


def test_digits_pass_through_all_engines():
    columns = digit_patches()[:6000]
    mixture = warm_mixture(columns, 30)
    assert_same(
        MixtureStatistics.from_batch(mixture, columns, "dense"),
        MixtureStatistics.from_batch(mixture, columns, "sparse"),
        1e-6,
    )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_sums(mixture, columns):
    here = em_pass(mixture, columns)
    there = em_pass(mixture.to("cuda"), columns.cuda())
    assert_same(MixtureStatistics.unpack(there.pack().cpu(), 40, 20), here, 1e-5)

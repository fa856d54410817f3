"""The E-step over slices equals the unsliced one and the loops, whatever the cut, the tile or the engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.estep import is_sparse
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.statistics import MixtureStatistics, em_pass
from tests.gmm_ops.drawn_columns import cifar_columns, clustered, digit_patches, warm_mixture
from tests.gmm_ops.word_slices.thread_slices import on_slices
from tests.references import word_slices as reference


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return digit_patches()[:5_000]


@pytest.fixture(scope="module")
def mixture(columns: torch.Tensor) -> Mixture:
    return warm_mixture(columns, 90)


def swept(mixture, columns, world, **options) -> list[MixtureStatistics]:
    return on_slices(
        world, lambda reduce: em_pass(WordSlice.of(mixture, reduce.rank, world), columns, reduce, **options)
    )


def whole(parts: list[MixtureStatistics]) -> MixtureStatistics:
    sums = (torch.cat([getattr(part, name) for part in parts]) for name in ("s0", "s1", "s2"))
    return MixtureStatistics(parts[0].count, parts[0].log_likelihood, *sums)


def assert_near(one: MixtureStatistics, two: MixtureStatistics, relative: float) -> None:
    assert one.count == two.count
    assert one.log_likelihood == pytest.approx(two.log_likelihood, rel=relative)
    for name in ("s0", "s1", "s2"):
        got, expected = getattr(one, name), getattr(two, name)
        assert float((got - expected).abs().max()) <= relative * float(expected.abs().max()), name


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_posteriors_and_sums_equal_the_loops(engine):
    columns = clustered(60, 5, 4)
    mixture = warm_mixture(clustered(300, 5, 4), 7)
    cut = [WordSlice.of(mixture, rank, 3).own for rank in range(3)]
    slices = [(own.log_pi.tolist(), own.mean.tolist(), own.variance.tolist()) for own in cut]
    rows = columns.double().tolist()
    parts = swept(mixture, columns, 3, engine=engine)
    likelihood = sum(reference.log_likelihood(x, slices) for x in rows)
    shares = [reference.posteriors(x, slices) for x in rows]
    for rank, found in enumerate(parts):
        expected = torch.tensor([row[rank] for row in shares], dtype=torch.float64)
        torch.testing.assert_close(found.s0, expected.sum(dim=0), rtol=1e-4, atol=1e-5)
        about = columns.double() - mixture.center
        torch.testing.assert_close(found.s1, expected.T @ about, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.s2, expected.T @ about.square(), rtol=1e-4, atol=1e-4)
        assert found.log_likelihood == pytest.approx(likelihood, rel=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_equals_the_unsliced_sweep(mixture, columns, world, engine):
    one = em_pass(mixture, columns, engine=engine)
    parts = swept(mixture, columns, world, engine=engine)
    # The loop keeps the same words and adds them in the same order; the product sums float32 in another one.
    assert_near(whole(parts), one, 1e-12 if engine == "sparse" else 1e-6)
    for found in parts:
        assert found.log_likelihood == parts[0].log_likelihood


def test_slices_that_choose_different_engines_agree(mixture, columns):
    def work(reduce):
        engine = ("dense", "sparse", "auto")[reduce.rank]
        return em_pass(WordSlice.of(mixture, reduce.rank, 3), columns, reduce, engine=engine)

    assert_near(whole(on_slices(3, work)), em_pass(mixture, columns), 1e-6)


@pytest.mark.parametrize("tile_rows", [64, 192, 10_000])
def test_the_tile_changes_nothing(mixture, columns, tile_rows):
    assert_near(whole(swept(mixture, columns, 2, tile_rows=tile_rows)), whole(swept(mixture, columns, 2)), 1e-6)


def test_parts_of_a_minibatch_merge(mixture, columns):
    def work(reduce):
        words = WordSlice.of(mixture, reduce.rank, 2)
        found = MixtureStatistics.zero(words.own.n_words, words.n_units)
        for part in columns.split(1_300):
            found = found + em_pass(words, part, reduce, engine="sparse")
        return found

    parts = on_slices(2, work)
    assert_near(whole(parts), em_pass(mixture, columns, engine="sparse"), 1e-12)


def test_a_slice_of_empty_words_gets_nothing(mixture, columns):
    log_pi = mixture.log_pi.clone()
    log_pi[:45] = -torch.inf
    half = replace(mixture, log_pi=log_pi)
    for engine in ("sparse", "dense"):
        parts = swept(half, columns, 2, engine=engine)
        assert float(parts[0].s0.sum()) < 1e-15
        assert_near(whole(parts), em_pass(half, columns, engine=engine), 1e-6)


def test_two_slices_of_real_columns_choose_the_loop_and_agree(shared_data):
    columns = cifar_columns(shared_data, 60, 3)
    mixture = warm_mixture(columns, 200)
    one = em_pass(mixture, columns)
    assert_near(whole(swept(mixture, columns, 2)), one, 1e-6)
    score = torch.full((600, 64), -100.0)
    score[:, 3] = 0.0
    assert is_sparse(score, torch.zeros(600), 128)
    assert is_sparse(score, torch.full((600,), 90.0), 128)  # the best word is on the other slice
    assert not is_sparse(torch.zeros(600, 64), torch.zeros(600), 128)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_held_out_likelihood_equals_the_unsliced(mixture, columns, world):
    got = on_slices(world, lambda reduce: log_likelihood(WordSlice.of(mixture, reduce.rank, world), columns, reduce))
    for found in got:
        assert torch.equal(found, got[0])
        torch.testing.assert_close(found, log_likelihood(mixture, columns), rtol=1e-6, atol=1e-6)


def test_relabelling_over_the_cut_relabels_the_sums(mixture, columns):
    order = torch.randperm(mixture.n_words, generator=torch.Generator().manual_seed(4))
    plain = whole(swept(mixture, columns, 2))
    renamed = whole(swept(mixture.relabelled(order), columns, 3))
    torch.testing.assert_close(renamed.s0, plain.s0[order], rtol=1e-5, atol=1e-4)


def test_a_tile_moves_a_few_numbers_per_column(mixture, columns):
    """The dictionary never travels: two numbers per column and a look at the number of rows."""

    def work(reduce):
        em_pass(WordSlice.of(mixture, reduce.rank, 2), columns, reduce, tile_rows=640)
        return reduce.calls, reduce.numbers

    assert on_slices(2, work) == [(1 + 2 * 8, 2 + 2 * 5_000)] * 2


# --- bad input ---


def test_other_columns_on_another_slice_are_refused_by_all(mixture, columns):
    def work(reduce):
        words = WordSlice.of(mixture, reduce.rank, 2)
        with pytest.raises(RefusedInput, match=r"columns must be the same on every slice.*90 to 100.*whole minibatch"):
            em_pass(words, columns[: 90 + 10 * reduce.rank], reduce)
        with pytest.raises(RefusedInput, match=r"columns must be the same on every slice"):
            log_likelihood(words, columns[: 90 + 10 * reduce.rank], reduce)

    on_slices(2, work)


def test_broken_columns_are_refused(mixture, columns):
    broken = columns.clone()
    broken[17, 2] = torch.nan
    with pytest.raises(NonFiniteActivations, match="first: row 17"):
        swept(mixture, broken, 2)
    with pytest.raises(RefusedInput, match=r"columns must have shape \(n, 16\)"):
        swept(mixture, columns[:, :9], 2)
    with pytest.raises(RefusedInput, match=r"engine must be 'auto', 'dense', 'sparse' or 'screened'; got 'fast'"):
        swept(mixture, columns, 2, engine="fast")
    with pytest.raises(RefusedInput, match="log-likelihood overflowed"):
        swept(mixture, torch.full((70, 16), 1e25), 2)


def test_no_column_gives_nothing(mixture):
    for found in swept(mixture, torch.empty(0, 16), 2):
        assert found.count == 0.0
        assert float(found.s0.sum()) == 0.0

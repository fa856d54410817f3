"""Hard words over slices are the unsliced ones, near ties and exact ties included."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.assignment import assign, posteriors
from gmm_ops.mixtures.mixture import Assignment, Mixture
from gmm_ops.mixtures.slices import WordSlice
from tests.gmm_ops.drawn_columns import cifar_columns, clustered, warm_mixture
from tests.gmm_ops.word_slices.thread_slices import on_slices
from tests.references import word_slices as reference


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return clustered(900, 12, 9)


@pytest.fixture(scope="module")
def mixture(columns: torch.Tensor) -> Mixture:
    return warm_mixture(columns, 45)


def assigned(mixture: Mixture, columns: torch.Tensor, world: int, tile_rows: int | None = None) -> Assignment:
    """The assignment of the first slice, after making sure that all slices found the same bits."""
    found = on_slices(
        world, lambda reduce: assign(WordSlice.of(mixture, reduce.rank, world), columns, reduce, tile_rows)
    )
    for other in found:
        assert torch.equal(other.word, found[0].word)
        assert torch.equal(other.posterior, found[0].posterior)
        assert torch.equal(other.log_joint, found[0].log_joint)
    return found[0]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_equals_the_unassignment(mixture, columns, world):
    one, found = assign(mixture, columns), assigned(mixture, columns, world)
    assert torch.equal(found.word, one.word)
    assert torch.equal(found.log_joint, one.log_joint)
    torch.testing.assert_close(found.posterior, one.posterior, rtol=1e-6, atol=1e-7)


def test_equals_the_loops(mixture, columns):
    few = columns[:60]
    cut = [WordSlice.of(mixture, rank, 4).own for rank in range(4)]
    slices = [(own.log_pi.tolist(), own.mean.tolist(), own.variance.tolist()) for own in cut]
    found = assigned(mixture, few, 4)
    assert found.word.tolist() == [reference.hard_word(x, slices) for x in few.double().tolist()]
    best = [max(max(part) for part in reference.posteriors(x, slices)) for x in few.double().tolist()]
    torch.testing.assert_close(found.posterior, torch.tensor(best), rtol=1e-4, atol=1e-5)


def test_posteriors_are_those_of_the_own_words(mixture, columns):
    found = on_slices(3, lambda reduce: posteriors(WordSlice.of(mixture, reduce.rank, 3), columns, reduce))
    torch.testing.assert_close(torch.cat(found, dim=1), posteriors(mixture, columns), rtol=1e-6, atol=1e-7)


def test_equals_the_unsliced_on_real_columns(shared_data):
    columns = cifar_columns(shared_data, 20, 1)
    mixture = warm_mixture(columns, 100)
    assert torch.equal(assigned(mixture, columns, 3).word, assign(mixture, columns).word)


@pytest.mark.parametrize("tile_rows", [64, 333])
def test_the_tile_changes_nothing(mixture, columns, tile_rows):
    whole, tiled = assigned(mixture, columns, 2), assigned(mixture, columns, 2, tile_rows)
    assert torch.equal(whole.word, tiled.word)
    assert torch.equal(whole.log_joint, tiled.log_joint)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_exact_ties_go_to_the_lowest_word_of_any_slice(mixture, columns, world):
    first = torch.arange(mixture.n_words)
    shared = replace(mixture, log_pi=mixture.log_pi - math.log(3.0))
    doubled = shared.relabelled(torch.cat([first.flip(0), first, first]))
    found = assigned(doubled, columns, world)
    assert int(found.word.max()) < mixture.n_words
    assert torch.equal(found.word, assign(doubled, columns).word)


def test_two_slices_too_close_in_float32_are_decided_in_float64():
    """Two words, one per slice, whose scores differ by far less than a float32 rounding of their large terms."""
    mean = torch.full((2, 64), 30.0, dtype=torch.float64)
    mean[1, 0] += 1e-4
    log_pi = torch.full((2,), 0.5, dtype=torch.float64).log()
    mixture = Mixture(log_pi, mean, torch.full_like(mean, 0.01), torch.zeros(64, dtype=torch.float64))
    columns = 30.0 + 0.1 * torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    found = assigned(mixture, columns, 2)
    assert torch.equal(found.word, (columns[:, 0].double() > 30.0 + 0.5e-4).long())
    assert torch.equal(found.word, assign(mixture, columns).word)


def test_an_empty_slice_is_never_chosen(mixture, columns):
    log_pi = mixture.log_pi.clone()
    log_pi[:15] = -torch.inf
    without = replace(mixture, log_pi=log_pi)
    found = assigned(without, columns, 3)
    assert int(found.word.min()) >= 15
    assert torch.equal(found.word, assign(without, columns).word)


def test_no_column_gives_no_word_and_broken_ones_are_refused(mixture, columns):
    assert assigned(mixture, torch.empty(0, 12), 2).word.shape == (0,)
    broken = columns.clone()
    broken[5, 1] = torch.inf
    with pytest.raises(NonFiniteActivations, match="first: row 5"):
        assigned(mixture, broken, 2)
    with pytest.raises(RefusedInput, match=r"columns must have shape \(n, 12\)"):
        assigned(mixture, columns[:, :3], 2)

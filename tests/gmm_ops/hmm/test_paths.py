"""Viterbi and max-marginals equal the enumeration of all paths; ties go to the lowest word."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.hmm.chain import Chain, observed_log_likelihoods
from gmm_ops.hmm.inference import log_evidence, path_log_posterior
from gmm_ops.hmm.max_product import max_product
from gmm_ops.hmm.paths import max_marginals, most_probable_paths, runners_up
from tests.gmm_ops.hmm.drawn_chains import random_chain, random_log_likelihoods
from tests.references import hmm as reference


def enumerated(chain: Chain, values: list[torch.Tensor]) -> list[reference.Enumerated]:
    tables = [table.tolist() for table in chain.transitions]
    rows = ([v[i].tolist() for v in values] for i in range(len(values[0])))
    return [reference.enumerate_paths(chain.initial.tolist(), tables, row) for row in rows]


@pytest.mark.parametrize("states", [(3,), (2, 3), (4, 1, 3), (3, 4, 2, 3), (2, 9, 5)], ids=str)
@pytest.mark.parametrize("scale", [0.5, 30.0, 3_000.0])
def test_equals_the_enumeration(states, scale):
    chain = random_chain(states, len(states), 2.0)
    values = random_log_likelihoods(15, states, scale)
    paths, marginals = most_probable_paths(chain, values), max_marginals(chain, values)
    for i, expected in enumerate(enumerated(chain, values)):
        assert tuple(paths.word[i].tolist()) == expected.path
        assert float(paths.log_joint[i]) == pytest.approx(expected.log_joint, rel=1e-13)
        for layer, best in zip(marginals, expected.marginals, strict=True):
            np.testing.assert_allclose(layer[i].numpy(), best, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_ties_go_to_the_lowest_word(seed):
    """Whole numbers and equal tables: most sequences have several best paths, and sums are exact."""
    states = (3, 2, 4, 3)
    equal = [torch.full((k, j), 1.0 / k, dtype=torch.float64) for j, k in pairwise((1, *states))]
    chain = Chain(equal[0][:, 0], tuple(equal[1:]))
    source = torch.Generator().manual_seed(seed)
    values = [torch.randint(0, 2, (40, k), generator=source).double() for k in states]
    found = most_probable_paths(chain, values).word
    assert found.tolist() == [list(expected.path) for expected in enumerated(chain, values)]
    # With equal tables each layer decides alone: the first of its largest values.
    assert torch.equal(found, torch.stack([v.argmax(dim=1) for v in values], dim=1))


@pytest.mark.slow
def test_a_tie_of_paths_is_decided_from_the_last_layer_down():
    """Two equal paths, 0 -> 1 and 1 -> 0: the lower last word wins."""
    chain = Chain(torch.tensor([0.5, 0.5]).double(), (torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(),))
    assert most_probable_paths(chain, [torch.zeros(1, 2), torch.zeros(1, 2)]).word.tolist() == [[1, 0]]


def test_runners_up_are_the_best_other_words():
    states = (4, 3, 5)
    chain, values = random_chain(states, 1), random_log_likelihoods(30, states, 2.0)
    paths, marginals = most_probable_paths(chain, values), max_marginals(chain, values)
    found = runners_up(paths, marginals)
    for i, expected in enumerate(enumerated(chain, values)):
        for layer, best in enumerate(expected.marginals):
            others = [(-value, word) for word, value in enumerate(best) if word != expected.path[layer]]
            loss, word = min(others)
            assert int(found.word[i, layer]) == word
            assert float(found.log_odds[i, layer]) == pytest.approx(expected.log_joint + loss, rel=1e-9, abs=1e-12)


def test_an_observed_or_single_word_has_no_runner_up():
    chain = random_chain((3, 1, 4), 2)
    values = [*random_log_likelihoods(6, (3, 1), 1.0), observed_log_likelihoods(torch.arange(6) % 4, 4)]
    paths = most_probable_paths(chain, values)
    found = runners_up(paths, max_marginals(chain, values))
    assert paths.word[:, 2].tolist() == [0, 1, 2, 3, 0, 1]
    assert bool((found.word[:, 0] >= 0).all())
    assert bool((found.word[:, 0] != paths.word[:, 0]).all())
    assert bool((found.word[:, 1:] == -1).all())
    assert bool(found.log_odds[:, 1:].isposinf().all())


def test_an_equal_runner_up_lost_by_nothing():
    chain = Chain(torch.full((3,), 1 / 3).double(), (torch.full((2, 3), 0.5).double(),))
    values = [torch.zeros(2, 3), torch.tensor([[1.0, 1.0], [0.0, 2.0]])]
    found = runners_up(most_probable_paths(chain, values), max_marginals(chain, values))
    assert found.word.tolist() == [[1, 1], [1, 0]]
    assert found.log_odds.tolist() == [[0.0, 0.0], [0.0, pytest.approx(2.0)]]


def test_max_marginals_agree_and_none_beats_the_likelihood():
    states = (7, 5, 9, 6)
    chain, values = random_chain(states, 3, 3.0), random_log_likelihoods(3_000, states, 5.0)
    paths = most_probable_paths(chain, values)
    for layer in max_marginals(chain, values):
        torch.testing.assert_close(layer.amax(dim=1), paths.log_joint, rtol=1e-13, atol=0)
    share = path_log_posterior(paths.log_joint, log_evidence(chain, values))
    assert bool((share <= 0).all())
    assert float(share.min()) > -np.log(7 * 5 * 9 * 6)


def test_relabelling_relabels_the_path():
    states = (5, 4, 6)
    chain, values = random_chain(states, 4), random_log_likelihoods(200, states, 2.0)
    orders = [torch.randperm(k, generator=torch.Generator().manual_seed(k)) for k in states]
    moved = most_probable_paths(chain.relabelled(orders), [v[:, o] for v, o in zip(values, orders, strict=True)])
    back = torch.stack([order[word] for order, word in zip(orders, moved.word.T, strict=True)], dim=1)
    assert torch.equal(back, most_probable_paths(chain, values).word)


@pytest.mark.parametrize(("n", "lower", "upper"), [(3, 1, 1), (1, 5, 3), (5_000, 7, 4), (40, 40, 40), (10, 4, 0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, None])
def test_the_loop_equals_the_broadcast(n, lower, upper, dtype):
    source = torch.Generator().manual_seed(n)
    messages = torch.randn(n, lower, dtype=torch.float64, generator=source)
    table = torch.randn(upper, lower, dtype=torch.float64, generator=source)
    table[:, 0] = -torch.inf if lower > 1 else 0.0
    added = None if dtype is None else torch.randn(n, upper, generator=source).to(dtype)
    expected = (messages[:, None, :] + table).amax(dim=2)
    if added is not None:
        expected = expected + added.double()
    assert torch.equal(max_product(messages, table, added), expected)


def test_threads_change_nothing():
    chain, values = random_chain((8, 8), 1), random_log_likelihoods(6_000, (8, 8), 1.0)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(most_probable_paths(chain, values))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0].word, other.word) for other in found[1:])
    assert all(torch.equal(found[0].log_joint, other.log_joint) for other in found[1:])


def test_equals_hmmlearn_with_one_table_for_all_layers():
    hmm = pytest.importorskip("hmmlearn.hmm")
    words, units, layers, n = 4, 3, 6, 20
    shared = random_chain((words, words), 5, 2.0)
    chain = Chain(shared.initial, shared.transitions * (layers - 1))
    source = np.random.default_rng(0)
    model = hmm.GaussianHMM(words, covariance_type="diag")
    model.startprob_, model.transmat_ = chain.initial.numpy(), chain.transitions[0].T.numpy()
    model.means_, model.covars_ = source.standard_normal((words, units)), 0.5 + source.random((words, units))
    columns = source.standard_normal((n, layers, units))
    scored = torch.from_numpy(model._compute_log_likelihood(columns.reshape(-1, units))).view(n, layers, words)
    found = most_probable_paths(chain, list(scored.unbind(dim=1)))
    for i in range(n):
        value, path = model.decode(columns[i], algorithm="viterbi")
        assert found.word[i].tolist() == path.tolist()
        assert float(found.log_joint[i]) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_log_likelihoods_are_refused(value):
    values = random_log_likelihoods(3_000, (2, 3), 1.0)
    values[1][2_900, 2] = value
    for task in (most_probable_paths, max_marginals):
        with pytest.raises(NonFiniteActivations, match=r"log_likelihoods\[1\] must be below infinity"):
            task(random_chain((2, 3)), values)


def test_another_number_of_layers_is_refused():
    with pytest.raises(RefusedInput, match="tensor per layer of the chain, 2; got 3"):
        most_probable_paths(random_chain((2, 2)), random_log_likelihoods(3, (2, 2, 2), 1.0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_paths():
    states = (6, 8, 4)
    chain, values = random_chain(states, 2), random_log_likelihoods(5_000, states, 3.0)
    there, here = most_probable_paths(chain, [v.cuda() for v in values]), most_probable_paths(chain, values)
    assert torch.equal(there.word.cpu(), here.word)
    torch.testing.assert_close(there.log_joint.cpu(), here.log_joint, rtol=1e-13, atol=0)

"""Forward-backward equals the enumeration of all paths, however the numbers are spread, and equals hmmlearn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.hmm import inference
from gmm_ops.hmm.chain import Chain, observed_log_likelihoods
from gmm_ops.hmm.inference import (
    ChainPosterior,
    forward_backward,
    log_evidence,
    log_forward_backward,
    path_log_posterior,
)
from tests.gmm_ops.hmm.drawn_chains import random_chain, random_log_likelihoods
from tests.references import hmm as reference

CHAINS = ((3,), (2, 3), (4, 1, 3), (3, 4, 2, 3))


def assert_equals_enumeration(found: ChainPosterior, chain: Chain, values: list[torch.Tensor], tolerance: float):
    xi = [torch.zeros_like(table) for table in chain.transitions]
    tables = [table.tolist() for table in chain.transitions]
    for i in range(len(values[0])):
        expected = reference.enumerate_paths(chain.initial.tolist(), tables, [v[i].tolist() for v in values])
        assert float(found.log_likelihood[i]) == pytest.approx(expected.log_likelihood, rel=tolerance, abs=tolerance)
        for got, gamma in zip(found.gamma, expected.gamma, strict=True):
            np.testing.assert_allclose(got[i].numpy(), gamma, rtol=tolerance, atol=tolerance)
        for sums, one in zip(xi, expected.xi, strict=True):
            sums += torch.tensor(one, dtype=torch.float64)
    for got, sums in zip(found.xi, xi, strict=True):
        np.testing.assert_allclose(got.numpy(), sums.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("states", CHAINS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 30.0, 3_000.0])
def test_equals_the_enumeration(states, scale):
    """Scales up to those of 1,000 units, where only logarithms of some sequences survive."""
    chain = random_chain(states, seed=len(states), sharpness=2.0)
    values = random_log_likelihoods(12, states, scale)
    found = forward_backward(chain, values)
    # Log-likelihoods of 1e4 have an ulp of 2e-12, and a posterior's error is the absolute one of its exponent.
    assert_equals_enumeration(found, chain, values, 1e-10)
    assert torch.equal(log_evidence(chain, values), found.log_likelihood)


def forbidden_chain() -> Chain:
    """Word 0 leads to 0 and word 1 to 1, nothing else; the third layer hears both."""
    first, equal = torch.tensor([0.5, 0.5], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    return Chain(first, (equal, torch.full((2, 2), 0.5, dtype=torch.float64)))


def test_a_message_that_underflows_is_not_forgotten():
    """The lower layer favours word 0 by e^800, the upper one word 1 by e^900: only one order of them survives."""
    values = [torch.tensor([row], dtype=torch.float64) for row in ([0.0, -800.0], [-900.0, 0.0], [0.0, 0.0])]
    found = forward_backward(forbidden_chain(), values)
    assert_equals_enumeration(found, forbidden_chain(), values, 1e-10)
    assert found.gamma[0].tolist() == [[pytest.approx(np.exp(-100.0)), 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_sequences_need_the_rescue_and_those_who_do_get_it(dtype, monkeypatch):
    """Rescued rows stand among others in several tiles; each keeps its own place."""
    chain = forbidden_chain()
    values = random_log_likelihoods(300, chain.n_states, 1.0)
    for row in (0, 70, 299):
        values[0][row] = torch.tensor([0.0, -800.0])
        values[1][row] = torch.tensor([-801.0, 0.0])
    rescued = []
    monkeypatch.setattr(
        inference, "log_forward_backward", lambda a, b, v: rescued.append(len(v[0])) or log_forward_backward(a, b, v)
    )
    found = forward_backward(chain, [v.to(dtype) for v in values], tile_rows=64)
    assert rescued == [3]
    assert_equals_enumeration(found, chain, values, 1e-10 if dtype == torch.float64 else 3e-5)


def test_an_impossible_sequence_disturbs_no_other():
    chain = forbidden_chain()
    values = random_log_likelihoods(5, chain.n_states, 1.0)
    values[0][2], values[1][2] = torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0])
    values[1][4] = -torch.inf
    found = forward_backward(chain, values)
    assert found.log_likelihood.isinf().tolist() == [False, False, True, False, True]
    rest = torch.tensor([0, 1, 3])
    alone = forward_backward(chain, [v[rest] for v in values])
    for gamma, only in zip(found.gamma, alone.gamma, strict=True):
        assert float(gamma[[2, 4]].abs().max()) == 0.0
        torch.testing.assert_close(gamma[rest], only, rtol=1e-14, atol=0)
    for one, two in zip(found.xi, alone.xi, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=0)


def test_gamma_is_the_margin_of_xi_and_sums_to_one():
    states = (7, 5, 9, 3)
    chain, values = random_chain(states, 1), random_log_likelihoods(2_500, states, 4.0)
    found = forward_backward(chain, values)
    for layer, pair in enumerate(found.xi):
        torch.testing.assert_close(pair.sum(dim=0), found.gamma[layer].sum(dim=0), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(pair.sum(dim=1), found.gamma[layer + 1].sum(dim=0), rtol=1e-11, atol=1e-11)
    for gamma in found.gamma:
        torch.testing.assert_close(gamma.sum(dim=1), torch.ones(2_500).double(), rtol=0, atol=1e-12)


def test_tiles_change_nothing_and_float32_little():
    states = (6, 8, 4)
    chain, values = random_chain(states, 2, 2.0), random_log_likelihoods(1_000, states, 3.0)
    whole, tiled = (forward_backward(chain, values, tile_rows=rows) for rows in (1_000, 77))
    single = forward_backward(chain, [v.float() for v in values])
    torch.testing.assert_close(tiled.log_likelihood, whole.log_likelihood, rtol=1e-14, atol=0)
    torch.testing.assert_close(single.log_likelihood, whole.log_likelihood, rtol=1e-6, atol=1e-6)
    for name in ("gamma", "xi"):
        for one, two, low in zip(getattr(whole, name), getattr(tiled, name), getattr(single, name), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(low.double(), one, rtol=1e-4, atol=1e-4)
    assert single.gamma[0].dtype == torch.float32
    assert {t.dtype for t in (single.log_likelihood, *single.xi)} == {torch.float64}


def test_a_constant_moves_the_likelihood_and_nothing_else():
    states = (3, 4)
    chain, values = random_chain(states), random_log_likelihoods(50, states, 2.0)
    found, moved = forward_backward(chain, values), forward_backward(chain, [values[0] + 1e5, values[1]])
    torch.testing.assert_close(moved.log_likelihood, found.log_likelihood + 1e5, rtol=1e-12, atol=0)
    torch.testing.assert_close(moved.gamma[1], found.gamma[1], rtol=0, atol=1e-9)


def test_an_observed_last_variable_is_certain():
    chain = random_chain((4, 5, 3), 3)
    seen = torch.tensor([2, 0, 1, 1])
    values = [*random_log_likelihoods(4, (4, 5), 1.0), observed_log_likelihoods(seen, 3)]
    found = forward_backward(chain, values)
    assert_equals_enumeration(found, chain, values, 1e-10)
    assert torch.equal(found.gamma[2], torch.nn.functional.one_hot(seen, 3).double())


@pytest.mark.parametrize("lengths", ["one call a sequence", "one call with lengths"])
def test_equals_hmmlearn_with_one_table_for_all_layers(lengths):
    hmm = pytest.importorskip("hmmlearn.hmm")
    words, units, layers, n = 4, 3, 6, 20
    chain = random_chain((words, words), 5)
    chain = Chain(chain.initial, chain.transitions * (layers - 1))
    source = np.random.default_rng(0)
    model = hmm.GaussianHMM(words, covariance_type="diag")
    model.startprob_, model.transmat_ = chain.initial.numpy(), chain.transitions[0].T.numpy()
    model.means_, model.covars_ = source.standard_normal((words, units)), 0.5 + source.random((words, units))
    columns = source.standard_normal((n, layers, units))
    scored = torch.from_numpy(model._compute_log_likelihood(columns.reshape(-1, units))).view(n, layers, words)
    found = forward_backward(chain, list(scored.unbind(dim=1)))
    gamma = torch.stack(found.gamma, dim=1).numpy()
    if lengths == "one call a sequence":
        for i in range(n):
            value, posterior = model.score_samples(columns[i])
            assert float(found.log_likelihood[i]) == pytest.approx(value, rel=1e-10)
            np.testing.assert_allclose(gamma[i], posterior, rtol=1e-8, atol=1e-10)
    else:
        value, posterior = model.score_samples(columns.reshape(-1, units), lengths=[layers] * n)
        assert float(found.log_likelihood.sum()) == pytest.approx(value, rel=1e-10)
        np.testing.assert_allclose(gamma.reshape(-1, words), posterior, rtol=1e-8, atol=1e-10)


def test_path_log_posterior_is_a_share_of_the_likelihood():
    joint, total = torch.tensor([-5.0, -2.0, -torch.inf]), torch.tensor([-4.0, -2.0 - 1e-12, -torch.inf])
    found = path_log_posterior(joint, total)
    assert found.tolist() == [-1.0, 0.0, -torch.inf]


def test_refusals_name_the_rule():
    chain, values = random_chain((2, 3)), random_log_likelihoods(4, (2, 3), 1.0)
    with pytest.raises(RefusedInput, match=r"one \(n, K\) tensor per layer of the chain, 2; got 1"):
        forward_backward(chain, values[:1])
    with pytest.raises(RefusedInput, match=r"log_likelihoods\[1\] must have shape \(4, 3\); got \(4, 2\)"):
        forward_backward(chain, [values[0], values[0]])
    with pytest.raises(NonFiniteActivations, match=r"log_likelihoods\[0\] must be below infinity"):
        log_evidence(chain, [values[0] * torch.nan, values[1]])
    with pytest.raises(RefusedInput, match=r"observed must lie in 0 \.\.\. 2; row 1 is 3"):
        observed_log_likelihoods(torch.tensor([0, 3]), 3)
    with pytest.raises(RefusedInput, match=r"observed must be integers of shape \(n,\); got torch\.float32"):
        observed_log_likelihoods(torch.zeros(3), 3)
    with pytest.raises(RefusedInput, match=r"transitions\[0\] must have shape \(K_upper, 2\).*transposed"):
        Chain(chain.initial, (chain.transitions[0].T,))
    with pytest.raises(RefusedInput, match="initial must hold probabilities"):
        Chain(2.0 * chain.initial, chain.transitions)
    with pytest.raises(RefusedInput, match=r"transitions\[0\] must hold probabilities.*Divide every column"):
        Chain(chain.initial, (chain.transitions[0] + 0.1,))


def test_no_sequence_is_no_result():
    chain = random_chain((2, 3))
    found = forward_backward(chain, [torch.zeros(0, 2), torch.zeros(0, 3)])
    assert found.log_likelihood.shape == (0,)
    assert [float(pair.abs().sum()) for pair in found.xi] == [0.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_posteriors():
    states = (6, 8, 4)
    chain, values = random_chain(states, 2, 2.0), random_log_likelihoods(5_000, states, 30.0)
    there, here = forward_backward(chain, [v.cuda() for v in values]), forward_backward(chain, values)
    torch.testing.assert_close(there.log_likelihood.cpu(), here.log_likelihood, rtol=1e-12, atol=0)
    for one, two in zip(there.xi, here.xi, strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=1e-9, atol=1e-9)

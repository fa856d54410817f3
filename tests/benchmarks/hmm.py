"""Sequences/s of forward-backward and of Viterbi over those of hmmlearn and pomegranate, same log-likelihoods.

10,000 sequences of 6 layers with 40 words and one transition table for all layers, because the peers know no other.
Each gets the log-likelihoods ready made. Forward-backward: ours and pomegranate's in float32, likelihood, gamma and
xi; hmmlearn's in float64, its faster scaled version, without xi. Viterbi: paths and ours in float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from hmmlearn.base import BaseHMM
from pomegranate.distributions import Normal
from pomegranate.hmm import DenseHMM
from threadpoolctl import threadpool_limits
from torch import Tensor

from gmm_ops.hmm.chain import Chain
from gmm_ops.hmm.inference import forward_backward
from gmm_ops.hmm.paths import most_probable_paths
from gmm_ops.mixtures.products import row_products
from tests.gmm_ops.hmm.drawn_chains import random_chain, random_log_likelihoods

THREADS = 2
SEQUENCES, LAYERS, WORDS = 10_000, 6, 40
PEAK_SIZE = (4096, 1024, 1024)
"""Rows, inner size and columns of the product that the limit is measured with."""


@dataclass(frozen=True)
class ChainRow:
    """Medians of one comparison. ratio: of sequences/s; target 0: none is set. peak_share: of the fastest product in
    this run, in the type of ours. Forward-backward counts 2 K^2 operations for each of its three products per pair of
    layers, Viterbi an addition and a maximum per cell."""

    task: str
    peer: str
    sequences_per_second: float
    peer_sequences_per_second: float
    ratio: float
    target: float
    peak_share: float


def measure(repeats: int = 7, threads: int = THREADS, tiny: bool = False) -> list[ChainRow]:
    """One row for each task and peer. tiny: few sequences, each side once."""
    before = torch.get_num_threads()
    threads = 1 if tiny else threads
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            return _measure(200, 1) if tiny else _measure(SEQUENCES, repeats)
    finally:
        torch.set_num_threads(before)


def _measure(n_sequences: int, repeats: int) -> list[ChainRow]:
    shared = random_chain((WORDS, WORDS), 0)
    chain = Chain(shared.initial, shared.transitions * (LAYERS - 1))
    wide = random_log_likelihoods(n_sequences, (WORDS,) * LAYERS, 2.0)
    values = [layer.float() for layer in wide]
    stacked = torch.stack(values, dim=1)
    pomegranate, hmmlearn = _pomegranate(shared), _hmmlearn(shared)
    flat = torch.stack(wide, dim=1).reshape(-1, WORDS).numpy()
    lengths = [LAYERS] * n_sequences
    sequences = np.split(flat, n_sequences)
    tasks: dict[str, Callable[[], object]] = {
        "forward-backward": lambda: forward_backward(chain, values),
        "forward-backward, pomegranate": lambda: pomegranate.forward_backward(emissions=stacked),
        "forward-backward, hmmlearn, one call with lengths": lambda: hmmlearn.score_samples(flat, lengths),
        "forward-backward, hmmlearn, a call a sequence": lambda: [hmmlearn.score_samples(x) for x in sequences],
        "Viterbi": lambda: most_probable_paths(chain, values),
        "Viterbi, pomegranate": lambda: pomegranate.viterbi(emissions=stacked),
        "Viterbi, hmmlearn, one call with lengths": lambda: hmmlearn.decode(flat, lengths),
        "Viterbi, hmmlearn, a call a sequence": lambda: [hmmlearn.decode(x) for x in sequences],
        "float32 product": _peak_product(torch.float32),
        "float64 product": _peak_product(torch.float64),
    }
    _same_answers(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    # In turns, so that a busy machine slows all. The checks above have warmed everything up.
    for _ in range(repeats):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - begin)
    return _rows({name: median(values) for name, values in seconds.items()}, n_sequences)


def _rows(seconds: dict[str, float], n_sequences: int) -> list[ChainRow]:
    cells = (LAYERS - 1) * WORDS * WORDS * n_sequences
    work = {"forward-backward": ("float32 product", 3 * 2 * cells), "Viterbi": ("float64 product", 2 * cells)}
    targets = {"forward-backward, pomegranate": 50.0, "Viterbi, pomegranate": 20.0}
    rows = []
    for name in seconds:
        task, _, peer = name.partition(", ")
        if not peer:
            continue
        product, operations = work[task]
        limit = 2 * math.prod(PEAK_SIZE) / seconds[product]
        ours, theirs = seconds[task], seconds[name]
        share = operations / ours / limit
        row = (n_sequences / ours, n_sequences / theirs, theirs / ours, targets.get(name, 0.0), share)
        rows.append(ChainRow(task, peer, *row))
    return rows


def _same_answers(tasks: dict[str, Callable[[], object]]) -> None:
    """Run each task once and stop if a peer disagrees."""
    answers = {name: task() for name, task in tasks.items()}
    ours = answers["forward-backward"]
    gamma = torch.stack(ours.gamma, dim=1)  # type: ignore[attr-defined]
    _, theirs, *_ = answers["forward-backward, pomegranate"]  # type: ignore[misc]
    _, posterior = answers["forward-backward, hmmlearn, one call with lengths"]  # type: ignore[misc]
    posterior = torch.from_numpy(posterior).view(gamma.shape)
    for name, other in (("pomegranate", theirs.exp()), ("hmmlearn", posterior)):
        worst = float((gamma - other).abs().max())
        if worst > 1e-3:
            raise AssertionError(f"gamma differs from that of {name} by {worst}")
    word = answers["Viterbi"].word  # type: ignore[attr-defined]
    _, path = answers["Viterbi, hmmlearn, one call with lengths"]  # type: ignore[misc]
    for name, other in (
        ("pomegranate", answers["Viterbi, pomegranate"]),
        ("hmmlearn", torch.from_numpy(path).view(word.shape)),
    ):
        equal = float((word == other).all(dim=1).double().mean())  # type: ignore[attr-defined]
        # Float32 may order two paths within rounding of each other the other way round.
        if equal < 0.999:
            raise AssertionError(f"only {equal:.2%} of the paths equal those of {name}")


def _peak_product(dtype: torch.dtype) -> Callable[[], Tensor]:
    rows, inner, width = PEAK_SIZE
    features, weights = torch.rand(rows, inner, dtype=dtype), torch.rand(width, inner, dtype=dtype)
    return lambda: row_products(features, weights)


def _pomegranate(shared: Chain) -> DenseHMM:
    """Its distributions are never asked; an end probability of 1 takes the end of a sequence out of its sums."""
    distributions = [Normal([0.0], [1.0], covariance_type="diag") for _ in range(WORDS)]
    edges, uniform = shared.transitions[0].T.float(), torch.full((WORDS,), 1.0 / WORDS)
    model = DenseHMM(distributions, edges=edges, starts=shared.initial.float(), ends=uniform)
    model.ends.data.zero_()
    return model


def _hmmlearn(shared: Chain) -> BaseHMM:
    class GivenLikelihoods(BaseHMM):
        """Takes log-likelihoods for samples."""

        def _compute_log_likelihood(self, X: np.ndarray) -> np.ndarray:
            return X

        def _compute_likelihood(self, X: np.ndarray) -> np.ndarray:
            return np.exp(X)

        def _check(self) -> None:
            pass

    model = GivenLikelihoods(WORDS, implementation="scaling")
    model.startprob_, model.transmat_ = shared.initial.numpy(), shared.transitions[0].T.numpy()
    return model


if __name__ == "__main__":
    for row in measure():
        print(row)

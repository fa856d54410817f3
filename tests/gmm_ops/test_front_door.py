"""The front door: its names, its docstring's example, and what its doors take and refuse."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import gmm_ops
from gmm_ops import Mixture, RefusedInput, Window
from tests.gmm_ops.drawn_columns import clustered, warm_mixture
from tests.references import mixture as reference


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return clustered(500, 6, 5)


@pytest.fixture(scope="module")
def mixture(columns: torch.Tensor) -> Mixture:
    return warm_mixture(columns, 8)


def test_every_name_is_there_and_typed():
    for name in gmm_ops.__all__:
        assert getattr(gmm_ops, name).__name__ == name
    assert set(gmm_ops.__all__) <= set(dir(gmm_ops))
    # mypy sees the imports under TYPE_CHECKING: the same names, or a typed caller is told of a name that fails.
    tree = ast.parse(Path(gmm_ops.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(gmm_ops.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'fit'; its names are .*fit_online"):
        _ = gmm_ops.fit


def test_importing_the_front_door_does_not_import_torch():
    code = "import sys, gmm_ops; dir(gmm_ops); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(gmm_ops.__file__).parents[1])


def test_the_example_of_the_docstring_runs():
    found = doctest.testmod(gmm_ops)
    assert found.attempted > 10
    assert found.failed == 0


def test_methods_equal_the_loops(mixture, columns):
    few = columns[:40]
    parameters = mixture.log_pi.tolist(), mixture.mean.tolist(), mixture.variance.tolist()
    rows = few.double().tolist()
    assert mixture.assign(few).word.tolist() == [reference.hard_word(x, *parameters) for x in rows]
    posterior = torch.tensor([reference.posterior(x, *parameters) for x in rows], dtype=torch.float64)
    torch.testing.assert_close(mixture.posteriors(few).double(), posterior, rtol=1e-4, atol=1e-5)
    likelihood = torch.tensor([reference.log_likelihood(x, *parameters) for x in rows], dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(few), likelihood, rtol=1e-5, atol=1e-4)
    wanted = (8 - 1 + 2 * 8 * 6) * np.log(40) - 2 * float(likelihood.sum())
    assert mixture.bic(few) == pytest.approx(wanted, rel=1e-5)


def test_activations_give_maps(mixture, columns):
    maps = columns[:90].reshape(10, 3, 3, 6).permute(0, 3, 1, 2)
    found, flat = mixture.assign(maps), mixture.assign(columns[:90])
    assert torch.equal(found.word, flat.word.reshape(10, 3, 3))
    assert torch.equal(found.posterior.flatten(), flat.posterior)


def test_posteriors_do_not_depend_on_their_neighbours(mixture):
    many = clustered(9_000, 6, 5)
    whole = mixture.posteriors(many)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(9_000))
    torch.testing.assert_close(mixture.posteriors(many[5_000:5_100]), whole[5_000:5_100], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("as_given", [np.asarray, lambda x: x.tolist(), lambda x: x.numpy()[::-1][::-1]])
def test_arrays_and_lists_are_taken(mixture, columns, as_given):
    few = columns[:30]
    given = as_given(few)
    assert torch.equal(mixture.assign(given).word, mixture.assign(few).word)
    torch.testing.assert_close(mixture.log_prob(given), mixture.log_prob(few))
    again = Mixture(*(as_given(value) for value in (mixture.log_pi, mixture.mean, mixture.variance, mixture.center)))
    assert again == mixture


def test_numpy_numbers_and_arrays_are_taken_by_the_counts():
    words = np.array([[[0, 1], [1, 1]]], dtype=np.uint8)
    window = Window.square(stride=np.int64(1), offset=np.int64(0), size=np.int64(1))
    counts = gmm_ops.count_pairs(words, words.tolist(), window, np.int64(2), np.int32(2))
    assert counts.tolist() == [[1, 0], [0, 3]]
    ratios = gmm_ops.log_ratios(counts.numpy())
    graph = gmm_ops.mine(np.int64(1), [counts.numpy()], [ratios], top=np.int64(1))
    assert type(graph.root) is int
    assert [node.word for node in graph.nodes_of(0)] == [1]
    with pytest.raises(RefusedInput, match=r"n_upper: must be a whole number .*got 2.5"):
        gmm_ops.count_pairs(words, words, window, 2.5, 2)
    with pytest.raises(RefusedInput, match=r"upper: must be a tensor, an array or a list of numbers, got rows"):
        gmm_ops.count_pairs([[0], [1, 2]], words, window, 2, 2)


def test_samples_come_from_the_mixture():
    mean = [[-3.0, 0.0], [3.0, 1.0]]
    mixture = Mixture(np.log([0.25, 0.75]), mean, [[1.0, 4.0], [0.25, 1.0]])
    drawn, word = mixture.sample(40_000, seed=3)
    assert drawn.shape == (40_000, 2)
    assert float((word == 1).double().mean()) == pytest.approx(0.75, abs=0.01)
    for k in range(2):
        torch.testing.assert_close(drawn[word == k].mean(dim=0), mixture.mean[k], rtol=0, atol=0.06)
        torch.testing.assert_close(drawn[word == k].var(dim=0), mixture.variance[k], rtol=0.06, atol=0)
    again, _ = mixture.sample(40_000, seed=3)
    assert torch.equal(again, drawn)
    torch.testing.assert_close(mixture.center, torch.tensor([1.5, 0.75], dtype=torch.float64))


def test_a_saved_mixture_comes_back_bit_for_bit(mixture, tmp_path):
    path = tmp_path / "words.dictionary"
    mixture.save(path)
    assert Mixture.load(path) == mixture
    assert [p.name for p in tmp_path.iterdir()] == ["words.dictionary"], "no suffix is added"
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text").write_text("no arrays")
    for other in ("other.npz", "text"):
        with pytest.raises(RefusedInput, match=r"path: must name an npz file with log_pi, mean, variance and center"):
            Mixture.load(tmp_path / other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variance": [[1.0, -1.0], [1.0, 1.0]]}, r"variance: must be positive and finite, got -1 at word 0, unit 1"),
        ({"variance": [[1.0, 1.0], [0.0, 1.0]]}, r"variance: must be positive and finite, got 0 at word 1, unit 0"),
        ({"variance": [[1.0, 1.0]]}, r"variance: must have shape \(2, 2\), got \(1, 2\)"),
        ({"log_pi": np.log([0.5, 0.7])}, r"log_pi: shares must sum to 1, got 1.2"),
        ({"log_pi": [[0.0, 0.0]]}, r"log_pi: must have shape \(any\), got \(1, 2\)"),
        ({"mean": [[0.0, np.nan], [0.0, 0.0]]}, r"mean: must not hold NaN, got one at \(0, 1\)"),
        ({"mean": [[0.0, np.inf], [0.0, 0.0]]}, r"mean: must be finite"),
        ({"mean": [["a", "b"], ["c", "d"]]}, r"mean: must be a tensor, an array or a list of numbers"),
        ({"mean": [[True, True], [True, True]]}, r"mean: must hold real numbers, got torch.bool"),
        ({"center": [0.0]}, r"center: must have shape \(2\), got \(1,\)"),
    ],
)
def test_a_mixture_is_checked_on_construction(change, words):
    good = {"log_pi": np.log([0.5, 0.5]), "mean": np.zeros((2, 2)), "variance": np.ones((2, 2)), "center": np.zeros(2)}
    Mixture(**good)
    with pytest.raises(RefusedInput, match=words):
        Mixture(**(good | change))


def test_shares_of_a_part_serve_no_one_outside(mixture, columns):
    part = Mixture(mixture.log_pi[:4], mixture.mean[:4], mixture.variance[:4], mixture.center)
    for use in (part.assign, part.log_prob, part.posteriors, part.bic):
        with pytest.raises(RefusedInput, match=r"log_pi: shares must sum to 1, got 0\.\d+"):
            use(columns)
    empty = Mixture(torch.full((4,), -torch.inf), mixture.mean[:4], mixture.variance[:4], mixture.center)
    with pytest.raises(RefusedInput, match=r"log_pi: shares must sum to 1, got 0;"):
        empty.assign(columns)


def test_columns_are_refused_by_name(mixture):
    with pytest.raises(RefusedInput, match=r"columns: must have shape \(n, D\).*permute\(0, 2, 3, 1\)"):
        mixture.log_prob(np.zeros((2, 6, 3, 3)))
    with pytest.raises(RefusedInput, match=r"columns must have shape \(n, 6\)"):
        mixture.assign(np.zeros((5, 3)))
    with pytest.raises(RefusedInput, match=r"seed: must be a whole number of at least 0, got -1"):
        mixture.sample(3, seed=-1)


def test_batch_em_converges_and_keeps_the_best_start(columns):
    one = gmm_ops.fit_batch(columns, 5, seed=0, tolerance=1e-3)
    history = one.log_likelihood
    assert one.converged
    assert len(history) < 100
    assert history[-1] - history[-2] < 1e-3 <= min(b - a for a, b in pairwise(history[:-1]))
    short = gmm_ops.fit_batch(columns, 5, seed=0, iterations=2)
    assert not short.converged
    assert short.log_likelihood == history[:2]
    shared = gmm_ops.fit_batch(columns, 5, seed=0, iterations=2, variance_of="layer").mixture.variance
    assert torch.equal(shared, shared[:1, :1].expand_as(shared))
    several = gmm_ops.fit_batch(columns.numpy(), np.int64(5), seed=np.int64(0), tolerance=1e-3, restarts=3)
    assert several.log_likelihood[-1] >= history[-1]
    assert several.restart > 0 or several == one
    with pytest.raises(RefusedInput, match="restarts: must be a whole number of at least 1, got 0"):
        gmm_ops.fit_batch(columns, 5, seed=0, restarts=0)
    with pytest.raises(RefusedInput, match="tolerance: must be a number from 0 up, got -1"):
        gmm_ops.fit_batch(columns, 5, seed=0, tolerance=-1)
    with pytest.raises(RefusedInput, match="variance_of: must be word, unit or layer, got 'all'; take word"):
        gmm_ops.fit_batch(columns, 5, seed=0, variance_of="all")


def test_online_em_takes_arrays(columns):
    images = np.arange(500) // 10
    given = gmm_ops.fit_online(columns.numpy(), np.int64(4), np.int64(1), images=images)
    assert given.mixture == gmm_ops.fit_online(columns, 4, 1, images=torch.from_numpy(images)).mixture

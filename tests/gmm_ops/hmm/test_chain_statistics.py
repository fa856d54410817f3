"""The statistics equal sums over every path, and no split, packing or change of means alters them."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.hmm.chain_statistics import ChainStatistics
from gmm_ops.hmm.inference import forward_backward
from gmm_ops.hmm.model import HiddenMarkovModel, LayerWords
from tests.gmm_ops.hmm.drawn_chains import drawn_activations, random_model
from tests.references import hmm as reference
from tests.references import rectified_gaussian as emission

WORDS, UNITS, RECTIFIED = (4, 3, 5), (6, 9, 4), (True, True, False)


def assert_same(a: ChainStatistics, b: ChainStatistics, relative: float) -> None:
    assert a.count == pytest.approx(b.count, rel=1e-12)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=relative)
    for name in ("s0", "s1", "s2", "s3"):
        for one, two in zip(getattr(a, name), getattr(b, name), strict=True):
            assert float((one - two).abs().max()) <= relative * float(two.abs().max()), name


@pytest.fixture(scope="module")
def model() -> HiddenMarkovModel:
    return random_model(WORDS, UNITS, RECTIFIED, n_classes=3, apart=0.7)


@pytest.fixture(scope="module")
def images(model) -> tuple[list[torch.Tensor], torch.Tensor]:
    columns, words = drawn_activations(model, 1_500)
    return columns, words[-1]


def test_log_densities_equal_the_loop(model, images):
    columns, predicted = ([x[:8] for x in images[0]], images[1][:8])
    found = model.log_densities(columns, predicted)
    for layer, x, got in zip(model.layers[:2], columns[:2], found[:2], strict=True):
        for k in range(layer.n_words):
            mean, deviation = layer.mean[k].tolist(), layer.variance[k].sqrt().tolist()
            expected = [float(emission.log_density(row, mean, deviation)) for row in x.double().tolist()]
            assert got[:, k].tolist() == pytest.approx(expected, rel=1e-11)
    normal = torch.distributions.Normal(model.layers[2].mean, model.layers[2].variance.sqrt())
    plain = normal.log_prob(columns[2].double()[:, None, :]).sum(dim=2)
    torch.testing.assert_close(found[2], plain, rtol=1e-11, atol=1e-11)


def test_sums_equal_every_path_of_every_image(model, images):
    columns, predicted = ([x[:6] for x in images[0]], images[1][:6])
    densities = model.log_densities(columns, predicted)
    tables = [table.tolist() for table in model.chain.transitions]
    every = [
        reference.enumerate_paths(model.chain.initial.tolist(), tables, [d[i].tolist() for d in densities])
        for i in range(6)
    ]
    found = ChainStatistics.from_batch(model, columns, predicted)
    assert found.count == 6
    assert found.log_likelihood == pytest.approx(sum(e.log_likelihood for e in every), rel=1e-11)
    for pair, got in enumerate(found.s3):
        expected = torch.tensor([e.xi[pair] for e in every], dtype=torch.float64).sum(dim=0)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for index, layer in enumerate(model.layers):
        gamma = torch.tensor([e.gamma[index] for e in every], dtype=torch.float64)
        torch.testing.assert_close(found.s0[index], gamma.sum(dim=0), rtol=1e-10, atol=1e-10)
        for k in range(layer.n_words):
            one, two = loop_sums(layer, k, columns[index], gamma[:, k])
            torch.testing.assert_close(found.s1[index][k], one, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.s2[index][k], two, rtol=1e-9, atol=1e-9)


def loop_sums(layer: LayerWords, k: int, x: torch.Tensor, gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if not layer.rectified:
        about = x.double() - layer.mean[k]
        return gamma @ about, gamma @ (about * about)
    mean, deviation = layer.mean[k].tolist(), layer.variance[k].sqrt().tolist()
    sums = emission.sums(x.double().tolist(), gamma.tolist(), mean, deviation)
    one, two = (torch.tensor([float(v) for v in values], dtype=torch.float64) for values in sums)
    return one, two


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_any_split_gives_the_same_sums(model, images, parts):
    columns, predicted = images
    whole = ChainStatistics.from_batch(model, columns, predicted)
    found = ChainStatistics.zero(model.shape)
    for rows in reversed(torch.arange(1_500).tensor_split(parts)):
        found = ChainStatistics.from_batch(model, [x[rows] for x in columns], predicted[rows]).merge(found)
    assert_same(found, whole, 1e-12)


def test_tiles_of_wide_layers_add_up():
    """1,000 units take several tiles of columns; their sums are those of one product."""
    model = random_model((3, 2), (1_000, 700), (True, False), apart=0.05)
    columns, _ = drawn_activations(model, 800)
    found = ChainStatistics.from_batch(model, columns)
    posterior = forward_backward(model.chain, model.log_densities(columns))
    gamma, x, layer = posterior.gamma[1], columns[1].double(), model.layers[1]
    about = gamma.T @ x - layer.mean * gamma.sum(dim=0)[:, None]
    torch.testing.assert_close(found.s1[1], about, rtol=1e-9, atol=1e-9)
    positive = (posterior.gamma[0].T @ columns[0].double()) - layer_part(model, posterior.gamma[0], columns[0])
    torch.testing.assert_close(found.s1[0], positive, rtol=1e-9, atol=1e-8)


def layer_part(model: HiddenMarkovModel, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What zeros and the mean take off the plain sums of the first layer."""
    layer = model.layers[0]
    a = -layer.mean / layer.variance.sqrt()
    lam = torch.exp(-0.5 * a * a) / (2 * torch.pi) ** 0.5 / torch.special.ndtr(a)
    positive = gamma.T @ (x > 0).double()
    zeros = gamma.T @ (x == 0).double()
    return layer.mean * positive + layer.variance.sqrt() * lam * zeros


def test_packing_and_adding_is_merging(model, images):
    columns, predicted = images
    one = ChainStatistics.from_batch(model, [x[:700] for x in columns], predicted[:700])
    two = ChainStatistics.from_batch(model, [x[700:] for x in columns], predicted[700:])
    added = ChainStatistics.unpack(one.pack() + two.pack(), model.shape)
    assert_same(added, one + two, 0.0)
    assert torch.equal(added.pack(), (one + two).pack())
    assert_same(one.merge(ChainStatistics.zero(model.shape)), one, 0.0)
    assert_same(one.scaled(0.25), ChainStatistics.unpack(0.25 * one.pack(), model.shape), 1e-15)
    with pytest.raises(RefusedInput, match=r"packed: must have shape .* got \(5,\)"):
        ChainStatistics.unpack(torch.zeros(5, dtype=torch.float64), model.shape)


def test_sums_move_to_other_means(model, images):
    columns, predicted = images
    found = ChainStatistics.from_batch(model, columns, predicted)
    away = tuple(LayerWords(layer.mean + 0.3, layer.variance, layer.rectified) for layer in model.layers)
    other = HiddenMarkovModel(model.chain, away)
    moved = found.about(model, other)
    weight = found.s0[2][:, None]
    torch.testing.assert_close(moved.s1[2], found.s1[2] - 0.3 * weight)
    spread, same = (s.s2[2] / weight - (s.s1[2] / weight) ** 2 for s in (found, moved))
    torch.testing.assert_close(spread, same, rtol=1e-10, atol=1e-12)
    assert_same(moved.about(other, model), found, 1e-13)


def test_relabelling_the_model_relabels_the_sums(model, images):
    columns, predicted = images
    orders = [torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0]), torch.tensor([4, 3, 2, 1, 0])]
    plain = ChainStatistics.from_batch(model, columns, predicted)
    moved = ChainStatistics.from_batch(model.relabelled(orders), columns, predicted)
    assert moved.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-13)
    for layer, order in enumerate(orders):
        torch.testing.assert_close(moved.s0[layer], plain.s0[layer][order], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(moved.s2[layer], plain.s2[layer][order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.s3[0], plain.s3[0][orders[1]][:, orders[0]], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.s3[2], plain.s3[2][:, orders[2]], rtol=1e-10, atol=1e-10)


def test_impossible_images_count_and_add_nothing(model, images):
    columns, predicted = [x[:20] for x in images[0]], images[1][:20]
    table = torch.zeros(3, 5, dtype=torch.float64)
    table[0] = 1.0
    chain = type(model.chain)(model.chain.initial, (*model.chain.transitions[:2], table))
    sure = HiddenMarkovModel(chain, model.layers)
    found = ChainStatistics.from_batch(sure, columns, predicted)
    assert found.log_likelihood == -torch.inf
    assert float(found.s0[0].sum()) == pytest.approx(float((predicted == 0).sum()), rel=1e-12)
    assert found.count == 20


def test_arrays_hold_a_model_bit_for_bit(model):
    back = HiddenMarkovModel.from_arrays(model.to_arrays())
    assert back.shape == model.shape
    assert [layer.rectified for layer in back.layers] == list(RECTIFIED)
    assert all(torch.equal(a, b) for a, b in zip(back.chain.transitions, model.chain.transitions, strict=True))
    assert all(torch.equal(a.variance, b.variance) for a, b in zip(back.layers, model.layers, strict=True))


def test_bad_input_is_refused(model, images):
    columns, predicted = images
    with pytest.raises(RefusedInput, match=r"one \(n, D\) tensor per layer, 3, all of the same images; got rows"):
        model.log_densities(columns[:2], predicted)
    with pytest.raises(RefusedInput, match=r"predicted must be given exactly if the model observes.*got none for 3"):
        model.log_densities(columns)
    with pytest.raises(RefusedInput, match=r"predicted must have shape \(1500,\).*got \(3,\)"):
        model.log_densities(columns, predicted[:3])
    negative, broken = columns[0].clone(), columns[2].clone()
    negative[7, 5], broken[3, 0] = -1.0, torch.nan
    with pytest.raises(RefusedInput, match=r"rectified layer must be 0 or more; unit 5 of row 7"):
        model.log_densities([negative, *columns[1:]], predicted)
    with pytest.raises(NonFiniteActivations, match="1 of 1500 columns hold NaN or infinity"):
        model.log_densities([*columns[:2], broken], predicted)
    with pytest.raises(RefusedInput, match=r"chain must have the words of the layers, \(4, 3\)"):
        HiddenMarkovModel(random_model((4, 4), (1, 1), (True, True)).chain, model.layers[:2])

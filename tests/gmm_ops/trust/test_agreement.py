"""Agreement of runs: against loops over columns, and laws: symmetric, whole with itself, blind to names and splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.trust.agreement import (
    GraphChoices,
    LayerOverlaps,
    consensus_shares,
    covered_ratios,
    covered_shares,
    drawn_overlap,
    nearest_maps,
    shared_columns,
    word_overlaps,
)
from gmm_ops.trust.paired_bootstrap import bootstrap_ratios
from tests.references import agreement as slow

N, H, W, SIZES = 12, 4, 5, (6, 7, 5)
GROUPS = torch.tensor([0, 1, 0, 0, -1, 1, 1, 0, 1, -1, 0, 1])


def some_maps() -> list[Tensor]:
    """The second run says much of what the first says; one column of no word."""
    noise = torch.Generator().manual_seed(0)
    first, second, third = (torch.randint(0, size, (N, H, W), generator=noise) for size in SIZES)
    kept = torch.rand(N, H, W, generator=noise) < 0.6
    second = torch.where(kept, first + 1, second)
    third[3, 1, 2] = -1
    return [first, second, third]


def some_choices() -> GraphChoices:
    """Two classes, three words, the graph of one with two; two draws."""
    noise = torch.Generator().manual_seed(1)
    chosen = torch.stack(
        [torch.stack([torch.randperm(size, generator=noise)[:3] for _ in range(3)]) for size in SIZES for _ in range(2)]
    )
    chosen = chosen.view(3, 2, 3, 3).transpose(0, 1).contiguous()
    chosen[1, 0, 0, 2] = -1
    return GraphChoices(chosen, SIZES)


MAPS, CHOICES, KEYS = some_maps(), some_choices(), torch.rand(N, H * W, generator=torch.Generator().manual_seed(2))
FOUND = LayerOverlaps.from_batch(MAPS, GROUPS, CHOICES, KEYS)


def graph(group: int, run: int) -> list[int]:
    return [word for word in CHOICES.chosen[group, run, 0].tolist() if word >= 0]


@pytest.mark.parametrize(("place", "one", "other"), [(0, 0, 1), (1, 0, 2), (2, 1, 2)])
def test_overlaps_of_words_are_those_of_loops(place: int, one: int, other: int) -> None:
    found = word_overlaps(FOUND.words[place])
    for word, match in np.ndindex(*found.shape):
        expected = slow.overlap(MAPS[one].numpy(), MAPS[other].numpy(), word, match)
        assert float(found[word, match]) == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(
        word_overlaps(shared_columns(MAPS[other], MAPS[one], SIZES[other], SIZES[one])), found.T, msg="symmetric"
    )
    shuffled = FOUND.shuffled[place]
    assert int(shuffled.sum()) >= int(FOUND.words[place].sum()) - 1
    torch.testing.assert_close(shuffled.sum(dim=1)[1:].sum(), FOUND.words[place].sum(dim=1)[1:].sum(), rtol=0, atol=1)


@pytest.mark.parametrize("group", [0, 1])
def test_what_graphs_cover_is_that_of_loops(group: int) -> None:
    rows = group == GROUPS
    for one, other in ((0, 1), (0, 2), (1, 2)):
        own = [MAPS[run][rows].numpy() for run in (one, other)]
        expected = slow.covered_overlap(*own, graph(group, one), graph(group, other))
        found = bootstrap_ratios(*covered_ratios(FOUND.covered[rows], one, other, H * W), seed=0, draws=10)
        np.testing.assert_allclose(found[0].numpy(), expected)
        torch.testing.assert_close(
            bootstrap_ratios(*covered_ratios(FOUND.covered[rows], other, one, H * W), seed=0, draws=10), found
        )
        draws = [
            slow.covered_overlap(*own, *(CHOICES.chosen[group, run, draw].tolist() for run in (one, other)))[0]
            for draw in (1, 2)
        ]
        assert drawn_overlap(FOUND.drawn[group], one, other) == pytest.approx(np.mean(draws))


def test_nodes_found_again_are_those_of_loops() -> None:
    shares = covered_shares(FOUND.again, FOUND.columns)
    for group, run, rank, other in np.ndindex(*shares.shape):
        rows, word = group == GROUPS, int(CHOICES.chosen[group, run, 0, rank])
        if word < 0:
            assert shares[group, run, rank].isnan().all()
            continue
        maps = MAPS[run][rows].numpy(), MAPS[other][rows].numpy()
        expected = slow.node_covered(*maps, word, graph(group, other))
        chance = FOUND.product[group, run, rank, other] / FOUND.columns[group, run, rank] / (H * W)
        assert (float(shares[group, run, rank, other]), float(chance)) == pytest.approx(expected)
    assert (shares[0, 0, :, 0] == 1).all(), "a graph covers its own nodes"
    found = consensus_shares(shares)
    expected = ((shares[0, 0, 1, 1:] > 0.5).double()).mean()
    assert float(found[0, 0, 1]) == float(expected)
    assert found[1, 0, 2].isnan()


def test_parts_of_images_add_up_and_are_kept() -> None:
    parts = LayerOverlaps.zero(CHOICES)
    for first in range(0, N, 5):
        rows = slice(first, first + 5)
        parts += LayerOverlaps.from_batch([maps[rows] for maps in MAPS], GROUPS[rows], CHOICES, KEYS[rows])
    assert parts == FOUND
    assert LayerOverlaps.from_arrays(FOUND.to_arrays()) == FOUND


def test_a_run_agrees_with_itself_whatever_its_words_are_called() -> None:
    order = torch.randperm(SIZES[0], generator=torch.Generator().manual_seed(3))
    chosen = CHOICES.chosen[:, :1]
    renamed = torch.where(chosen < 0, -1, order[chosen])
    choices = GraphChoices(torch.cat([chosen, renamed], dim=1), (SIZES[0], SIZES[0]))
    found = LayerOverlaps.from_batch([MAPS[0], order[MAPS[0]]], GROUPS, choices, KEYS)
    assert torch.equal(word_overlaps(found.words[0])[torch.arange(SIZES[0]), order], torch.ones(6, dtype=torch.float64))
    for group in (0, 1):
        ratios = covered_ratios(found.covered[group == GROUPS], 0, 1, H * W)
        assert float(bootstrap_ratios(*ratios, seed=0, draws=5)[0, 0]) == 1
    consensus = consensus_shares(covered_shares(found.again, found.columns))
    assert set(consensus[~consensus.isnan()].tolist()) == {1.0}
    assert torch.equal(found.drawn[..., 0, 0], found.drawn[..., 0, 1])


def test_as_many_columns_anywhere_is_what_shuffles_give() -> None:
    rows = GROUPS == 0
    expected = float(bootstrap_ratios(*covered_ratios(FOUND.covered[rows], 0, 1, H * W), seed=0, draws=5)[0, 1])
    noise, found = torch.Generator().manual_seed(4), []
    for _ in range(100):
        keys = torch.rand(N, H * W, generator=noise).argsort(dim=1)
        shuffled = MAPS[1].flatten(1).gather(1, keys).view(N, H, W)
        one = LayerOverlaps.from_batch([MAPS[0], shuffled, MAPS[2]], GROUPS, CHOICES, KEYS)
        found.append(one.covered[rows].sum(dim=0))
    mean = torch.stack(found).double().mean(dim=0)
    assert float(mean[0, 1] / (mean[0, 0] + mean[1, 1] - mean[0, 1])) == pytest.approx(expected, rel=0.04)


def test_maps_of_other_sizes_are_read_at_the_nearest_position() -> None:
    maps = torch.arange(4).reshape(1, 2, 2)
    assert nearest_maps(maps, 4, 4)[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert torch.equal(nearest_maps(nearest_maps(maps, 4, 4), 2, 2), maps)
    assert nearest_maps(torch.arange(3).view(1, 1, 3), 1, 5)[0, 0].tolist() == [0, 0, 1, 2, 2]


def test_bad_input_is_told_by_its_words() -> None:
    with pytest.raises(RefusedInput, match="words: must be maps of 3 runs on one grid, a group for each image, got 2"):
        LayerOverlaps.from_batch(MAPS[:2], GROUPS, CHOICES, KEYS)
    with pytest.raises(RefusedInput, match="words: must be maps of 3 runs on one grid"):
        LayerOverlaps.from_batch([MAPS[0], MAPS[1], MAPS[2][:, :3]], GROUPS, CHOICES, KEYS)
    with pytest.raises(RefusedInput, match=r"must be below \(6, 7, 5\) and 2, got more in the words of run 1"):
        LayerOverlaps.from_batch([MAPS[0], MAPS[1] + 5, MAPS[2]], GROUPS, CHOICES, KEYS)
    with pytest.raises(RefusedInput, match="got more in the groups"):
        LayerOverlaps.from_batch(MAPS, GROUPS + 1, CHOICES, KEYS)

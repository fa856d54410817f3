"""Templates and votes are those of the loops; planted parts are found; two annotations are too few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory import and_or_graph
from gmm_ops.explanatory.and_or_graph import (
    Votes,
    locate_by_places,
    locate_by_words,
    place_templates,
    place_votes,
    strengths,
    vote_map,
    voted_place,
    word_templates,
    word_votes,
)
from gmm_ops.explanatory.pattern_measures import normalised_errors
from tests.gmm_ops.explanatory.drawn_objects import square_grid
from tests.references import and_or_graph as slow

VOTERS, WORDS = 12, 5


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Places (5, V, 2), scores (5, V) and parts (5, 2); voter 3 has no place in object 4, voter 5 nowhere."""
    noise = torch.Generator().manual_seed(0)
    places, scores = torch.rand(5, VOTERS, 2, generator=noise), 3 * torch.rand(5, VOTERS, generator=noise) ** 3
    places[4, 3], scores[4, 3] = torch.nan, 0
    places[:, 5], scores[:, 5] = torch.nan, 0
    return places, scores, torch.rand(5, 2, generator=noise, dtype=torch.float64)


def test_votes_of_places_are_those_of_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(and_or_graph, "KEPT", 3)
    places, scores, parts = drawn()
    means = scores.double().mean(dim=0)
    u = strengths(scores, means)
    rows = [[slow.strength(float(s), float(m)) for s, m in zip(own, means, strict=True)] for own in scores]
    np.testing.assert_allclose(u, rows, rtol=1e-12)
    assert float(u.max()) == 3, "the cap is reached, else it was not tried"
    templates = place_templates(places[:3], u[:3], parts[:3])
    wide = places.double().numpy()
    for image in (3, 4):
        votes = []
        for k in range(3):
            template = slow.place_template(wide[k], rows[k], parts[k].numpy(), kept=3)
            votes += slow.place_votes(template, wide[image], rows[image], rows[k])
            assert templates[k].voters.tolist() == [voter for voter, _ in template]
        found = vote_map([place_votes(one, places[image], u[image]) for one in templates], resolution=9)
        np.testing.assert_allclose(found, slow.vote_map(votes, 9), atol=1e-12)


def test_near_voters_come_first_and_far_ones_not_at_all() -> None:
    """1 at the part, 2 exp(-0.15 / 0.2) = 0.94 beside it, 3 exp(-0.3 / 0.2) = 0.67 at the edge, nothing beyond 0.31."""
    part = torch.tensor([[0.5, 0.5]] * 3, dtype=torch.float64)
    places = part[:, None] + torch.tensor([[0.32, 0.0], [0.0, 0.3], [0.15, 0.0], [0.0, 0.0]])
    u = torch.tensor([[3.0, 3.0, 2.0, 1.0]] * 3)
    for template in place_templates(places, u, part):
        assert template.voters.tolist() == [3, 2, 1]
        assert template.total == 6


def test_votes_of_words_are_those_of_the_loops() -> None:
    grid, noise = square_grid(6), torch.Generator().manual_seed(1)
    words = torch.randint(-1, WORDS, (5, 6, 6), generator=noise)
    frequencies = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05], dtype=torch.float64)
    parts = torch.tensor([[0.4, 0.3], [0.9, 0.9], [0.5, 0.5]], dtype=torch.float64)
    templates = word_templates(words[:3], grid, parts, frequencies)
    for image in (3, 4):
        votes = []
        for k in range(3):
            own = (words[k].numpy(), parts[k].numpy(), words[image].numpy())
            votes += slow.word_votes(*own, grid.positions().numpy(), frequencies.tolist())
        found = vote_map([word_votes(one, words[image], grid) for one in templates], resolution=9)
        np.testing.assert_allclose(found, slow.vote_map(votes, 9), atol=1e-12)


def moving(objects: int, seed: int) -> tuple[Tensor, Tensor]:
    """A part and 30 patterns around it that move with it, among 30 that do not: places (n, 60, 2), parts (n, 2)."""
    noise = torch.Generator().manual_seed(seed)
    parts = 0.5 + 0.15 * torch.randn(objects, 2, generator=noise, dtype=torch.float64)
    with_it = parts[:, None] + 0.1 * torch.randn(1, 30, 2, generator=noise, dtype=torch.float64)
    anywhere = torch.rand(objects, 30, 2, generator=noise, dtype=torch.float64)
    return torch.cat([with_it, anywhere], dim=1), parts


def test_a_part_is_found_by_patterns_that_move_with_it() -> None:
    places, parts = moving(25, 0)
    even = torch.ones(25, 60)
    templates = place_templates(places[:3], even[:3], parts[:3])
    found = locate_by_places(templates, places[3:], even[3:])
    errors = normalised_errors(found, parts[3:])
    assert float(errors.max()) < 0.03
    mean = normalised_errors(parts[:3].mean(dim=0).expand(22, 2), parts[3:])
    assert float(mean.mean()) > 0.1


def test_mirrored_and_relabelled_objects_find_the_same() -> None:
    places, parts = moving(8, 1)
    u = torch.rand(8, 60, generator=torch.Generator().manual_seed(0))
    found = locate_by_places(place_templates(places[:3], u[:3], parts[:3]), places[3:], u[3:])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    relabelled = place_templates(places[:3, order], u[:3, order], parts[:3])
    np.testing.assert_allclose(locate_by_places(relabelled, places[3:, order], u[3:, order]), found)
    sign, offset = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])
    turned, there = places * sign + offset, parts * sign + offset
    mirrored = locate_by_places(place_templates(turned[:3], u[:3], there[:3]), turned[3:], u[3:])
    np.testing.assert_allclose(mirrored, found * sign + offset, atol=1e-9)


def test_a_part_is_found_by_its_rare_word() -> None:
    """Word 4 lies at the part, the frequent word 0 elsewhere; relabelling changes nothing."""
    grid = square_grid(14)
    words = torch.zeros(9, 14, 14, dtype=torch.int64)
    cells = [(2 + i, 11 - i) for i in range(9)]
    for word_map, (h, w) in zip(words, cells, strict=True):
        word_map[h, w] = 4
    parts = torch.stack([grid.positions()[cell] for cell in cells])
    frequencies = torch.bincount(words.flatten(), minlength=5).double() / words.numel()
    templates = word_templates(words[:3], grid, parts[:3], frequencies)
    found = locate_by_words(templates, words[3:], grid)
    assert float((found - parts[3:]).abs().max()) < 0.03
    names = torch.tensor([3, 0, 1, 2, 4])
    moved = torch.empty_like(frequencies)
    moved[names] = frequencies
    relabelled = word_templates(names[words[:3]], grid, parts[:3], moved)
    assert torch.equal(locate_by_words(relabelled, names[words[3:]], grid), found)


def test_own_votes_weigh_one_a_template() -> None:
    places, scores, parts = drawn()
    u = strengths(scores, scores.double().mean(dim=0))
    for k, template in enumerate(place_templates(places[:3], u[:3], parts[:3])):
        votes = place_votes(template, places[k], u[k])
        assert float(votes.weights.sum()) == pytest.approx(1)
        np.testing.assert_allclose(votes.points, parts[k].expand(len(votes.points), 2), atol=1e-6)
        assert bool((torch.linalg.vector_norm(template.displacements, dim=1) < 0.31).all())


def test_where_nobody_votes_there_is_no_place() -> None:
    nobody = Votes(torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    assert voted_place(vote_map([nobody])).isnan().all()
    one = Votes(torch.tensor([[0.25, 0.75]], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert voted_place(vote_map([one, nobody], resolution=2)).tolist() == [0.25, 0.75]


def test_too_few_or_broken_annotations_are_refused() -> None:
    places, scores, parts = drawn()
    with pytest.raises(RefusedInput, match="annotations: must be at least 3, got 2; annotate the part on another obj"):
        place_templates(places[:2], scores[:2], parts[:2])
    grid, words = square_grid(2), torch.zeros(2, 2, 2, dtype=torch.int64)
    with pytest.raises(RefusedInput, match="annotations: must be at least 3, got 2"):
        word_templates(words, grid, parts[:2], torch.ones(1))
    parts[1, 0] = torch.nan
    with pytest.raises(RefusedInput, match=r"parts: must not hold NaN, got one at \(1, 0\)"):
        place_templates(places, scores, parts)
    with pytest.raises(RefusedInput, match=r"parts: must have shape \(4, 2\), got \(5, 2\)"):
        place_templates(places[:4], scores[:4], parts)

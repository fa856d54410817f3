from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.synthesis import (
    DecoderSettings,
    keeping_chances,
    kept_as_many,
    kept_at_patterns,
    signal_to_noise,
    train_decoder,
)
from tests.gmm_ops.explanatory.drawn_objects import bumps, square_grid
from tests.references import explanatory_graph

GRID = square_grid(8)
QUICK = DecoderSettings(steps=120, batch=8)


@dataclass(frozen=True)
class Blots:
    """Maps of two units that answer to a red and a blue blot, and the picture with both, twice as large."""

    maps: Tensor
    pictures: Tensor

    def __len__(self) -> int:
        return len(self.maps)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.maps[rows], self.pictures[rows]


def blots(count: int, seed: int) -> Blots:
    centres = 0.2 + 0.6 * torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    maps = torch.stack([bumps(GRID, one, 0.12) for one in centres], dim=1)
    large = [bumps(square_grid(16), one, 0.12) for one in centres]
    return Blots(maps, 0.2 + torch.stack([large[0], torch.zeros_like(large[0]), large[1]], dim=1))


def test_unseen_maps_become_their_pictures_and_few_responses_too() -> None:
    seen, unseen = blots(64, 1), blots(24, 2)
    decoder = train_decoder(seen, QUICK, 0)
    mean = signal_to_noise(seen.pictures.mean(dim=0).expand_as(unseen.pictures), unseen.pictures).mean()
    assert float(signal_to_noise(decoder(unseen.maps), unseen.pictures).mean()) > float(mean) + 3
    few = torch.rand(unseen.maps.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    assert float(signal_to_noise(decoder(unseen.maps * few), unseen.pictures).mean()) > float(mean)


def test_a_seed_gives_the_same_decoder() -> None:
    quick = DecoderSettings(steps=3, batch=4)
    torch.manual_seed(5)
    one = train_decoder(blots(8, 1), quick, 3).state_dict()
    torch.manual_seed(6)
    two = train_decoder(blots(8, 1), quick, 3).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_patterns_keep_their_own_places_alone() -> None:
    maps = torch.arange(1.0, 1 + 2 * 64).reshape(1, 2, 8, 8)
    at = GRID.positions()
    places = torch.stack([at[0, 3], at[7, 7], at[2, 2], torch.full((2,), torch.nan, dtype=torch.float64)])
    found = PatternPlaces(places[None].float(), torch.ones(1, 4))
    kept = kept_at_patterns(maps, GRID, found, torch.tensor([[True, False, True, False]]))
    assert kept.nonzero().tolist() == [[0, 0, 0, 3], [0, 1, 2, 2]], "patterns 0 and 1 are of unit 0"
    assert float(kept[0, 1, 2, 2]) == float(maps[0, 1, 2, 2])
    strongest = kept_as_many(maps, kept, maps)
    assert strongest.nonzero().tolist() == [[0, 1, 7, 6], [0, 1, 7, 7]]
    with pytest.raises(RefusedInput, match="found: must be of 1 objects and of as many patterns for each of 2 units"):
        kept_at_patterns(maps, GRID, PatternPlaces(places[None, :3].float(), torch.ones(1, 3)), torch.ones(1, 3) > 0)


def test_chances_are_those_of_the_slow_twin() -> None:
    maps = torch.randn(4, 3, 5, 4, generator=torch.Generator().manual_seed(1)).clamp(min=0).double()
    maps[3] = 0
    shares, tilts = torch.tensor([0.01, 0.5, 1.0, 0.2]).double(), torch.tensor([0.0, 2.5, 1.0, 1.0]).double()
    found = keeping_chances(maps, shares, tilts)
    for one, share, tilt, chances in zip(maps, shares, tilts, found, strict=True):
        expected = explanatory_graph.keeping_chances(one.numpy(), float(share), float(tilt))
        np.testing.assert_allclose(chances.numpy(), expected, rtol=1e-9)
    kept = found.sum(dim=(1, 2, 3)) / (maps > 0).sum(dim=(1, 2, 3)).clamp(min=1)
    assert float(kept[0]) == pytest.approx(0.01)
    assert bool((kept <= shares + 1e-12).all())


def test_silent_places_are_never_kept() -> None:
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 2.0]]]])
    assert torch.equal(kept_as_many(maps, torch.ones_like(maps), torch.rand(maps.shape)), maps)


def test_decibels_are_those_of_the_definition() -> None:
    shown, pictures = torch.full((2, 3, 2, 2), 0.4), torch.full((2, 3, 2, 2), 0.5)
    assert signal_to_noise(shown, pictures).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    one = blots(2, 0)
    with pytest.raises(RefusedInput, match="examples: must be at least 1, got none"):
        train_decoder(Blots(one.maps[:0], one.pictures[:0]), QUICK, 0)
    with pytest.raises(RefusedInput, match=r"pictures 1, 2, 4, .* times as large as their maps, got \(12, 12\)"):
        train_decoder(Blots(one.maps, one.pictures[..., :12, :12]), QUICK, 0)

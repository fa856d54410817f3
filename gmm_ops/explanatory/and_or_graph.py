"""Finding a part from three annotated objects by votes of patterns, raw peaks or words: the And-Or graph.

Source: Zhang et al. (AAAI 2017) on top of EG. A part is an OR of templates, one an annotated object; a template is an
AND of voters that each remember how far away the part was; a voter is an OR of its positions. Templates stay separate:
displacements averaged over objects point between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.inputs import as_float64
from gmm_ops.records import Record

ANNOTATIONS = 3
CAP = 3.0
REACH, KEPT, NEAR = 0.31, 300, 0.2
WORD_REACH = 0.25
SPREAD, RESOLUTION = 0.1, 56


@dataclass(frozen=True)
class Template(Record):
    """What one annotated object says of a part.

    Attributes:
        voters: (m,) patterns, units or words.
        displacements: (m, 2) from the voter to the part, row and column on the object.
        weights: (m,) of each voter's vote, beside its strength in the image; 1 for patterns and peaks.
        total: what all votes would weigh on the annotated object itself.
    """

    voters: Int[Tensor, " m"]
    displacements: Float[Tensor, "m 2"]
    weights: Float[Tensor, " m"]
    total: float


@dataclass(frozen=True)
class Votes(Record):
    """Where a template's voters see the part in one image.

    Attributes:
        points: (P, 2) row and column on the object.
        weights: (P,) shares of what the template's votes weigh on its own object.
    """

    points: Float[Tensor, "P 2"]
    weights: Float[Tensor, " P"]


def strengths(scores: Float[Tensor, "n V"], means: Float[Tensor, " V"], cap: float = CAP) -> Float[Tensor, "n V"]:
    """u: score over its mean over all objects, at most ``cap``; 0 for a voter that is found nowhere. float64."""
    exact = scores.double()
    ratio = exact / torch.where(means > 0, means, 1.0).double()
    return torch.where(means > 0, ratio, 0.0).clamp(max=cap)


def place_templates(
    places: Float[Tensor, "A V 2"], strength: Float[Tensor, "A V"], parts: Float[Tensor, "A 2"]
) -> tuple[Template, ...]:
    """A template for each annotated object: its voters closer than 0.31, the 300 of largest u exp(-|delta| / 0.2).

    Args:
        places: of patterns or raw peaks on the annotated objects; NaN: no place.
        strength: u of ``strengths`` there.
        parts: where the part is, row and column on the object.

    Raises:
        RefusedInput: fewer than 3 annotations, shapes that do not fit, NaN in ``parts``.
    """
    exact = _annotated(parts, len(places))
    return tuple(_template(*row) for row in zip(places.double(), strength.double(), exact, strict=True))


def _annotated(parts: Float[Tensor, "A 2"], objects: int) -> Float[Tensor, "A 2"]:
    if len(parts) < ANNOTATIONS:
        raise RefusedInput(
            f"annotations: must be at least {ANNOTATIONS}, got {len(parts)}; annotate the part on another object"
        )
    return as_float64("parts", parts, (objects, 2))


def _template(places: Tensor, strength: Tensor, part: Tensor) -> Template:
    away = part - places
    length = torch.linalg.vector_norm(away, dim=1)
    votes = torch.where(length < REACH, strength * torch.exp(-length / NEAR), 0.0)
    best = torch.sort(votes, descending=True, stable=True).indices[:KEPT]
    best = best[votes[best] > 0]
    return Template(best, away[best], torch.ones_like(strength[best]), float(strength[best].sum()))


def place_votes(template: Template, places: Float[Tensor, "V 2"], strength: Float[Tensor, " V"]) -> Votes:
    """Where the patterns or peaks of a template see the part in one image; those without a place do not vote."""
    points = places.double()[template.voters] + template.displacements
    weights = template.weights * strength.double()[template.voters] / _divisor(template)
    known = ~points.isnan().any(dim=1)
    return Votes(points[known], weights[known])


def word_templates(
    words: Int[Tensor, "A H W"], grid: PositionGrid, parts: Float[Tensor, "A 2"], frequencies: Float[Tensor, " K"]
) -> tuple[Template, ...]:
    """A template for each annotated object: every column within 0.25 of the part votes with the weight 1 / frequency.

    Args:
        words: word maps of the annotated objects; words below 0 take no part.
        grid: of the layer.
        parts: where the part is.
        frequencies: share of each word in the columns of all objects; a word of frequency 0 does not vote.

    Raises:
        RefusedInput: fewer than 3 annotations, shapes that do not fit, NaN in ``parts``.
    """
    exact = _annotated(parts, len(words))
    inverse = torch.where(frequencies > 0, 1 / frequencies.double(), 0.0)
    columns = grid.positions().reshape(-1, 2)
    templates = []
    for word_map, part in zip(words, exact, strict=True):
        away, word = part - columns, word_map.flatten().long()
        near = (torch.linalg.vector_norm(away, dim=1) < WORD_REACH) & (word >= 0)
        weights = inverse[word[near]]
        templates.append(Template(word[near], away[near], weights, float(weights.sum())))
    return tuple(templates)


def word_votes(template: Template, words: Int[Tensor, "H W"], grid: PositionGrid) -> Votes:
    """Where the words of a template see the part in one image: each vote is spread over all places of its word."""
    columns, word = grid.positions().reshape(-1, 2), words.flatten()
    same = template.voters[:, None] == word
    voter, place = same.nonzero(as_tuple=True)
    share = template.weights / same.sum(dim=1).clamp(min=1) / _divisor(template)
    return Votes(columns[place] + template.displacements[voter], share[voter])


def _divisor(template: Template) -> float:
    return template.total if template.total > 0 else 1.0


def vote_map(votes: Sequence[Votes], resolution: int = RESOLUTION, spread: float = SPREAD) -> Float[Tensor, "R R"]:
    """Sum over templates and voters of weight exp(-|c - point|^2 / (2 spread^2)) at evenly placed c, float64."""
    middles = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    total = torch.zeros((resolution, resolution), dtype=torch.float64)
    for one in votes:
        rows, columns = (torch.exp(-((middles - axis[:, None]) ** 2) / (2 * spread**2)) for axis in one.points.T)
        total += (rows * one.weights[:, None]).T @ columns
    return total


def voted_place(votes: Float[Tensor, "R R"]) -> Float[Tensor, "2"]:
    """The place of most votes, of equals the first in order of rows; NaN where nobody votes."""
    best = int(votes.argmax())
    place = torch.tensor([best // len(votes), best % len(votes)], dtype=torch.float64)
    return (place + 0.5) / len(votes) if float(votes.max()) > 0 else torch.full_like(place, torch.nan)


def locate_by_places(
    templates: Sequence[Template], places: Float[Tensor, "n V 2"], strength: Float[Tensor, "n V"]
) -> Float[Tensor, "n 2"]:
    """The part on every object, by patterns or raw peaks: argmax of the vote map on 56 x 56."""
    rows = zip(places, strength, strict=True)
    return torch.stack([voted_place(vote_map([place_votes(one, *row) for one in templates])) for row in rows])


def locate_by_words(
    templates: Sequence[Template], words: Int[Tensor, "n H W"], grid: PositionGrid
) -> Float[Tensor, "n 2"]:
    """The part on every object, by words."""
    found = [voted_place(vote_map([word_votes(one, word_map, grid) for one in templates])) for word_map in words]
    return torch.stack(found)

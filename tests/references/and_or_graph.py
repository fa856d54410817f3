"""Slow twin of the And-Or graph: templates and votes in plain float64 loops, written from METHOD section 10."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Vote = tuple[float, float, float]
"""(row, column, weight)."""


def strength(score: float, mean: float) -> float:
    return min(score / mean, 3.0) if mean > 0 else 0.0


def place_template(
    places: np.ndarray, strengths: Sequence[float], part: np.ndarray, kept: int
) -> list[tuple[int, np.ndarray]]:
    """(voter, displacement), the best first."""
    found = []
    for voter, at in enumerate(places):
        if not math.isnan(at[0]):
            away = part - at
            length = math.hypot(*away)
            if length < 0.31 and strengths[voter] > 0:
                found.append((strengths[voter] * math.exp(-length / 0.2), voter, away))
    found.sort(key=lambda row: (-row[0], row[1]))
    return [(voter, away) for _, voter, away in found[:kept]]


def place_votes(
    template: list[tuple[int, np.ndarray]], places: np.ndarray, strengths: Sequence[float], own: Sequence[float]
) -> list[Vote]:
    """own: strengths on the annotated object."""
    total = sum(own[voter] for voter, _ in template)
    return [
        (places[voter][0] + away[0], places[voter][1] + away[1], strengths[voter] / total)
        for voter, away in template
        if not math.isnan(places[voter][0])
    ]


def word_votes(
    annotated: np.ndarray, part: np.ndarray, words: np.ndarray, positions: np.ndarray, frequency: Sequence[float]
) -> list[Vote]:
    """Every column within 0.25 of the part votes from all places of its word, 1 / frequency shared among them."""
    near = []
    for h, w in np.ndindex(annotated.shape):
        away = part - positions[h, w]
        if math.hypot(*away) < 0.25 and annotated[h, w] >= 0:
            near.append((int(annotated[h, w]), away))
    total = sum(1 / frequency[word] for word, _ in near)
    votes = []
    for word, away in near:
        same = [positions[h, w] for h, w in np.ndindex(words.shape) if words[h, w] == word]
        for at in same:
            votes.append((at[0] + away[0], at[1] + away[1], 1 / frequency[word] / len(same) / total))
    return votes


def vote_map(votes: Sequence[Vote], resolution: int) -> np.ndarray:
    found = np.zeros((resolution, resolution))
    for i, j in np.ndindex(found.shape):
        y, x = (i + 0.5) / resolution, (j + 0.5) / resolution
        for row, column, weight in votes:
            found[i, j] += weight * math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 0.1**2))
    return found

"""Slow twin of the explanatory graph: one unit in plain float64 loops, written from METHOD section 10 and EG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Point = Sequence[float]


def density(point: Point, centre: Point, deviation: float) -> float:
    square = (point[0] - centre[0]) ** 2 + (point[1] - centre[1]) ** 2
    return math.exp(-square / (2 * deviation**2)) / (2 * math.pi * deviation**2)


def shift(parents: Sequence[int], displacements: np.ndarray, precisions: Sequence[float]) -> tuple[float, float]:
    """Weighted mean of displacements (C, 2) of an image over the parents; 0 without any."""
    total = sum(precisions[p] for p in parents)
    if not total:
        return 0.0, 0.0
    y, x = (sum(precisions[p] * float(displacements[p][axis]) for p in parents) / total for axis in (0, 1))
    return y, x


def e_step(
    maps: np.ndarray, positions: np.ndarray, means: np.ndarray, deviations: np.ndarray, shifts: np.ndarray, tau: float
) -> tuple[np.ndarray, float]:
    """Responsibilities times responses (n, N, H, W) of maps (n, H, W), and sum F log p; shifts (n, N, 2)."""
    images, count = len(maps), len(means)
    weights, likelihood = np.zeros((images, count, *maps.shape[1:])), 0.0
    for image in range(images):
        for h, w in np.ndindex(maps.shape[1:]):
            response = float(maps[image, h, w])
            each = [density(positions[h, w], means[n] + shifts[image, n], deviations[n]) for n in range(count)]
            for n in range(count):
                weights[image, n, h, w] = response * each[n] / (sum(each) + tau)
            if response:
                likelihood += response * math.log((sum(each) + tau) / (count + 1))
    return weights, likelihood


def m_step(
    weights: np.ndarray,
    positions: np.ndarray,
    means: np.ndarray,
    deviations: np.ndarray,
    shifts: np.ndarray,
    bounds: tuple[float, float],
    eta: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Closed, or with ``eta`` the gradient of the mean log likelihood times eta and the smallest variance."""
    new_means, new_deviations = means.copy(), deviations.copy()
    smallest = min(deviations) ** 2
    for n in range(len(means)):
        rows = [
            (float(weights[i, n, h, w]), positions[h, w] - shifts[i, n])
            for i, _, h, w in np.ndindex(len(weights), 1, *positions.shape[:2])
        ]
        mass = sum(weight for weight, _ in rows)
        if mass <= 0:
            continue
        middle = sum(weight * place for weight, place in rows) / mass
        if eta is None:
            new_means[n] = middle
        else:
            gradient = sum(weight * (place - means[n]) for weight, place in rows) / (mass * deviations[n] ** 2)
            new_means[n] = means[n] + eta * smallest * gradient
        square = sum(weight * float(((place - new_means[n]) ** 2).sum()) for weight, place in rows)
        new_deviations[n] = min(max(math.sqrt(square / (2 * mass)), bounds[0]), bounds[1])
    return new_means, new_deviations


def masses_and_places(weights: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, N) and (n, N, 2); a pattern without mass in an image sits at 0 there, with weight 0."""
    masses, places = np.zeros(weights.shape[:2]), np.zeros((*weights.shape[:2], 2))
    for image, n in np.ndindex(weights.shape[:2]):
        for h, w in np.ndindex(positions.shape[:2]):
            masses[image, n] += weights[image, n, h, w]
            places[image, n] += weights[image, n, h, w] * positions[h, w]
        if masses[image, n]:
            places[image, n] /= masses[image, n]
    return masses, places


def residual_variance(masses: Sequence[float], places: np.ndarray, shifts: Sequence[Point]) -> float:
    """Mass-weighted variance over images of place - shift."""
    away = [place - np.asarray(one) for place, one in zip(places, shifts, strict=True)]
    total = sum(masses)
    middle = sum(m * one for m, one in zip(masses, away, strict=True)) / total
    return sum(m * float(((one - middle) ** 2).sum()) for m, one in zip(masses, away, strict=True)) / total


def greedy_parents(
    masses: Sequence[float], places: np.ndarray, displacements: np.ndarray, precisions: Sequence[float], count: int
) -> list[int]:
    """Among displacements (n, C, 2): the next one is that which leaves the least variance."""

    def variance(parents: list[int]) -> float:
        return residual_variance(masses, places, [shift(parents, one, precisions) for one in displacements])

    chosen: list[int] = []
    while len(chosen) < min(count, displacements.shape[1]):
        others = [c for c in range(displacements.shape[1]) if c not in chosen]
        chosen.append(min(others, key=lambda c: variance([*chosen, c])))
    return chosen


def choose_parents(
    masses: Sequence[float],
    places: np.ndarray,
    displacements: np.ndarray,
    precisions: Sequence[float],
    count: int,
    old: list[int],
) -> list[int]:
    """The greedy ones; the old set stays unless the variance falls."""
    chosen = greedy_parents(masses, places, displacements, precisions, count)
    new, before = (
        residual_variance(masses, places, [shift(parents, one, precisions) for one in displacements])
        for parents in (chosen, old)
    )
    return chosen if new < before else old


def fit(
    maps: np.ndarray,
    positions: np.ndarray,
    means: np.ndarray,
    bounds: tuple[float, float],
    iterations: int,
    tau: float,
    upper: tuple[np.ndarray, Sequence[float], int] | None = None,
    eta: float | None = None,
    rigid: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[list[int]], list[float]]:
    """EM of one unit; upper: displacements (n, C, 2), precisions, M. Returns means, deviations, parents, history.

    ``rigid``: patterns have parents before the first step, the greedy ones of responsibilities without a shift.
    """
    deviations = np.full(len(means), bounds[1])
    parents: list[list[int]] = [[] for _ in means]
    history = []

    def shifts() -> np.ndarray:
        if upper is None:
            return np.zeros((len(maps), len(means), 2))
        return np.array([[shift(own, one, upper[1]) for own in parents] for one in upper[0]])

    if rigid and upper is not None:
        weights, _ = e_step(maps, positions, means, deviations, shifts(), tau)
        masses, places = masses_and_places(weights, positions)
        parents = [greedy_parents(masses[:, n], places[:, n], *upper) for n in range(len(means))]
    for iteration in range(1, iterations + 1):
        weights, likelihood = e_step(maps, positions, means, deviations, shifts(), tau)
        history.append(likelihood)
        if upper is not None and iteration % 4 == 2:
            masses, places = masses_and_places(weights, positions)
            for n in range(len(means)):
                parents[n] = choose_parents(masses[:, n], places[:, n], *upper, parents[n])
        means, deviations = m_step(weights, positions, means, deviations, shifts(), bounds, eta)
    return means, deviations, parents, history


def place(image_map: np.ndarray, positions: np.ndarray, centre: Point, deviation: float) -> tuple[Point | None, float]:
    """argmax of log F - |p - centre|^2 / deviation^2 and exp of it; nothing where the unit is not positive."""
    best, where = -math.inf, None
    for h, w in np.ndindex(image_map.shape):
        if image_map[h, w] > 0:
            square = float(((positions[h, w] - centre) ** 2).sum())
            value = math.log(image_map[h, w]) - square / deviation**2
            if value > best:
                best, where = value, positions[h, w]
    return where, math.exp(best)


def facing(differences: np.ndarray, rounds: int) -> list[int]:
    """Signs of rows: first component of the Gram matrix by power iteration, then agreement with all others."""
    gram = [[float(np.dot(one, other)) for other in differences] for one in differences]
    vector = [1.0 + 0.01 * i for i in range(len(gram))]
    for _ in range(500):
        vector = [sum(g * v for g, v in zip(row, vector, strict=True)) for row in gram]
        length = math.sqrt(sum(v * v for v in vector))
        vector = [v / length for v in vector]
    signs = [1 if v >= 0 else -1 for v in vector]
    for _ in range(rounds):
        agreement = [
            sum(signs[j] * gram[i][j] for j in range(len(gram)) if j != i) * signs[i] for i in range(len(gram))
        ]
        signs = [-s if value < 0 else s for s, value in zip(signs, agreement, strict=True)]
    return signs if (sum(signs) or signs[0]) > 0 else [-s for s in signs]


def keeping_chances(image_map: np.ndarray, share: float, tilt: float) -> np.ndarray:
    """Chance that each response of one map (D, H, W) is kept when a decoder learns from masked maps."""
    powers = [float(value) ** tilt for value in image_map.flat if value > 0]
    found = np.zeros(image_map.shape)
    for at in np.ndindex(*image_map.shape):
        if image_map[at] > 0:
            found[at] = 1 - (1 - share) ** (float(image_map[at]) ** tilt / (sum(powers) / len(powers)))
    return found

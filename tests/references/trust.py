"""Trust in float64 loops: columns changed one by one, effects by word, curves, ratios drawn again."""

from __future__ import annotations

import numpy as np


def changed(
    maps: np.ndarray,
    words: np.ndarray,
    means: np.ndarray,
    centre: np.ndarray,
    change: str,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """(N, D, H, W), (N, H, W), (K, D), (D,), (q, D) -> (N, D, H, W): every column, were it changed."""
    found = maps.astype(np.float64).copy()
    for image, y, x in np.ndindex(*words.shape):
        word = words[image, y, x]
        if word < 0:
            continue
        column = maps[image, :, y, x].astype(np.float64)
        found[image, :, y, x] = {
            "shift": column - means[word] + centre,
            "error": column - means[word] + centre,
            "mean": centre,
            "words": means[word],
            "components": means[word] + _along(axes, column - means[word]),
            "axes": centre + _along(axes, column - centre),
        }[change]
    return found


def _along(axes: np.ndarray | None, column: np.ndarray) -> np.ndarray:
    total = np.zeros(len(column))
    for axis in [] if axes is None else axes:
        total += sum(float(a) * float(x) for a, x in zip(axis, column, strict=True)) * axis
    return total


def principal_axes(means: np.ndarray, shares: np.ndarray, count: int, rounds: int = 3000) -> np.ndarray:
    """(K, D), (K,) -> (q, D): by power iteration on the covariance of the means, one axis after another."""
    share = shares / shares.sum()
    centre = sum(p * mean for p, mean in zip(share, means, strict=True))
    covariance = sum(p * np.outer(mean - centre, mean - centre) for p, mean in zip(share, means, strict=True))
    found: list[np.ndarray] = []
    for seed in range(count):
        axis = np.random.default_rng(seed).normal(size=len(centre))
        for _ in range(rounds):
            axis = covariance @ axis
            for other in found:
                axis = axis - (axis @ other) * other
            axis /= np.linalg.norm(axis)
        found.append(axis)
    return np.array(found)


def first_order(
    gradients: np.ndarray, maps: np.ndarray, other: np.ndarray, words: np.ndarray, n_words: int
) -> np.ndarray:
    """(N, K): g.(x - x') summed over the columns of each word."""
    found = np.zeros((len(maps), n_words))
    for image, y, x in np.ndindex(*words.shape):
        if words[image, y, x] >= 0:
            gap = maps[image, :, y, x].astype(np.float64) - other[image, :, y, x]
            found[image, words[image, y, x]] += float(gradients[image, :, y, x].astype(np.float64) @ gap)
    return found


def windowed(upper: np.ndarray, window: object, height: int, width: int) -> np.ndarray:
    """(N, H, W) -> (N, height, width): columns in the window of some upper position that is True."""
    found = np.zeros((len(upper), height, width), bool)
    for image, y, x in np.argwhere(upper):
        y0, x0, y1, x1 = window.bounds(y, x, height, width)  # type: ignore[attr-defined]
        found[image, y0:y1, x0:x1] = True
    return found


def kept(plain: np.ndarray, after: np.ndarray, without: np.ndarray) -> list[float]:
    """f(k) at every step, image by image."""
    whole = sum(float(p) - float(w) for p, w in zip(plain, without, strict=True))
    return [
        sum(float(after[image, step]) - float(without[image]) for image in range(len(plain))) / whole
        for step in range(after.shape[1])
    ]


def area(steps: np.ndarray, values: np.ndarray) -> float:
    """Trapezoid by trapezoid over k/K."""
    total = 0.0
    for place in range(1, len(steps)):
        total += (steps[place] - steps[place - 1]) / steps[-1] * (values[place] + values[place - 1]) / 2
    return total


def drawn_ratios(above: np.ndarray, below: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(draws,): the ratio of sums of every draw; rows: (draws, n) images taken."""
    found = []
    for taken in rows:
        top = bottom = 0.0
        for image in taken:
            top, bottom = top + above[image], bottom + below[image]
        found.append(top / bottom)
    return np.array(found)

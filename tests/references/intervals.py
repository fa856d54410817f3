"""Slow twins of gmm_ops.trust.intervals: every image by itself, influences summed one by one, and the bootstrap."""

from __future__ import annotations

import math
import random

import torch

from gmm_ops.graphs.windows import Window
from tests.references.cooccurrence import pair_counts

Table = list[list[int]]


def counts_of_images(
    upper: torch.Tensor, lower: torch.Tensor, window: Window, n_upper: int, n_lower: int
) -> list[Table]:
    """c[s, t] of every image."""
    return [pair_counts(u[None], w[None], window, n_upper, n_lower).tolist() for u, w in zip(upper, lower, strict=True)]


def product_sums(images: list[Table]) -> dict[str, dict[tuple[int, ...], int]]:
    """Sums over images of products of two of c, r, k, n, by name and words; zeros left out."""
    found: dict[str, dict[tuple[int, ...], int]] = {
        name: {} for name in ("images", "cc", "cr", "ck", "cn", "rk", "rr", "rn", "kk", "kn", "nn")
    }

    def add(name: str, key: tuple[int, ...], value: int) -> None:
        if value:
            found[name][key] = found[name].get(key, 0) + value

    for c in images:
        r, k, n = [sum(row) for row in c], [sum(column) for column in zip(*c, strict=True)], sum(map(sum, c))
        add("nn", (), n * n)
        for t, kt in enumerate(k):
            add("kk", (t,), kt * kt)
            add("kn", (t,), kt * n)
        for s, rs in enumerate(r):
            add("rr", (s,), rs * rs)
            add("rn", (s,), rs * n)
            for t, kt in enumerate(k):
                add("images", (s, t), int(c[s][t] > 0))
                add("rk", (s, t), rs * kt)
                for name, other in (("cc", c[s][t]), ("cr", rs), ("ck", kt), ("cn", n)):
                    add(name, (s, t), c[s][t] * other)
    return found


def log_ratio(c: Table, s: int, t: int, pseudo_count: float, prior: float | None = None) -> float:
    """LR[s, t] in bits, from whatever counts; ``prior``: P(t) where it is not the marginal."""
    of_upper, everything = sum(c[s]), sum(map(sum, c))
    prior = sum(row[t] for row in c) / everything if prior is None else prior
    return math.log2((c[s][t] + pseudo_count * prior) / (of_upper + pseudo_count) / prior)


def influence_deviation(images: list[Table], s: int, t: int) -> float:
    """Root of the sum of infl^2 without smoothing (METHOD section 11), in bits; direct, an image at a time."""
    total = [[sum(c[i][j] for c in images) for j in range(len(images[0][0]))] for i in range(len(images[0]))]
    of_upper, of_lower, everything = sum(total[s]), sum(row[t] for row in total), sum(map(sum, total))
    variance = 0.0
    for c in images:
        r, k, n = sum(c[s]), sum(row[t] for row in c), sum(map(sum, c))
        influence = (c[s][t] / total[s][t] - r / of_upper - k / of_lower + n / everything) / math.log(2)
        variance += influence**2
    return math.sqrt(variance)


def jackknife_deviation(
    images: list[Table], s: int, t: int, pseudo_count: float, prior: float | None = None, step: float = 1e-6
) -> float:
    """The same from finite differences of LR by each image's weight: the infinitesimal jackknife (Efron 1982)."""

    def weighted(image: int, weight: float) -> float:
        sums = [
            [sum(c[i][j] * (weight if at == image else 1.0) for at, c in enumerate(images)) for j in columns]
            for i in range(len(images[0]))
        ]
        return log_ratio(sums, s, t, pseudo_count, prior)  # type: ignore[arg-type]

    columns = range(len(images[0][0]))
    slopes = [(weighted(i, 1 + step) - weighted(i, 1 - step)) / (2 * step) for i in range(len(images))]
    return math.sqrt(sum(slope**2 for slope in slopes))


def bootstrap_deviation(images: list[Table], s: int, t: int, resamplings: int, seed: int) -> float:
    """Standard deviation of LR, without smoothing, over resamplings of images; those without the pair are left out."""
    draw = random.Random(seed)
    values = []
    for _ in range(resamplings):
        drawn = [images[draw.randrange(len(images))] for _ in images]
        total = [[sum(c[i][j] for c in drawn) for j in range(len(images[0][0]))] for i in range(len(images[0]))]
        if total[s][t]:
            values.append(log_ratio(total, s, t, 0.0))
    middle = sum(values) / len(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / len(values))

"""Slow twin of gmm_ops.discriminative: IG Eq. 8, its gradient by the chain rule, and Adam, in plain float64 loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.references.mixture import Matrix, Vector, hard_word, posterior


@dataclass
class Model:
    """Words and linear layer as lists; variance is exp(2 log_sd)."""

    word_logits: list[float]
    mean: list[list[float]]
    log_sd: list[list[float]]
    weight: list[list[float]]
    bias: list[float]

    def log_pi(self) -> list[float]:
        total = math.log(sum(math.exp(a) for a in self.word_logits))
        return [a - total for a in self.word_logits]

    def variance(self) -> list[list[float]]:
        return [[math.exp(2 * v) for v in row] for row in self.log_sd]


def soft_histogram(model: Model, columns: Matrix) -> list[float]:
    """Mean posterior of every word over one image's columns."""
    shares = [posterior(x, model.log_pi(), model.mean, model.variance()) for x in columns]
    return [sum(r[k] for r in shares) / len(columns) for k in range(len(model.mean))]


def hard_histogram(model: Model, columns: Matrix) -> list[float]:
    """Share of one image's columns whose hard word is k."""
    words = [hard_word(x, model.log_pi(), model.mean, model.variance()) for x in columns]
    return [words.count(k) / len(columns) for k in range(len(model.mean))]


def label_shares(model: Model, histogram: Vector) -> list[float]:
    """Softmax of the linear layer."""
    logits = [
        b + sum(w * h for w, h in zip(row, histogram, strict=True))
        for row, b in zip(model.weight, model.bias, strict=True)
    ]
    powers = [math.exp(v - max(logits)) for v in logits]
    return [p / sum(powers) for p in powers]


def loss(model: Model, images: Sequence[Matrix], labels: Sequence[int]) -> float:
    """Mean cross entropy over the images (IG Eq. 8)."""
    shares = [label_shares(model, soft_histogram(model, columns)) for columns in images]
    return -sum(math.log(p[label]) for p, label in zip(shares, labels, strict=True)) / len(images)


def gradient(model: Model, images: Sequence[Matrix], labels: Sequence[int]) -> Model:
    """Gradient of ``loss``, entry by entry down the chain: logit, histogram, posterior, log joint, parameter."""
    words, units, n_labels = len(model.mean), len(model.mean[0]), len(model.bias)
    out = Model(
        [0.0] * words,
        [[0.0] * units for _ in range(words)],
        [[0.0] * units for _ in range(words)],
        [[0.0] * words for _ in range(n_labels)],
        [0.0] * n_labels,
    )
    log_pi, variance = model.log_pi(), model.variance()
    for columns, label in zip(images, labels, strict=True):
        histogram = soft_histogram(model, columns)
        share = label_shares(model, histogram)
        by_logit = [(share[m] - (m == label)) / len(images) for m in range(n_labels)]
        for m in range(n_labels):
            out.bias[m] += by_logit[m]
            for k in range(words):
                out.weight[m][k] += by_logit[m] * histogram[k]
        by_share = [sum(by_logit[m] * model.weight[m][k] for m in range(n_labels)) / len(columns) for k in range(words)]
        for x in columns:
            r = posterior(x, log_pi, model.mean, variance)
            for k in range(words):
                # dr_j / ds_k = r_j ([j = k] - r_k)
                by_joint = sum(by_share[j] * r[j] * ((j == k) - r[k]) for j in range(words))
                _add_word(out, model, k, x, by_joint)
    return out


def _add_word(out: Model, model: Model, k: int, x: Vector, by_joint: float) -> None:
    """ds_k / d(its parameters), and d log pi_k / d logit_j = [j = k] - pi_j."""
    for j, log_pi in enumerate(model.log_pi()):
        out.word_logits[j] += by_joint * ((j == k) - math.exp(log_pi))
    for d, value in enumerate(x):
        variance = math.exp(2 * model.log_sd[k][d])
        gap = value - model.mean[k][d]
        out.mean[k][d] += by_joint * gap / variance
        out.log_sd[k][d] += by_joint * (gap * gap / variance - 1.0)


def one_cycle(step: int, total: int, highest: float) -> tuple[float, float]:
    """(rate, beta 1): cosine up over the first 30 % of the steps, cosine down to a 250,000th (Smith and Topin 2019)."""
    top = 0.3 * total - 1
    up = step <= top
    done = step / top if up else (step - top) / (total - 1 - top)
    bend = (1 + math.cos(math.pi * done)) / 2
    if up:
        return highest + (highest / 25 - highest) * bend, 0.85 + 0.10 * bend
    last = highest / 25 / 1e4
    return last + (highest - last) * bend, 0.95 - 0.10 * bend


def adam(value: float, slopes: Sequence[float], highest: float, total: int) -> float:
    """One number after a step for every slope (Kingma and Ba 2015, Algorithm 1)."""
    first = second = 0.0
    for step, slope in enumerate(slopes):
        rate, beta = one_cycle(step, total, highest)
        first = beta * first + (1 - beta) * slope
        second = 0.999 * second + 0.001 * slope * slope
        m, v = first / (1 - beta ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        value -= rate * m / (math.sqrt(v) + 1e-8)
    return value


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of error(first) - error(second), half an image added to each of the four cells."""
    cells = {(a, b): 0.5 for a in (False, True) for b in (False, True)}
    for pair in zip(first, second, strict=True):
        cells[pair] += 1
    n = sum(cells.values())
    p, q = cells[True, False] / n, cells[False, True] / n
    half = 1.959963984540054 * math.sqrt((p + q - (p - q) ** 2) / n)
    return p - q - half, p - q + half

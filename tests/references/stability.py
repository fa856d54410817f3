"""Slow twin of gmm_ops.trust.stability: every resampling by itself, its counts added image by image, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

Table = list[list[int]]


def weighted_sum(images: Sequence[Table], weights: Sequence[int]) -> Table:
    """Counts of some images, each as often as it is drawn."""
    shape = range(len(images[0])), range(len(images[0][0]))
    return [[sum(w * c[s][t] for w, c in zip(weights, images, strict=True)) for t in shape[1]] for s in shape[0]]


def chosen_words(
    root: int, own: Sequence[Table], everything: Sequence[Table], top: int, pseudo_count: float
) -> list[list[int]]:
    """Algorithm 1 of IG, layer by layer from the output's: the chosen words, best first."""
    uppers, layers = [root], []
    for q, n in zip(own, everything, strict=True):
        marginal = [sum(row[t] for row in n) for t in range(len(n[0]))]
        scores = {}
        for t, of_lower in enumerate(marginal):
            parts = []
            for s in uppers:
                if q[s][t] > 0 and of_lower > 0 and sum(n[s]) > 0:
                    prior = of_lower / sum(marginal)
                    conditional = (n[s][t] + pseudo_count * prior) / (sum(n[s]) + pseudo_count)
                    parts.append(q[s][t] * (math.log2(conditional / prior) if conditional else -math.inf))
            if parts:
                scores[t] = sum(parts)
        uppers = sorted(scores, key=lambda t: (-scores[t], t))[:top]
        layers.append(uppers)
    return layers


def times_chosen(
    root: int,
    images: Sequence[Sequence[Table]],
    predicted: Sequence[int],
    weights: Sequence[Sequence[int]],
    top: int,
    pseudo_count: float,
) -> list[dict[int, int]]:
    """In how many resamplings each word is chosen; images: by pair of layers from the output's, c[s, t] of each image.

    weights: by resampling, how often each image is drawn.
    """
    times: list[dict[int, int]] = [{} for _ in images]
    for drawn in weights:
        everything = [weighted_sum(pair, drawn) for pair in images]
        of_class = [w if label == root else 0 for w, label in zip(drawn, predicted, strict=True)]
        own = [weighted_sum(pair, of_class) for pair in images]
        for found, words in zip(times, chosen_words(root, own, everything, top, pseudo_count), strict=True):
            for word in words:
                found[word] = found.get(word, 0) + 1
    return times

"""What one slice of a dictionary holds at most, so that a run can be refused before it starts."""

from __future__ import annotations

from gmm_ops.mixtures.tiles import GPU_TILE_BYTES, TILE_BYTES

EM_PEAK = 13
"""(K_own, D) float64 arrays at the peak of online EM, in ``advance``: mixture 2, running statistics 2, those of
the minibatch 2, blended 2, re-seeded 2, new mixture 2, a temporary."""

POLYAK_PEAK = 4
"""The same for an average: old and new."""

TRAINING_PEAK = 24
"""The same at the peak of ``training_step``: parameters 2, the best ones 2, moments 4, gradient 2, its mean
2, slopes 2 and three temporaries, new moments 4, new parameters 2, a temporary."""

TILES = 5
"""Blocks of scores at once: the scores, the products' own copies, in training g spread over rows."""


def em_bytes(n_words: int, world: int, n_units: int, polyak: bool = False, gpu: bool = False) -> int:
    """Bytes of one slice's arrays at the peak of online EM, columns of the minibatch not counted.

    n_words: K of the whole dictionary. world: number of slices. n_units: D.
    """
    own = -(-n_words // world)
    return (EM_PEAK + POLYAK_PEAK * polyak) * 8 * own * n_units + _tile_bytes(gpu)


def training_bytes(n_words: int, world: int, n_units: int, n_labels: int, images: int = 100, gpu: bool = False) -> int:
    """Bytes of one slice's arrays at the peak of discriminative training, columns of the minibatch not counted.

    images: of one call of ``batch_gradient``; each has a histogram. n_labels: M. Others as in ``em_bytes``.
    """
    own = -(-n_words // world)
    words = TRAINING_PEAK * 8 * own * (n_units + n_labels)
    return words + 3 * 8 * own * images + _tile_bytes(gpu)


def _tile_bytes(gpu: bool) -> int:
    return TILES * (GPU_TILE_BYTES if gpu else TILE_BYTES)

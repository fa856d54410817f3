"""Words of two runs matched by what they cover: overlap of their word maps on the images that both runs have."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.optimize import linear_sum_assignment

from workflows.errors import RunFolderError
from workflows.plan.run_plan import LayerPlan
from workflows.run import Run
from workflows.site.chunks import significant
from workflows.words.word_maps import has_maps, read_words

IMAGES = 2000
"""Common validation images that are compared, spread evenly."""

_AT_ONCE = 100

Ids = Int[np.ndarray, " n"]


def match_words(run: Run, beside: Run) -> dict[str, Any]:
    """The best one-to-one matching of the words of each layer, by the sum of their overlaps (Hungarian method).

    Overlap of two words: positions that both cover over positions that one of them covers, on the same images. Layers
    are matched by name, or, where the networks share no names, from the output downwards. A map of another size is read
    at the nearest position.

    Raises:
        RunFolderError: the runs have no validation image in common, or one of them has no word maps.
    """
    own, other = common_images(run, beside)
    scopes = [(one, two) for one in run.scopes() for two in beside.scopes() if one == two]
    scopes = scopes or [(run.scopes()[0], beside.scopes()[0])]
    layers = [
        _matched_layer(run, beside, own, other, scope, pair)
        for scope in scopes
        for pair in _layer_pairs(run.plan.layers, beside.plan.layers)
    ]
    return {"images": len(own), "layers": layers}


def common_images(run: Run, beside: Run) -> tuple[Ids, Ids]:
    """Ids in both runs of the validation images that they share, at most ``IMAGES``."""
    places = []
    for one in (run, beside):
        rows = one.table("images", ["image", "path", "status"], [("split", "=", "validation"), ("status", "=", "ok")])
        places.append(dict(zip(rows["path"].to_pylist(), rows["image"].to_pylist(), strict=True)))
    shared = [path for path in places[0] if path in places[1]]
    if not shared:
        raise RunFolderError(
            f"--beside: must be a run on some of the same validation images, got {str(beside.folder.root)!r}, which "
            "shares none (images.path); leave it out"
        )
    picked = np.unique(np.linspace(0, len(shared) - 1, min(IMAGES, len(shared))).round().astype(int))
    own, other = (np.array([place[shared[at]] for at in picked], np.int64) for place in places)
    return own, other


def _layer_pairs(own: tuple[LayerPlan, ...], other: tuple[LayerPlan, ...]) -> list[tuple[LayerPlan, LayerPlan]]:
    by_name = {layer.name: layer for layer in other}
    named = [(layer, by_name[layer.name]) for layer in own if layer.name in by_name]
    return named or list(zip(reversed(own), reversed(other), strict=False))


def _matched_layer(
    run: Run, beside: Run, own: Ids, other: Ids, scope: tuple[str, str], pair: tuple[LayerPlan, LayerPlan]
) -> dict[str, Any]:
    both = np.zeros((pair[0].words, pair[1].words), np.int64)
    for first in range(0, len(own), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        left = _maps(run, scope[0], pair[0], own[part])
        right = resized(_maps(beside, scope[1], pair[1], other[part]), left.shape[1:])
        known = (left >= 0) & (right >= 0)
        np.add.at(both, (left[known], right[known]), 1)
    union = both.sum(1)[:, None] + both.sum(0)[None, :] - both
    overlap = np.divide(both, union, out=np.zeros(both.shape), where=union > 0)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    pairs = [
        [int(word), int(match), significant(float(overlap[word, match]))]
        for word, match in zip(rows, columns, strict=True)
        if overlap[word, match] > 0
    ]
    return {"scopes": list(scope), "names": [pair[0].name, pair[1].name], "pairs": pairs}


def _maps(run: Run, scope: str, layer: LayerPlan, images: Ids) -> Int[np.ndarray, "n H W"]:
    if not has_maps(run.folder, scope, layer.name):
        raise RunFolderError(
            f"--beside: both runs must have word maps, got {str(run.folder.root)!r} without those of {layer.name}; "
            "run its stage words"
        )
    first = int(images.min())
    maps = read_words(run.folder, scope, layer.name, first, int(images.max()) + 1).numpy()
    return np.asarray(maps[images - first])


def resized(maps: Int[np.ndarray, "n H W"], size: tuple[int, ...]) -> Int[np.ndarray, "n H W"]:
    """Maps at the nearest positions of another size."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, maps.shape[1:], strict=True))
    return maps[:, rows[:, None], columns[None, :]]

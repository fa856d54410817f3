"""Words of each class that look like a shortcut and are used: a table, a figure and the first three for people.

All is made of word_effects.parquet and the word maps: of an answer that is there it takes no pass of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.trust.shortcuts import PlaceCounts, positional_entropy, rank_shortcuts
from workflows.asking.study import StudyContext
from workflows.data.boxes import OBJECT
from workflows.plan.run_plan import LayerPlan
from workflows.plan.scope import Scope
from workflows.plan.scopes import read_scopes
from workflows.run import Run
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.studies.trust.shortcut_pictures import draw_shortcuts, shortcut_table
from workflows.words.scope_images import ScopeImages, ranges_of
from workflows.words.word_maps import read_words

SHORTCUTS = "shortcuts"
"""Name of the table and the figure."""

_CELLS = 2**24
"""Counts by class, word and position that are held at once."""

_CONCEPTS = 3
"""Rows of a word in word_concepts at most."""

Word = tuple[str, int, str, int]
"""Scope, class, layer and word."""


def find_shortcuts(study: StudyContext, intervention: str) -> None:
    """Write shortcuts.parquet, draw a figure a scope and print the first words of each class."""
    rows = list(shortcut_rows(study.run, intervention))
    study.write_table(SHORTCUTS, rows)
    figures = draw_shortcuts(study, rows)
    study.asked.console.print(shortcut_table(rows))
    if not study.begun:  # else they are told with the others
        for path in (study.folder.table(SHORTCUTS), *figures):
            study.say(str(path))


def shortcut_rows(run: Run, intervention: str) -> Iterator[dict[str, Any]]:
    """Rows of shortcuts.parquet: the words with a known drop of every class that word_effects.parquet has."""
    effects = [row for row in run.table("word_effects").to_pylist() if row[f"drop_{intervention}"] is not None]
    on_object = shares_on_object(run, map(_word, effects))
    images = ScopeImages(ImageColumns.read(run.folder, 0, run.plan.images))
    for scope in read_scopes(run.folder):
        own = [row for row in effects if row["scope"] == scope.name]
        counted = _counted(run, scope, images, own)
        for label in dict.fromkeys(row["class"] for row in own):
            rows = [
                {**row, **counted[_word(row)], "share_on_object": on_object.get(_word(row))}
                for row in own
                if row["class"] == label
            ]
            yield from _ranked(rows, intervention)


def _word(row: Mapping[str, Any]) -> Word:
    return row["scope"], row["class"], row["layer"], row["word"]


def _ranked(rows: Sequence[dict[str, Any]], intervention: str) -> Iterator[dict[str, Any]]:
    """Of one class. rows: of word_effects.parquet, with what was counted."""
    drop, control = f"drop_{intervention}", f"control_{intervention}"
    columns = "log_ratio", "positional_entropy", drop, control, "share_on_object"
    found = rank_shortcuts(*(_values(rows, name) for name in columns))
    kept = ("scope", "class", "class_name", "layer", "is_cut", "word", "in_graph", "columns")
    counted = ("image_share", "other_share", "log_ratio", "positional_entropy", "share_on_object", "images")
    for at, row in enumerate(rows):
        yield {
            **{name: row[name] for name in (*kept, *counted)},
            **{end: row[end.replace("drop", drop)] for end in ("drop", "drop_low", "drop_high")},
            "control": row[control],
            "intervention": intervention,
            "rank": int(found.rank[at]),
            "used": None if row[control] is None else bool(found.used[at]),
            "looks": float(found.looks[at]),
            "weight": float(found.weight[at]),
        }


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> Float[Tensor, " W"]:
    return torch.tensor([math.nan if row[name] is None else row[name] for row in rows], dtype=torch.float64)


def _counted(
    run: Run, scope: Scope, images: ScopeImages, rows: Sequence[Mapping[str, Any]]
) -> dict[Word, dict[str, Any]]:
    """What the word maps of the scope's validation images say of the words of some rows."""
    members = images.members(scope)
    members = members[(members >= run.plan.train_images) & (images.predicted(members) >= 0)]
    classes, found = list(dict.fromkeys(row["class"] for row in rows)), dict[Word, dict[str, Any]]()
    for layer in run.plan.layers:
        some = max(1, _CELLS // (layer.words * layer.positions))
        for first in range(0, len(classes), some):
            block = classes[first : first + some]
            counts = count_places(run, scope.name, layer, members, images.predicted(members), block)
            own = [row for row in rows if row["layer"] == layer.name and row["class"] in block]
            found |= _of_words(counts, own, block)
    return found


def count_places(
    run: Run,
    scope: str,
    layer: LayerPlan,
    members: Int[np.ndarray, " n"],
    predicted: Int[np.ndarray, " n"],
    classes: Sequence[int],
) -> PlaceCounts:
    """A group for each class, and one for all other images. members: ascending ids; predicted: what they are called."""
    groups = np.full(len(members), len(classes))
    for place, label in enumerate(classes):
        groups[predicted == label] = place
    extract, total = run.settings.extract, PlaceCounts.zero(len(classes) + 1, layer.words, layer.positions)
    for first, stop in ranges_of(members, extract.images_per_shard, extract.images_per_chunk):
        own = (members >= first) & (members < stop)
        maps = read_words(run.folder, scope, layer.name, first, min(stop, run.plan.images))[members[own] - first]
        total += PlaceCounts.from_batch(torch.from_numpy(groups[own]), maps, len(classes) + 1, layer.words)
    return total


def _of_words(
    counts: PlaceCounts, rows: Sequence[Mapping[str, Any]], classes: Sequence[int]
) -> Iterator[tuple[Word, dict[str, Any]]]:
    ratios, shares, others = counts.log_ratios(), counts.shares(), counts.other_shares()
    for row in rows:
        at = classes.index(row["class"]), row["word"]
        other = float(others[at])
        yield (
            _word(row),
            {
                "image_share": float(shares[at]),
                "other_share": None if math.isnan(other) else other,
                "log_ratio": float(ratios[at]),
                "positional_entropy": float(positional_entropy(counts.places[at])),
                "images": int(counts.images[at[0]]),
            },
        )


def shares_on_object(run: Run, words: Iterable[Word]) -> dict[Word, float]:
    """What the tables of `boxes`, or else of `dissect`, know of words on the object of their class."""
    return {**_in_masks(run, words), **_in_boxes(run)}


def _in_boxes(run: Run) -> dict[Word, float]:
    """Share of positions in Omega."""
    if not run.folder.table("boxes").exists():
        return {}
    rows = run.table("boxes", filters=[("part", "=", OBJECT), ("source", "=", "validation")]).to_pylist()
    return {
        (row["scope"], GraphId.parse(row["graph"]).number, row["layer"], row["word"]): row["share"]
        for row in rows
        if row["word"] is not None and row["share"] is not None
    }


def _in_masks(run: Run, words: Iterable[Word]) -> dict[Word, float]:
    """Share of the word's pixels in the masks of a concept that is called as the class, from IoU and areas.

    A word has rows of its best concepts that it meets: where it has fewer than are kept, it meets no other. Of a word
    with all of them nothing is known of the rest.
    """
    if not run.folder.table("word_concepts").exists():
        return {}
    met: dict[tuple[str, str, int], dict[str, Mapping[str, Any]]] = {}
    for row in run.table("word_concepts").to_pylist():
        met.setdefault((row["scope"], row["layer"], row["word"]), {})[row["concept"].casefold()] = row
    concepts = {concept for of_word in met.values() for concept in of_word}
    layers = {(scope, layer) for scope, layer, _ in met}
    found = {}
    for word in words:
        scope, label, layer, number = word
        name, own = run.plan.class_names[label].casefold(), met.get((scope, layer, number), {})
        if name in own:
            found[word] = _covered(own[name])
        elif name in concepts and (scope, layer) in layers and len(own) < _CONCEPTS:
            found[word] = 0.0
    return found


def _covered(row: Mapping[str, Any]) -> float:
    """Intersection over the word's area. row: of word_concepts."""
    both = row["mask_share"] + row["concept_share"]
    return min(1.0, row["iou"] * both / (1 + row["iou"]) / row["mask_share"])

"""Runs on the same images: what they are called, which images and classes they share, what does not fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from workflows.asking.study import Asked, refuse_unfinished, refuse_without_outputs
from workflows.errors import DataError, SettingsError
from workflows.plan.requests import ALL, chosen_classes
from workflows.plan.run_plan import plan_path
from workflows.plan.scopes import JOINT, joint_scope, read_scopes
from workflows.run import Run, open_run
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.names import GraphId

AGREE = "agree"

_SAME = ("label", "file_size", "file_etag")
"""Columns of images.parquet that must not differ where both runs know them."""

Chosen = dict[int, dict[str, list[int]]]
"""Words of the graph of a class, by class and layer, best first."""


@dataclass(frozen=True, eq=False)
class SharedImages:
    """Validation images that all runs have.

    Attributes:
        ids: (n, R) of each image in every run; ascending in the first.
        predicted: (n,) the class that all runs predict; -1: they do not agree.
    """

    ids: Int[np.ndarray, "n R"]
    predicted: Int[np.ndarray, " n"]

    def among(self, images: Int[np.ndarray, " m"]) -> SharedImages:
        """Those whose id in the first run is one of ``images``."""
        rows = np.isin(self.ids[:, 0], images)
        return SharedImages(self.ids[rows], self.predicted[rows])


def open_runs(asked: Asked, others: Sequence[Path], scope: str) -> list[Run]:
    """The run that is asked, and those that it is compared with.

    Raises:
        SettingsError: fewer than two runs, one of them twice, one without outputs or without the scope.
        DataError: their classes differ. RunFolderError: one is unfinished.
    """
    runs = [asked.run(), *map(open_run, others)]
    roots = [run.folder.root.resolve() for run in runs]
    twice = [str(root) for root, count in Counter(roots).items() if count > 1]
    if len(runs) < 2 or twice:
        got = f"{twice[0]!r} twice" if twice else f"{str(roots[0])!r} alone"
        raise SettingsError(f"{AGREE}: must be told at least two run folders, each once, got {got}; name another run")
    for run in runs:
        refuse_without_outputs(run.settings, AGREE, "compares graphs of classes")
        refuse_unfinished(run, AGREE, "mine")
        if scope not in run.scopes():
            raise SettingsError(
                f"--scope: must be a scope of every run, got {scope!r}, which {str(run.folder.root)!r} has not; it has "
                f"{', '.join(run.scopes()[:10])}"
            )
        if run.classes() != runs[0].classes():
            raise DataError(
                f"{AGREE}: must be told runs with the same class_names (plan.json), got others in "
                f"{str(run.folder.root)!r} than in {str(roots[0])!r}; compare runs of networks with the same outputs"
            )
    return runs


def run_names(runs: Sequence[Run]) -> list[str]:
    """Of their folders; where two are called the same, with the folder above them."""
    roots = [run.folder.root.resolve() for run in runs]
    names = Counter(root.name for root in roots)
    return [root.name if names[root.name] == 1 else f"{root.parent.name}/{root.name}" for root in roots]


def stands_on(runs: Sequence[Run]) -> list[Path]:
    """Files that an answer stands on, beside those that every study does; words.parquet tells word maps apart."""
    tables = [run.folder.table(name) for run in runs for name in ("nodes", "words")]
    others = [path for run in runs[1:] for path in (plan_path(run.folder), run.folder.images_table)]
    return tables + others


def shared_images(runs: Sequence[Run], scope: str) -> SharedImages:
    """Images of S_V of every run and scope, by their path.

    Raises:
        DataError: there is none, or one of them is another image or has another label in some run.
    """
    rows = [_validation_rows(run, scope) for run in runs]
    paths = [path for path in rows[0] if all(path in one for one in rows)]
    if not paths:
        raise DataError(
            f"{AGREE}: must be told runs that have validation images in common, got none (path in images.parquet); "
            f"{str(runs[0].folder.root)!r} has {len(rows[0])}; compare runs on the same images"
        )
    for run, one in zip(runs[1:], rows[1:], strict=True):
        _refuse_others(run, rows[0], one, paths)
    predicted = np.array([[one[path]["predicted"] for one in rows] for path in paths], np.int64)
    ids = np.array([[one[path]["image"] for one in rows] for path in paths], np.int64)
    return SharedImages(ids, np.where((predicted == predicted[:, :1]).all(axis=1), predicted[:, 0], -1))


def _validation_rows(run: Run, scope: str) -> dict[str, dict[str, Any]]:
    """By path, ascending ids: rows of the scope's S_V that could be read."""
    filters = [("split", "=", "validation"), ("status", "=", "ok")]
    table = run.table("images", ["image", "path", "predicted", *_SAME], filters)
    every = [joint_scope(run.plan)] if scope == JOINT else read_scopes(run.folder)
    own = next(one for one in every if one.name == scope)
    kept = own.contains(table["label"].fill_null(-1).to_numpy().astype(np.int64))
    return {row["path"]: row for row, keep in zip(table.to_pylist(), kept.tolist(), strict=True) if keep}


def _refuse_others(
    run: Run, first: Mapping[str, dict[str, Any]], other: Mapping[str, dict[str, Any]], paths: Sequence[str]
) -> None:
    for path in paths:
        for name in _SAME:
            one, two = first[path][name], other[path][name]
            if one != two and None not in (one, two):
                raise DataError(
                    f"{AGREE}: must be told runs on the same images, got {path!r} with {name} {two!r} in "
                    f"{str(run.folder.root)!r} instead of {one!r}; index both runs anew from the same files"
                )


def graph_words(run: Run, scope: str) -> Chosen:
    """Words of the class graphs of a run, the paper's (criterion ``likelihood``)."""
    filters = [("scope", "=", scope), ("criterion", "=", LIKELIHOOD)]
    found: Chosen = {}
    for row in run.table("nodes", ["graph", "layer", "word", "rank"], filters).sort_by("rank").to_pylist():
        graph = GraphId.parse(row["graph"])
        if not graph.is_image:
            found.setdefault(graph.number, {}).setdefault(row["layer"], []).append(row["word"])
    return found


def shared_classes(runs: Sequence[Run], asked: Sequence[str], known: Sequence[Chosen]) -> list[int]:
    """Ids of the classes whose graphs are compared, ascending.

    Raises:
        DataError: no such class, one of which some run has no graph, or none of which all have one.
    """
    common = set(known[0]).intersection(*known[1:])
    names = runs[0].classes()
    drawn = np.array(sorted(set().union(*known)), np.int64)
    chosen = chosen_classes(asked, names, drawn)[0] if asked and ALL not in asked else sorted(common)
    lacking = [label for label in chosen if label not in common]
    if lacking or not chosen:
        what = f"{names[lacking[0]]!r}, of which some run has none" if lacking else "none"
        raise DataError(
            f"--class: must be a class whose graph every run has, got {what}; ask the runs for it with mine.classes"
        )
    return chosen

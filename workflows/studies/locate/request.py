"""What the study is asked, and what that is in a run: objects, where the part is on some of them, sets of three."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from gmm_ops.explanatory.and_or_graph import ANNOTATIONS
from workflows.asking.pattern_files import PatternFiles, Top, TurnedObjects
from workflows.asking.registry import STUDIES
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.plan.requests import class_id
from workflows.run import Run
from workflows.storage.study_folder import StudyFolder
from workflows.studies.locate.annotations import read_annotations

Voter = Literal["patterns", "peaks", "words"]


@dataclass(frozen=True)
class LocateRequest:
    """What the command is told.

    Attributes:
        class_name: name or id of the class whose objects are looked at.
        part: that is looked for.
        annotations: a CSV file, see ``read_annotations``; None: drawn from the objects whose part is boxed.
        triples: sets of three that are drawn.
        voters: who votes.
        top: whose patterns vote; None: the first that was asked for.
        layers: whose voters vote: layers with patterns, or with words; none of a kind: all layers with patterns, one
            with words, see ``asked_dictionaries``.
        scope: of the dictionary; None: the first that explains the class.
        words: instead, dictionaries of so many words are learned from the objects.
    """

    class_name: str
    part: str
    annotations: Path | None = None
    triples: int = 10
    voters: tuple[Voter, ...] = ("patterns", "peaks")
    top: Top | None = None
    layers: tuple[str, ...] = ()
    scope: str | None = None
    words: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises SettingsError: values that cannot be."""
        for name, kind, values in (("voters", Voter, self.voters), ("top", Top, (self.top,) if self.top else ())):
            for value in values:
                if value not in get_args(kind):
                    raise SettingsError(f"--{name}: must be {', '.join(get_args(kind))}, got {value!r}; take one")
        if not self.voters:
            raise SettingsError("--voters: must be one at least, got none; patterns are the paper's")
        if self.triples < 1:
            raise SettingsError(f"--triples: must be at least 1, got {self.triples}; 10 show the spread")
        for option in ("scope", "words"):
            if getattr(self, option) and "words" not in self.voters:
                raise SettingsError(f"--{option}: must go with --voters words, got {', '.join(self.voters)}; add it")
        if self.scope and self.words:
            raise SettingsError(
                f"--words: must be left out with --scope, got both ({self.scope}): words are the run's or the objects'"
            )
        if self.words and (min(self.words) < 2 or len(set(self.words)) < len(self.words)):
            told = ", ".join(map(str, self.words))
            raise SettingsError(f"--words: must be different numbers of at least 2, got {told}; 60 is a good begin")


@dataclass(frozen=True, eq=False)
class Annotated:
    """A set of objects on which the part is known, each of which becomes a template.

    Attributes:
        rows: (A,) objects.
        parts: (A, 2) row and column on the turned object, in its sides.
    """

    rows: Int[np.ndarray, " A"]
    parts: Float[np.ndarray, "A 2"]


@dataclass(frozen=True, eq=False)
class Sought:
    """A part that is looked for on the objects of a class.

    Attributes:
        network: name of the run.
        label, class_name: of the class.
        part: its name.
        files: what ``patterns`` keeps of the class.
        turned: the objects.
        known: (n, 2) middle of the part on the turned object; NaN where it is not known.
        sets: annotated objects.
    """

    network: str
    label: int
    class_name: str
    part: str
    files: PatternFiles
    turned: TurnedObjects
    known: Float[np.ndarray, "n 2"]
    sets: tuple[Annotated, ...]

    @property
    def learn(self) -> str:
        """Photos that patterns were learned from, as ``patterns --learn`` calls them."""
        learned = self.turned.learned
        return "all" if learned.all() else "even" if learned[0] else "odd"

    def tested(self, one: Annotated) -> Bool[np.ndarray, " n"]:
        """Objects whose error counts: not annotated, not learned from where others were not, their part known."""
        judged = np.isin(np.arange(len(self.known)), self.turned.judged())
        judged[one.rows] = False
        return np.asarray(judged & ~np.isnan(self.known).any(axis=1))


def sought_part(run: Run, request: LocateRequest) -> Sought:
    """What is asked, of the run.

    Raises:
        RunFolderError: ``patterns`` was not asked for the class, or is unfinished or stale.
        DataError: no object has the part, too few are annotated, or an annotation that cannot be.
    """
    label = class_id(request.class_name, run.plan.class_names, "--class")
    name = run.plan.class_names[label]
    files = _finished(run, label, name)
    turned = files.objects()
    if request.top is not None and request.top not in files.attributes()["tops"]:
        learned = ", ".join(files.attributes()["tops"])
        raise DataError(f"--top: must be one that patterns was asked for, got {request.top!r}; there is {learned}")
    if request.annotations is None:
        known = _boxed(turned, request, name)
        sets = _drawn(known, turned, request, run.settings.seed)
    else:
        known = part_middles(turned, request.part)
        sets = (_told(run, turned, request.annotations, name),)
    return Sought(run.settings.name, label, name, request.part, files, turned, known, sets)


def _finished(run: Run, label: int, name: str) -> PatternFiles:
    files, again = PatternFiles.of(run.folder, label), f"inference-graphs patterns {run.folder.root} --class {name!r}"
    if not (files.root / "objects.zarr").exists():
        raise RunFolderError(
            f"locate: must have the patterns of class {name!r}, got a run that was not asked for them; give first: "
            f"{again} --objects BOXES.csv"
        )
    state = StudyFolder(run.folder, STUDIES["patterns"]).state()
    if state.state in ("partial", "stale"):
        changed = f", for {', '.join(state.changed)} changed since" if state.changed else ""
        raise RunFolderError(
            f"locate: must have finished patterns, got {state.state} ones{changed}; give again: {again}"
        )
    return files


def layers_by_kind(files: PatternFiles, request: LocateRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers whose patterns or peaks vote, all where none is asked for, and names of those whose words do.

    Raises:
        SettingsError: a layer without patterns, where no words vote.
    """
    every = tuple(layer.name for layer in files.layers())
    chosen = tuple(name for name in every if name in request.layers)
    others = tuple(name for name in request.layers if name not in every)
    if others and "words" not in request.voters:
        raise SettingsError(
            f"--layer: must be a layer with patterns, got {others[0]!r}; there is {', '.join(every)}; layers with "
            "words go with --voters words"
        )
    return chosen or every, others


def part_middles(turned: TurnedObjects, part: str) -> Float[np.ndarray, "n 2"]:
    """Middle of the part's box on every turned object, in its sides; NaN where there is none."""
    objects = turned.objects
    if part not in objects.parts:
        return np.full((len(objects), 2), np.nan)
    boxes = objects.part_boxes(turned.signs)[:, list(objects.parts).index(part)]
    middles: np.ndarray = (boxes[:, :2] + boxes[:, 2:]) / 2
    return middles


def _boxed(turned: TurnedObjects, request: LocateRequest, name: str) -> Float[np.ndarray, "n 2"]:
    known = part_middles(turned, request.part)
    if np.isnan(known).all():
        there = ", ".join(turned.objects.parts) or "none"
        raise DataError(
            f"--part: must be a part that an object of {name!r} has, got {request.part!r}; its boxes name {there}; "
            f"where none is boxed, give a file with three annotated places to --annotations"
        )
    return known


def _drawn(
    known: Float[np.ndarray, "n 2"], turned: TurnedObjects, request: LocateRequest, seed: int
) -> tuple[Annotated, ...]:
    """Three objects at a time of those that patterns were learned from, the same for all voters."""
    rows = np.flatnonzero(~np.isnan(known).any(axis=1) & turned.learned)
    if len(rows) < ANNOTATIONS:
        raise DataError(
            f"--annotations: must have {ANNOTATIONS} objects with the part {request.part!r} to draw from, got "
            f"{len(rows)} that patterns were learned from; box the part on others, or give a file"
        )
    generator = np.random.default_rng(seed)
    drawn = [np.sort(generator.choice(rows, ANNOTATIONS, replace=False)) for _ in range(request.triples)]
    return tuple(Annotated(some, known[some]) for some in drawn)


def _told(run: Run, turned: TurnedObjects, path: Path, name: str) -> Annotated:
    found = read_annotations(run, turned, path, name)
    if len(found) < ANNOTATIONS:
        raise DataError(
            f"annotations {str(path)!r}: must be of at least {ANNOTATIONS} objects, got {len(found)}; annotate the "
            "part on another object"
        )
    rows = np.array(sorted(found), np.int64)
    points = np.array([found[row] for row in rows.tolist()])
    return Annotated(rows, turned.objects.on_object(rows, points, turned.signs))


def content_of(files: PatternFiles) -> str:
    """Hash of objects and patterns: another one where ``patterns`` has answered otherwise."""
    roots: Sequence[Path] = [files.root / "objects.zarr", *sorted(files.root.glob("*/*/patterns.zarr"))]
    seen = hashlib.sha256()
    for path in (one for root in roots for one in sorted(root.rglob("*")) if one.is_file()):
        seen.update(str(path.relative_to(files.root)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return seen.hexdigest()[:16]

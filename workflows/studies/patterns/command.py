"""Which parts of objects units show, and how they move together (EG): learns patterns, places and judges them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.asking.pattern_files import PatternedLayer
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.data.boxes import BoxRow
from workflows.errors import DataError
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.requests import ALL, chosen_classes
from workflows.report.lettering import short_name
from workflows.report.numbers import duration
from workflows.run import Run
from workflows.storage.images_table import ImageColumns
from workflows.storage.study_folder import place_of
from workflows.storage.tables import join_parts, read_table, to_table
from workflows.studies.patterns.answers import answer, joined_tables
from workflows.studies.patterns.figures import draw_figures
from workflows.studies.patterns.placed_words import check_scope, lacking_words
from workflows.studies.patterns.request import (
    PatternsRequest,
    TooFewObjects,
    asked_layers,
    class_objects,
    matched_boxes,
)
from workflows.studies.patterns.subject import Subject
from workflows.studies.patterns.synthesis import WEIGHTS, Pictures, synthesis_layer

PATTERNS = "patterns"

_SECONDS = 1.6e-9
"""Of one pattern, position and iteration in EM: measured, to tell how long it will take."""


def run_patterns(asked: Asked, request: PatternsRequest) -> dict[str, Any]:
    """Write the tables, arrays and figures of the study, and print what the patterns are worth.

    Returns:
        The summary.

    Raises:
        SettingsError, NetworkError, DataError, RefusedInput: a request that cannot be. RunFolderError: see
            ``open_study``.
    """
    run = asked.run()
    layers = asked_layers(run, _network(run), request)
    lines = matched_boxes(run, request)
    check_scope(run, request.scope)
    others = ("boxes", "layers", "synthesis", "synthesis_layer", "scope")
    plain = {name: value for name, value in asdict(request).items() if name not in others}
    plain |= {
        "objects": place_of(run.folder, request.boxes),
        "layers": [f"{one.name}:{one.patterns}" for one in layers],
    }
    plain |= {"synthesis": synthesis_layer(layers, request.synthesis_layer).name} if request.synthesis else {}
    reads: list[str | Path] = [request.boxes]
    if not lacking_words(run):
        plain |= {"words": request.scope or "first scope"}
        reads += ["words", "edges"]
    after = "train" if run.settings.training is not None else "index"
    with open_study(PATTERNS, asked, plain, after=after, reads=reads) as study:
        if not request.layers:
            study.say(f"layers: {', '.join(plain['layers'])} (name:patterns of a unit)")
        subjects = _subjects(study, request, layers, lines)
        pictures = Pictures(study, subjects) if request.synthesis and not study.done else None
        photos = None if pictures is None else pictures.photos
        crops = [*(one.crops for one in subjects), *([] if photos is None else [photos])]
        items = sum(one.jobs() for one in subjects) + request.synthesis
        if study.begin(*(one.phase for one in crops), items=items):
            _announce(study, subjects)
            _answer(study, subjects, pictures)
        labels = [one.label for one in subjects]
        for shown in (_measures(study, labels), *_words(study, labels)):
            asked.console.print(shown)
    return study.summary()


def _answer(study: StudyContext, subjects: Sequence[Subject], pictures: Pictures | None) -> None:
    kept = {one.files.root for one in subjects}
    for earlier in study.own.root.glob("class-*"):
        if earlier not in kept:
            shutil.rmtree(earlier)
    answers = []
    for subject in subjects:
        answers.append(answer(subject))
        draw_figures(subject, answers[-1].learned)
    if pictures is None:
        (study.own.root / WEIGHTS).unlink(missing_ok=True)
    shown = [] if pictures is None else pictures.paint([one.learned for one in answers])
    parts = [path for one in sorted(subjects, key=lambda one: one.label) for path in one.place_parts()]
    join_parts(study.folder.table("pattern_places"), parts, "pattern_places")
    for name in study.own.study.tables:
        if name == "pattern_places":
            continue
        known = [one.tables[name] for one in answers if name in one.tables]
        table = joined_tables(name, known or [to_table(shown, name)])
        study.write_table(name, table.set_column(table.column_names.index("network"), "network", _named(study, table)))
    study.tell(classes=[one.told for one in answers])


def _named(study: StudyContext, table: pa.Table) -> pa.Array:
    return pa.array([study.settings.name] * len(table), pa.string())


def _network(run: Run) -> UnitNetwork:
    plan, settings = run.plan, run.settings
    shape = settings.preprocessing.channels, plan.input_height, plan.input_width
    return UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting)


def _subjects(
    study: StudyContext, request: PatternsRequest, layers: tuple[PatternedLayer, ...], lines: dict[int, list[BoxRow]]
) -> list[Subject]:
    """Of every class that is asked for; ``all`` leaves out, and tells, those with too few objects."""
    found = []
    for label in _classes(study, lines, request):
        try:
            found.append(Subject(study, request, layers, label, class_objects(study, lines, label, layers)))
        except TooFewObjects as few:
            if ALL not in request.classes:
                raise
            study.say(f"left out: {few}")
    if not found:
        raise DataError("--class all: must have a class with enough objects, got none; see above")
    return found


def _classes(study: StudyContext, lines: dict[int, list[BoxRow]], request: PatternsRequest) -> list[int]:
    images = ImageColumns.read(study.folder, 0, study.plan.images)
    labels = images.classes
    if ALL in request.classes:  # of those that have objects
        labels = np.where(np.isin(np.arange(len(labels)), list(lines)), labels, -1)
    classes, _ = chosen_classes(request.classes, study.plan.class_names, labels)
    return classes


def _announce(study: StudyContext, subjects: Sequence[Subject]) -> None:
    seconds = _SECONDS * sum(one.work() for one in subjects)
    actors = study.pool(sum(one.jobs() for one in subjects)).n_actors
    objects = sum(len(one.objects) for one in subjects)
    told = f"then patterns of {objects:,} objects in about {duration(seconds / actors)} on {actors} actors"
    study.say(f"{PATTERNS}: {told}")


_MEASURES = ("stability", "follow", "purity", "place_purity")
_WORDS = ("share", "log_ratio", "part_log_ratio")
_EDGES = ("pairs", "in_graph", "log_ratio", "log_ratio_difference")


def _measures(study: StudyContext, classes: Sequence[int]) -> Table:
    """What the patterns are worth, a line a layer and source."""
    keys = {"layer": "layer", "top": "top", "source": "source", "part": "near"}
    named = {"place_purity": "in part"}
    return _shown(study, "pattern_measures", classes, keys, {name: named.get(name, name) for name in _MEASURES})


def _words(study: StudyContext, classes: Sequence[int]) -> Iterator[Table]:
    """Words at the patterns, and those of linked patterns; nothing where the run has no words."""
    keys = {"layer": "layer", "word_layer": "words of", "top": "top", "source": "words at", "part": "near"}
    if read_table(study.folder.table("pattern_word_measures"), ["class"], [("class", "in", list(classes))]):
        named = {name: name.replace("_", " ") for name in _WORDS}
        yield _shown(study, "pattern_word_measures", classes, keys, named)
        keys = {"layer": "layer", "parent_layer": "parents in", "top": "top", "source": "words of pairs"}
        named = {name: name.replace("_", " ") for name in _EDGES}
        yield _shown(study, "pattern_edge_words", classes, keys, named)


def _shown(
    study: StudyContext, name: str, classes: Sequence[int], keys: Mapping[str, str], values: Mapping[str, str]
) -> Table:
    """A table of some classes, its columns by what they are called for people."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("class", *keys.values()):
        shown.add_column(column, justify="left", overflow="fold")
    for column in values.values():
        shown.add_column(column, justify="right", overflow="ellipsis")
    for row in read_table(study.folder.table(name), filters=[("class", "in", list(classes))]).to_pylist():
        texts = (short_name(study.plan.class_names[row["class"]]), *(row[key] or "" for key in keys))
        shown.add_row(*map(Text, texts), *(_number(row[column]) for column in values))
    return shown


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

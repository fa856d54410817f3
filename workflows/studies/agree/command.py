"""How far do runs agree: asks the word maps of all of them, writes the tables, draws the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.asking.image_parts import Phase
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.run import Run
from workflows.storage.names import JOINT
from workflows.storage.study_folder import place_of
from workflows.storage.tables import read_table
from workflows.studies.agree.compared_runs import (
    AGREE,
    graph_words,
    open_runs,
    run_names,
    shared_classes,
    shared_images,
    stands_on,
)
from workflows.studies.agree.figures import draw_figures
from workflows.studies.agree.rows import (
    LayerAgreement,
    agreement_rows,
    consensus_rows,
    layer_agreements,
    match_rows,
    means_by_layer,
)
from workflows.studies.agree.worker import AgreementPart, AgreementWorker, Subject, compared_layer
from workflows.words.matched_words import paired_layers

_NUMBER = 8
"""Bytes of a sum."""


@dataclass(frozen=True)
class AgreeRequest:
    """What is asked.

    Attributes:
        others: folders of the runs that the asked one is compared with.
        scope: whose words and graphs.
        classes: names or ids, or ``all``; none: all whose graph every run has.
    """

    others: tuple[Path, ...]
    scope: str = JOINT
    classes: tuple[str, ...] = ()


def run_agree(asked: Asked, request: AgreeRequest) -> dict[str, Any]:
    """Write agreement, word_matches and consensus, a figure over all layers and a graph for each class.

    Returns:
        The summary.

    Raises:
        RunError: as ``open_study``; runs that are no two, unfinished, or on other images or classes.
    """
    runs = open_runs(asked, request.others, request.scope)
    names = run_names(runs)
    told = {
        "runs": [place_of(runs[0].folder, run.folder.root) for run in runs[1:]],
        "scope": request.scope,
        "classes": list(request.classes),
    }
    with open_study(AGREE, asked, told, after="mine", reads=stands_on(runs)) as study:
        subject = _subject(study, runs, names, request)
        phase = Phase("overlaps", subject.shared.ids[:, 0], passes=0.0, part_bytes=_part_bytes(study, subject))
        if study.begin(phase):
            _answer(study, runs, subject, phase)
            draw_figures(study, request.scope, names[0])
        study.asked.console.print(_table(read_table(study.folder.table("agreement")).to_pylist(), runs[0]))
    return study.summary()


def _subject(study: StudyContext, runs: Sequence[Run], names: Sequence[str], request: AgreeRequest) -> Subject:
    known = [graph_words(run, request.scope) for run in runs]
    classes = shared_classes(runs, request.classes, known)
    shared = shared_images(runs, request.scope)
    own = [run.plan.images - run.plan.train_images for run in runs]
    if set(own) != {len(shared.ids)}:
        counts = ", ".join(f"{count:,}" for count in own)
        study.say(f"{AGREE}: {len(shared.ids):,} validation images are in all runs, which have {counts}: they alone")
    shared = shared.among(study.choose_images(among=shared.ids[:, 0]))
    present = [_present(run, request.scope) for run in runs]
    pairs = paired_layers([run.plan.layers for run in runs])
    layers = tuple(compared_layer(pair, known, present, classes, study.settings.seed) for pair in pairs)
    return Subject(request.scope, tuple(names), tuple(classes), layers, shared)


def _present(run: Run, scope: str) -> dict[str, list[int]]:
    """By layer, words with a training column."""
    table = run.table("words", ["layer", "word"], [("scope", "=", scope), ("columns", ">", 0)])
    return {
        layer: table.filter(pc.equal(table["layer"], layer))["word"].to_pylist()
        for layer in table["layer"].unique().to_pylist()
    }


def _part_bytes(study: StudyContext, subject: Subject) -> int:
    longest = max(map(len, study.shards(Phase("", subject.shared.ids[:, 0]))), default=0)
    total = 0
    for layer in subject.layers:
        classes, runs, rows, top = layer.choices.chosen.shape
        sizes = np.array(layer.choices.sizes)
        of_words = (sizes.sum() ** 2 - (sizes**2).sum()) / 2  # over all pairs of runs
        total += 2 * int(of_words) + runs**2 * (longest + classes * (rows - 1)) + classes * runs * top * (1 + 2 * runs)
    return _NUMBER * total


def _answer(study: StudyContext, runs: Sequence[Run], subject: Subject, phase: Phase) -> None:
    places = {"folders": [run.folder for run in runs], "extracts": [run.settings.extract for run in runs]}
    part = study.map_parts(phase, AgreementWorker, **places, subject=subject).sum(AgreementPart)
    found = layer_agreements(part, subject, study.plan.class_names, study.settings.seed)
    rows = [row for own in found for row in agreement_rows(own)]
    study.write_table("agreement", rows)
    study.write_table("word_matches", [row for own in found for row in match_rows(own)])
    study.write_table("consensus", _in_order(found))
    study.tell(runs=list(subject.names), images=len(part.images), classes=len(subject.classes))
    study.tell(layers=means_by_layer(rows))


def _in_order(found: Sequence[LayerAgreement]) -> list[dict[str, Any]]:
    """Nodes run by run; of a run from the top layer down, as nodes.parquet has them."""
    rows = [row for own in found[::-1] for row in consensus_rows(own)]
    return sorted(rows, key=lambda row: found[0].subject.names.index(row["run"]))


def _table(rows: Sequence[Mapping[str, Any]], run: Run) -> Table:
    """By layer, means over classes and pairs of runs, chance in brackets."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    titles = {layer.name: layer.given for layer in run.plan.layers}
    for name in ("layer", "words: IoU > .5", "words: IoU", "graph words matched", "columns covered: IoU"):
        shown.add_column(name, justify="left" if name == "layer" else "right")
    for row in means_by_layer(rows):
        shown.add_row(
            Text(titles[row["layer"]]),
            _number(row["all_words_same_share"]),
            _beside(row["all_words_word_iou"], row["all_words_word_iou_chance"]),
            _beside(row["matched_share"], row["matched_chance"]),
            _beside(row["columns_iou"], row["columns_shuffled"]),
        )
    return shown


def _beside(value: float | None, chance: float | None) -> str:
    return f"{_number(value)} ({_number(chance)})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

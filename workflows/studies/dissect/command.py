"""Which concepts do units and words detect? Thresholds, overlaps with masks, unions, names of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from gmm_ops.units.code_histograms import CODES, CodeHistograms, Thresholds
from workflows.asking.image_parts import Parts, Phase
from workflows.asking.run_masks import masks_of_run, masks_place
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.data.masks.concept_masks import MaskSet
from workflows.errors import DataError
from workflows.plan.run_plan import LayerPlan
from workflows.plan.scopes import read_scopes
from workflows.run import Run, open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.states import open_states
from workflows.studies.dissect.figures import draw_compared, draw_figures, keep_strongest
from workflows.studies.dissect.image_maps import are_stored, asked_layers
from workflows.studies.dissect.joined_masks import candidates_of, choose_unions, held_out, some_images
from workflows.studies.dissect.rows import Overlaps, Row, member_columns, unit_rows, word_rows
from workflows.studies.dissect.union_rows import write_unions
from workflows.studies.dissect.union_workers import (
    Candidates,
    ChoosingWorker,
    JudgingWorker,
    choosing_bytes,
    judging_bytes,
)
from workflows.studies.dissect.workers import Dictionary, DissectSums, HistogramWorker, Subject, TallyWorker
from workflows.words.dictionaries import read_dictionary

DISSECT = "dissect"

SHARES = (0.005, 0.01, 0.02, 0.04)
"""q: the paper's first."""

HISTOGRAM_BYTES = 2 * 2**30
"""Of all histograms in the driver, at most; beyond it, codes are counted in eights."""

_WHOLE_IMAGE = ("scene", "texture")
"""Categories of whole images, which say nothing about places."""

_COARSE = 3
_BIN_BYTES, _COUNT_BYTES = 10, 8

_PEEKED = 8
"""Images whose masks are read at once when one with a pixel is looked for."""


Phases = tuple[Phase, Phase, Phase, Phase]


@dataclass(frozen=True)
class DissectRequest:
    """What dissect is asked.

    Attributes:
        masks: ``kind:path``; None: the run's ``data.masks``.
        colours: a table of colour names, see ``MaskSet.with_colours``; None: none.
        layers: names; none: the run's layers that have positions.
        compare: another run, dissected before, whose figures stand beside.
        sheets: concepts to draw a contact sheet of; none: those that are detected best.
    """

    masks: str | None = None
    colours: Path | None = None
    layers: tuple[str, ...] = ()
    compare: Path | None = None
    sheets: tuple[str, ...] = ()


def run_dissect(asked: Asked, request: DissectRequest) -> dict[str, Any]:
    """Write the tables and figures of dissect, and say what was found.

    Asked again it only draws, so that another sheet or run to compare costs little.

    Returns:
        The summary.

    Raises:
        DataError: the masks are missing, damaged, or fit no image of the run. RunFolderError: see ``open_study``.
        SettingsError: no masks are named, or no layer has positions. NetworkError: there is no such layer.
    """
    run = asked.run()
    masks = _masks(run, request, asked)
    layers = asked_layers(run, request.layers)
    for name in request.sheets:
        masks.number(name)
    told = {
        "masks": masks_place(run, masks.source),
        "colours": None if request.colours is None else str(request.colours.resolve()),
        "layers": [layer.name for layer in layers],
    }
    with open_study(DISSECT, asked, told, reads=masks.tables) as study:
        images = study.choose_images(among=masks.images)
        subject = _subject(study, masks, layers, images)
        if not study.done:
            refuse_without_pixels(masks, images.tolist())
        shift = _shift(layers, len(images))
        phases = _phases(study, subject, images, shift)
        if study.begin(*(phase for phase in phases if len(phase.images))):
            _answer(study, subject, phases, shift)
        draw_figures(study, subject, request.sheets)
        if request.compare is not None:
            draw_compared(study, open_run(request.compare))
    return study.summary()


def _masks(run: Run, request: DissectRequest, asked: Asked) -> MaskSet:
    masks = masks_of_run(run, request.masks, lambda text: asked.console.print(text, markup=False, highlight=False))
    masks = masks.without(_WHOLE_IMAGE)
    masks = masks if request.colours is None else masks.with_colours(request.colours)
    if not masks.concepts:
        raise DataError(
            f"{masks.source}: must have concepts that lie somewhere in an image, got none but "
            f"{' and '.join(_WHOLE_IMAGE)}, which hold for whole images; give other masks, or add --colours"
        )
    return masks


def _subject(
    study: StudyContext, masks: MaskSet, layers: Sequence[LayerPlan], images: Int[np.ndarray, " n"]
) -> Subject:
    categories = masks.categories
    category = np.array([categories.index(concept.category) for concept in masks.concepts], np.int64)
    dictionaries = _dictionaries(study, layers)
    judging = images[held_out(images, study.plan.train_images)]
    return Subject(tuple(layers), dictionaries, masks, category, judging)


def _answer(study: StudyContext, subject: Subject, phases: Phases, shift: int) -> None:
    histograms, tally, choosing, judging = phases
    parts = study.map_parts(histograms, HistogramWorker, subject=subject, shift=shift)
    thresholds, moments = _thresholds(parts, subject.layers)
    limits = [one.values for one in thresholds]
    found = study.map_parts(tally, TallyWorker, subject=subject, thresholds=limits).sum(DissectSums)
    _tell_bare(study, subject.masks, found)
    told = _write_tables(study, subject, found, thresholds, moments)
    _answer_unions(study, subject, candidates_of(found, subject, limits), choosing, judging)
    absent = list(subject.masks.absent)
    study.tell(images=len(histograms.images), absent=absent, histogram_shift=shift, layers=told)
    keep_strongest(study, subject, found)


def _answer_unions(
    study: StudyContext, subject: Subject, candidates: Sequence[Candidates], choosing: Phase, judging: Phase
) -> None:
    study.tell(unions=[], unions_chosen_on=len(choosing.images), unions_judged_on=len(judging.images), concepts=0)
    if not len(choosing.images) or not len(judging.images):
        study.write_table("unions", [])
        return
    parts = study.map_parts(choosing, ChoosingWorker, subject=subject, candidates=candidates)
    with open_states(parts.paths) as read:
        chosen = choose_unions(read, subject)
    parts = study.map_parts(judging, JudgingWorker, subject=subject, chosen=chosen.members(candidates))
    write_unions(study, subject, chosen, parts, candidates)


def _dictionaries(study: StudyContext, layers: Sequence[LayerPlan]) -> tuple[Dictionary, ...]:
    known = {layer.name for layer in study.plan.layers}
    return tuple(
        Dictionary(scope, layer.name, len(read_dictionary(study.folder, study.settings, study.plan, layer, scope).pi))
        for layer in layers
        if layer.name in known
        for scope in study.run.scopes()
    )


def _shift(layers: Sequence[LayerPlan], images: int) -> int:
    """0 where all codes can be counted singly."""
    needed = sum(layer.units * min(CODES, images * layer.positions) for layer in layers) * _BIN_BYTES
    return _COARSE if needed > HISTOGRAM_BYTES else 0


def _phases(study: StudyContext, subject: Subject, images: np.ndarray, shift: int) -> Phases:
    passes = 0.0 if are_stored(study.plan, study.folder, subject.layers) else 1.0
    judges = np.isin(images, subject.judging)
    choosing, judging = some_images(images[~judges]), some_images(images[judges])
    long, of_choosing, of_judging = (
        max(map(len, study.shards(Phase("", some))), default=0) for some in (images, choosing, judging)
    )
    bins = sum(layer.units * min(CODES >> shift, long * layer.positions) for layer in subject.layers)
    return (
        Phase("histograms", images, passes, bins * _BIN_BYTES),
        Phase("tally", images, passes, _tally_bytes(subject)),
        Phase("choosing", choosing, passes, choosing_bytes(subject, of_choosing, _copies(study, subject, choosing))),
        Phase("judging", judging, passes, judging_bytes(subject, of_judging, _copies(study, subject, judging))),
    )


def _tally_bytes(subject: Subject) -> int:
    concepts = len(subject.category) + 2 * subject.categories
    # Units of the images that choose, and of those that judge.
    masks = 2 * sum(layer.units * len(SHARES) for layer in subject.layers) + sum(
        one.words for one in subject.dictionaries
    )
    units = {layer.name: layer.units for layer in subject.layers}
    members = sum(one.words * units[one.layer] for one in subject.dictionaries)
    return (masks * concepts + members) * _COUNT_BYTES


def _copies(study: StudyContext, subject: Subject, images: np.ndarray) -> float:
    """Groups that an image belongs to, on average."""
    if len(subject.groups) == 1:
        return 1.0
    columns = ImageColumns.read(study.folder, 0, study.plan.images)
    own = [scope.assigns(columns)[images].mean() for scope in read_scopes(study.folder) if scope.name in subject.groups]
    return 1.0 + float(sum(own))


def _thresholds(
    parts: Parts, layers: Sequence[LayerPlan]
) -> tuple[list[Thresholds], list[tuple[np.ndarray, np.ndarray]]]:
    """Of every layer: thresholds, and mean and standard deviation."""
    totals: list[CodeHistograms | None] = [None] * len(layers)
    for part in parts:
        for number in range(len(layers)):
            one = CodeHistograms.from_arrays(part, f"{number}_")
            before = totals[number]
            totals[number] = one if before is None else before.merge(one)
    whole = [total for total in totals if total is not None]
    return [total.thresholds(SHARES) for total in whole], [total.moments() for total in whole]


def refuse_without_pixels(masks: MaskSet, images: Sequence[int]) -> None:
    """Before anything else is done: reads masks up to the first that marks a pixel.

    Raises:
        DataError: none does.
    """
    batches = (images[first : first + _PEEKED] for first in range(0, len(images), _PEEKED))
    if not any(one.labels.any() for batch in batches for one in masks.read(batch)):
        raise DataError(
            f"{masks.source}: must mark a pixel of an image of the run, got none in {len(images):,} images; ask for "
            "more images, or look where the crop cuts"
        )


def _tell_bare(study: StudyContext, masks: MaskSet, found: DissectSums) -> None:
    """Categories without an image."""
    bare = [name for name, images in zip(masks.categories, found.labels(0).images, strict=True) if not images]
    if bare:
        study.say(f"categories without a pixel in these images: {', '.join(bare)}; their concepts have IoU 0")


def _write_tables(
    study: StudyContext,
    subject: Subject,
    found: DissectSums,
    thresholds: Sequence[Thresholds],
    moments: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, Any]]:
    concepts, told = subject.masks.concepts, []
    units: list[Row] = []
    unit_concepts: list[Row] = []
    for number, layer in enumerate(subject.layers):
        own = Overlaps(found.whole.units[number], found.labels(0), concepts, subject.category)
        rows, best = unit_rows(layer.name, own, thresholds[number], moments[number])
        units += rows
        unit_concepts += best
        told.append(_told(layer, "units", [row for row in rows if row["quantile"] == SHARES[0]]))
    study.write_table("units", units)
    study.write_table("unit_concepts", unit_concepts)
    word_concepts: list[Row] = []
    members: dict[str, list[Any]] = {name: [] for name in ("scope", "layer", "word", "unit", "z", "rank")}
    places = {layer.name: number for number, layer in enumerate(subject.layers)}
    for number, one in enumerate(subject.dictionaries):
        own = Overlaps(found.words[number], found.labels(subject.group(one)), concepts, subject.category)
        rows = word_rows(one, own)
        word_concepts += rows
        told.append(
            _told(subject.layers[places[one.layer]], "words", [row for row in rows if row["rank"] == 0], one.scope)
        )
        for name, values in member_columns(one, found.members[number], moments[places[one.layer]]).items():
            members[name].extend(values)
    study.write_table("word_concepts", word_concepts)
    study.write_table("word_units", members)
    return told


def _told(layer: LayerPlan, masks: str, rows: Iterable[Row], scope: str | None = None) -> dict[str, Any]:
    listed = list(rows)
    best = max(listed, key=lambda row: row["iou"], default=None)
    return {
        "layer": layer.name,
        "masks": masks,
        "scope": scope,
        "detectors": sum(row["detector"] for row in listed),
        "concepts": len({row["concept"] for row in listed if row["detector"]}),
        "best": None if best is None or best["concept"] is None else {k: best[k] for k in ("concept", "iou")},
    }

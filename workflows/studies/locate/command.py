"""Where a part is on every object of a class, from three annotated ones (the And-Or graph)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.asking.image_parts import Phase
from workflows.asking.study import Asked, StudyContext, open_study, refuse_unfinished
from workflows.run import Run
from workflows.storage.tables import read_table, to_table
from workflows.studies.locate.crop_words import (
    AskedDictionary,
    CropWordsWorker,
    asked_dictionaries,
    gathered_words,
    layers_of,
    object_dictionaries,
)
from workflows.studies.locate.figures import draw_figures
from workflows.studies.locate.object_words import ObjectColumnsWorker, columns_bytes, learn_dictionaries
from workflows.studies.locate.request import LocateRequest, Sought, content_of, layers_by_kind, sought_part
from workflows.studies.locate.rows import (
    Located,
    error_row,
    located_by,
    located_by_controls,
    location_rows,
    template_rows,
)
from workflows.studies.locate.voters import PlaceVoters, Voters, WordVoters, object_features, together

LOCATE = "locate"


def run_locate(asked: Asked, request: LocateRequest) -> dict[str, Any]:
    """Write the tables and figures of the study, and print how far off each method is.

    Returns:
        The summary.

    Raises:
        SettingsError, DataError: a request that cannot be. RunFolderError: see ``open_study`` and ``sought_part``.
    """
    run = asked.run()
    words = "words" in request.voters
    after = "train" if run.settings.training is not None else "index"
    refuse_unfinished(run, LOCATE, "fit" if words and not request.words else after)
    sought = sought_part(run, request)
    layers, others = layers_by_kind(sought.files, request)
    dictionaries = _dictionaries(run, sought, others, request) if words else ()
    with open_study(LOCATE, asked, _plain(request, sought, dictionaries), after=after) as study:
        phases = _phases(study, sought, dictionaries, bool(request.words))
        if study.begin(*phases, items=len(dictionaries) if request.words else 0):
            for one in dictionaries:
                study.say(f"words of {one.name}")
            voters: list[Voters] = list(_place_voters(request, sought, layers))
            if dictionaries:
                voters += _word_voters(study, sought, dictionaries, phases)
            found = _answer(study, sought, voters)
            draw_figures(study, sought, voters, found)
        told = _spreads(study, sought)
        study.tell(errors=told)
        asked.console.print(_errors(told) if told else f"{request.part}: no object is tested, see locations.parquet")
    return study.summary()


def _plain(request: LocateRequest, sought: Sought, dictionaries: Sequence[AskedDictionary]) -> dict[str, Any]:
    """What the answer depends on: patterns, dictionaries and annotations by content."""
    plain = asdict(request) | {"patterns": content_of(sought.files)}
    read = () if request.words else dictionaries  # what is learned here depends on the rest of the request
    plain["dictionaries"] = {one.name: hashlib.sha256(one.path.read_bytes()).hexdigest()[:16] for one in read}
    if request.annotations is not None:
        plain["annotations"] = str(request.annotations.resolve())
        plain["annotated"] = hashlib.sha256(request.annotations.read_bytes()).hexdigest()[:16]
    return plain


def _dictionaries(
    run: Run, sought: Sought, layers: Sequence[str], request: LocateRequest
) -> tuple[AskedDictionary, ...]:
    if request.words:
        return object_dictionaries(run, sought.label, layers, request.words)
    return asked_dictionaries(run, sought.label, layers, request.scope)


def _phases(
    study: StudyContext, sought: Sought, dictionaries: Sequence[AskedDictionary], learned: bool
) -> tuple[Phase, ...]:
    """Columns, where dictionaries are learned from them; then words."""
    if not dictionaries:
        return ()
    photos = np.unique(sought.turned.objects.images)
    shards = study.shards(Phase("words", photos))
    most = max(int(np.isin(sought.turned.objects.images, shard.images).sum()) for shard in shards)
    words = Phase("words", photos, 1.0, 4 * most * sum(one.layer.positions for one in dictionaries))
    each = columns_bytes(layers_of(dictionaries), len(sought.known), study.settings)
    return (Phase("columns", photos, 1.0, most * each), words) if learned else (words,)


def _word_voters(
    study: StudyContext, sought: Sought, dictionaries: Sequence[AskedDictionary], phases: Sequence[Phase]
) -> Iterator[Voters]:
    inputs = {"turned": sought.turned, "dictionaries": dictionaries}
    *before, words = phases
    for phase in before:
        learn_dictionaries(study, lambda: study.map_parts(phase, ObjectColumnsWorker, **inputs), dictionaries)  # noqa: B023
    parts = study.map_parts(words, CropWordsWorker, **inputs)
    for one, some in zip(dictionaries, gathered_words(parts, dictionaries), strict=True):
        yield WordVoters(one, some, sought.turned.learned)


def _place_voters(request: LocateRequest, sought: Sought, layers: Sequence[str]) -> Iterator[Voters]:
    learned = sought.turned.learned
    if "patterns" in request.voters:
        yield PlaceVoters(sought.files, learned, request.top or sought.files.attributes()["tops"][0], tuple(layers))
    if "peaks" in request.voters:
        yield PlaceVoters(sought.files, learned, None, tuple(layers))


def _answer(study: StudyContext, sought: Sought, voters: Sequence[Voters]) -> list[Located]:
    """Vote, and write the tables."""
    templates, found = list[pa.Table](), list[Located]()
    sets = [(some, [some.templates(annotated) for annotated in sought.sets]) for some in voters]
    for some, own in sets:
        templates += template_rows(sought, some, own)
        found += located_by(some.method, [(some, own)], len(sought.known))
    words = [(some, own) for some, own in sets if isinstance(some, WordVoters)]
    if len(words) > 1:
        found += located_by(together([some.dictionary for some, _ in words]), words, len(sought.known))
    found += located_by_controls(sought, object_features(sought.files))
    study.write_table("templates", pa.concat_tables(templates))
    study.write_table("locations", pa.concat_tables(location_rows(sought, one) for one in found))
    errors = [row for one in found if (row := error_row(sought, one)) is not None]
    study.write_table("location_errors", to_table(errors, "location_errors"))
    return found


def _spreads(study: StudyContext, sought: Sought) -> list[dict[str, Any]]:
    """Mean error of each method and its spread over the sets, as they were written."""
    filters = [("class", "==", sought.label), ("part", "==", sought.part), ("learn", "==", sought.learn)]
    rows = read_table(study.folder.table("location_errors"), filters=filters).to_pylist()
    told = []
    for name, voters in dict.fromkeys((row["method"], row["voters"]) for row in rows):
        own = [row for row in rows if (row["method"], row["voters"]) == (name, voters)]
        one: dict[str, Any] = {"method": name, "voters": voters, "sets": len(own)}
        one["objects"] = round(float(np.mean([row["objects"] for row in own])))
        for value in ("distance", "near"):
            values = [row[value] for row in own]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            one |= {value: float(np.mean(values)), f"{value}_sd": spread}
        told.append(one)
    return sorted(told, key=lambda one: one["distance"])


def _errors(told: Sequence[dict[str, Any]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("method", "of", "distance", "spread", "within 0.1", "spread"):
        shown.add_column(name, justify="left" if name in ("method", "of") else "right")
    for one in told:
        values = [one[name] for name in ("distance", "distance_sd", "near", "near_sd")]
        numbers = ["" if value is None else f"{value:.3f}" for value in values]
        shown.add_row(Text(one["method"]), Text(one["voters"] or ""), *numbers)
    return shown

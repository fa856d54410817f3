"""Figures of dissect: detectors by layer and category, contact sheets, two networks side by side, graphs with names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8

from gmm_ops.units.concept_counts import mask_patterns, word_mask
from workflows.asking.study import StudyContext
from workflows.data.decoding import unbroken
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.errors import RunFolderError
from workflows.figures.draw_graphs import GraphDrawWorker
from workflows.report.contact_sheet import SheetPicture, SheetRow, draw_contact_sheet
from workflows.report.detector_figure import Detectors, detector_table, detectors, draw_detectors
from workflows.report.numbers import frequency
from workflows.run import Run
from workflows.runtime.patience import patiently
from workflows.storage.names import GraphId, item_name, slug
from workflows.storage.states import load_state, save_state
from workflows.storage.tables import read_table
from workflows.studies.dissect.image_maps import ImageMaps
from workflows.studies.dissect.workers import DissectSums, Subject
from workflows.words.word_maps import read_words

_SHEETS = 3
"""Contact sheets where none are asked for: of the concepts that are detected best."""

_ROWS, _PICTURES = 3, 6
"""Of a sheet: units and as many words, and images of each."""

_MOST_REDRAWN = 20
"""Class graphs that are drawn again with the names of their words."""

_BELOW = "Detectors: IoU with the best concept above 0.04, units at q = 0.005; number of detectors of all"


def keep_strongest(study: StudyContext, subject: Subject, found: DissectSums) -> None:
    """For the contact sheets: the images that show each unit and word most."""
    units = {
        f"units {layer.name}": one.images for layer, one in zip(subject.layers, found.strongest_units, strict=True)
    }
    words = {
        f"words {one.layer} {one.scope}": strongest.images
        for one, strongest in zip(subject.dictionaries, found.strongest_words, strict=True)
    }
    save_state(study.own.root / "strongest.npz", units | words)


def draw_figures(study: StudyContext, subject: Subject, sheets: Sequence[str]) -> None:
    """All figures of a new answer; of one that was there, the sheets asked for. Prints the table of detectors."""
    panels = panels_of(study.run)
    study.asked.console.print(detector_table(panels))
    png, svg = study.figure("png"), study.figure("svg")
    heading = f"{study.settings.name}: which concepts units and words detect"
    draw_detectors(panels, png, svg, heading=heading, below=_BELOW)
    draw_sheets(study, subject, list(sheets) or (_best_concepts(study) if study.begun else []))
    if study.begun:
        _draw_graphs(study)


def draw_compared(study: StudyContext, other: Run) -> None:
    """Two networks side by side.

    Raises:
        RunFolderError: the other run has not been dissected.
    """
    if not (other.folder.table("units").exists() and other.folder.table("word_concepts").exists()):
        raise RunFolderError(
            f"--compare {str(other.folder.root)!r}: must be a run that is dissected, got one that is not; give "
            f"inference-graphs dissect {other.folder.root} first"
        )
    panels = [panel for run in (study.run, other) for panel in panels_of(run, named=True)]
    study.asked.console.print(detector_table(panels))
    heading = f"{study.settings.name} and {other.settings.name}: which concepts units and words detect"
    draw_detectors(
        panels, study.figure("png", "compare"), study.figure("svg", "compare"), heading=heading, below=_BELOW
    )


def panels_of(run: Run, named: bool = False) -> list[Detectors]:
    """Detectors of units, then of the words of each scope."""
    shown = lowest_quantile(run.table("units"))
    titles = {layer.name: layer.given for layer in run.plan.layers}
    titles = {name: titles.get(name, name) for name in dict.fromkeys([*_in_order(run, shown)])}
    before = f"{run.settings.name}, " if named else ""
    totals = {name: sum(row["layer"] == name for row in shown) for name in titles}
    panels = [detectors(f"{before}units", shown, titles, totals)]
    words = run.table("word_concepts", filters=[("rank", "=", 0)]).to_pylist()
    sizes = {layer.name: layer.words for layer in run.plan.layers if layer.name in titles}
    for scope in dict.fromkeys(row["scope"] for row in words):
        own = [row for row in words if row["scope"] == scope]
        of_scope = "" if scope == "joint" else f" of scope {scope}"
        panels.append(detectors(f"{before}words{of_scope}", own, titles, sizes))
    return panels


def lowest_quantile(units: pa.Table) -> list[dict[str, Any]]:
    """The rows of the table units at its lowest q."""
    return list(units.filter(pc.equal(units["quantile"], pc.min(units["quantile"]))).to_pylist())


def _in_order(run: Run, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Layers as the run lists them, then others."""
    found = dict.fromkeys(row["layer"] for row in rows)
    known = [layer.name for layer in run.plan.layers if layer.name in found]
    return [*known, *(name for name in found if name not in known)]


@dataclass(frozen=True)
class _Shown:
    """A row of a sheet before its pictures are there."""

    layer: str
    scope: str | None
    member: int
    iou: float
    threshold: float
    quantile: float | None
    images: tuple[int, ...]


def draw_sheets(study: StudyContext, subject: Subject, names: Sequence[str]) -> None:
    """A contact sheet for each concept."""
    strongest = load_state(study.own.root / "strongest.npz")
    shown = {name: _rows_of(study, strongest, name) for name in names}
    images = sorted({image for rows in shown.values() for row in rows for image in row.images})
    if not images:
        return
    pictures = _pictures(study, images)
    masks = dict(zip(images, subject.masks.read(images), strict=True))
    wanted = {
        (row.layer, row.scope, row.member, row.threshold, image)
        for rows in shown.values()
        for row in rows
        for image in row.images
    }
    outlines = dict(_outlines(study, subject, images, wanted))
    titles = {layer.name: layer.given for layer in subject.layers}
    for name, rows in shown.items():
        number = subject.masks.number(name)
        lines = [
            SheetRow(
                f"{titles[row.layer]} {'unit' if row.scope is None else 'word'} {row.member}",
                _details(row),
                tuple(
                    SheetPicture(
                        pictures[image],
                        outlines[row.layer, row.scope, row.member, row.threshold, image],
                        masks[image].mask(number),
                    )
                    for image in row.images
                ),
            )
            for row in rows
        ]
        heading = f"{study.settings.name}: units and words that detect {name}"
        png, svg = study.figure("png", f"sheet-{slug(name)}"), study.figure("svg", f"sheet-{slug(name)}")
        draw_contact_sheet(heading, lines, png, svg, concept=name, columns=_PICTURES)


def _details(row: _Shown) -> str:
    told = f"IoU {frequency(row.iou)}"
    if row.quantile is not None:
        return f"{told} at q = {row.quantile:g}"
    return told if row.scope == "joint" else f"{told}, scope {row.scope}"


def _best_concepts(study: StudyContext) -> list[str]:
    rows = read_table(study.folder.table("word_concepts"), ["concept", "iou"]).to_pylist()
    rows += read_table(study.folder.table("unit_concepts"), ["concept", "iou"]).to_pylist()
    ordered = sorted(rows, key=lambda row: -row["iou"])
    return list(dict.fromkeys(row["concept"] for row in ordered))[:_SHEETS]


def _rows_of(study: StudyContext, strongest: dict[str, np.ndarray], name: str) -> list[_Shown]:
    """The best units, each at its best threshold, then the best words."""
    concepts = read_table(study.folder.table("unit_concepts"), filters=[("concept", "=", name)])
    limits = read_table(study.folder.table("units"), ["layer", "unit", "quantile", "threshold"]).to_pylist()
    of = {(row["layer"], row["unit"], row["quantile"]): row["threshold"] for row in limits}
    found: dict[tuple[str, int], _Shown] = {}
    for row in concepts.sort_by([("iou", "descending")]).to_pylist():
        key = (row["layer"], row["unit"])
        images = _known(strongest[f"units {row['layer']}"][row["unit"]])
        threshold = of[row["layer"], row["unit"], row["quantile"]]
        found.setdefault(key, _Shown(row["layer"], None, row["unit"], row["iou"], threshold, row["quantile"], images))
        if len(found) == _ROWS:
            break
    table = read_table(study.folder.table("word_concepts"), filters=[("concept", "=", name)])
    words = [
        _Shown(
            row["layer"],
            row["scope"],
            row["word"],
            row["iou"],
            0.0,
            None,
            _known(strongest[f"words {row['layer']} {row['scope']}"][row["word"]]),
        )
        for row in table.sort_by([("iou", "descending")]).to_pylist()[:_ROWS]
    ]
    return [*found.values(), *words]


def _known(images: Int[np.ndarray, " k"]) -> tuple[int, ...]:
    return tuple(image for image in images.tolist() if image >= 0)[:_PICTURES]


def _pictures(study: StudyContext, images: Sequence[int]) -> dict[int, UInt8[np.ndarray, "H W 3"]]:
    indexed = IndexedPictures.read(study.folder.images_table, images)
    crop = Preprocessor(study.settings.preprocessing).crop
    with PictureReader(study.settings.data, geometry=crop) as reader:
        found = patiently(lambda: reader.read(indexed.paths, indexed.states), *study.settings.runtime.patience)
    return {image: unbroken(one).pixels for image, one in zip(images, found, strict=True)}


_Key = tuple[str, str | None, int, float, int]


def _outlines(
    study: StudyContext, subject: Subject, images: Sequence[int], wanted: set[_Key]
) -> Iterator[tuple[_Key, Bool[np.ndarray, "H W"]]]:
    """Masks of units and words on some images; where columns are not stored, the network runs here."""
    size = (study.plan.input_height, study.plan.input_width)
    runtime = study.settings.runtime.model_copy(update={"device": "cpu"})
    settings = study.settings.model_copy(update={"runtime": runtime})
    maps = ImageMaps(settings, study.plan, study.folder, subject.layers)
    for image, of_layers in maps(images):
        for key in (key for key in wanted if key[-1] == image):
            layer, scope, member, threshold, _ = key
            if scope is None:
                bits = mask_patterns(of_layers[layer], np.array([member]), np.array([threshold]), size)
                yield key, bits > 0
            else:
                words = read_words(study.folder, scope, layer, image, image + 1)[0].numpy()
                yield key, word_mask(words, member, size)


def _draw_graphs(study: StudyContext) -> None:
    """Draw figures of class graphs again, now with the names of their words."""
    if not study.folder.table("nodes").exists():
        return
    table = read_table(study.folder.table("nodes"), ["graph", "scope"])
    pairs = dict.fromkeys(zip(table["graph"].to_pylist(), table["scope"].to_pylist(), strict=True))
    drawn = [
        (graph, scope)
        for graph, scope in pairs
        if not GraphId.parse(graph).is_image and study.folder.figure(graph, "png", scope).exists()
    ]
    worker = GraphDrawWorker(study.settings, study.plan, study.folder)
    for graph, scope in drawn[:_MOST_REDRAWN]:
        worker(item_name(scope, graph))
    if drawn:
        more = f", the first of {len(drawn)}" if len(drawn) > _MOST_REDRAWN else ""
        study.say(f"{min(len(drawn), _MOST_REDRAWN)} class graphs are drawn again with the names of their words{more}")

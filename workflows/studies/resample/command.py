"""Which units matter for a decision (IR): selections by every metric, what they see, how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from workflows.asking.image_parts import Phase
from workflows.asking.run_masks import masks_place
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.data.masks.concept_masks import MaskSet
from workflows.figures.saved_pictures import SavedPictures
from workflows.report.pictures import PictureFolder
from workflows.report.selection_figures import draw_epochs, draw_overlays, draw_patches
from workflows.report.selection_table import means_table
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.patience import patiently
from workflows.storage.study_folder import place_of
from workflows.storage.tables import SCHEMAS, read_table, to_table
from workflows.studies.resample.copies import ResampleWorker, explained_classes
from workflows.studies.resample.means import agreement_rows, class_mean_rows, mean_rows
from workflows.studies.resample.patch_classifier import PatchClassifierWorker, PatchSet
from workflows.studies.resample.request import (
    ResampleRequest,
    Weights,
    asked_images,
    asked_layers,
    asked_masks,
    asked_weights,
    resampling,
)
from workflows.studies.resample.scores import Resampling
from workflows.studies.resample.selections import Found, class_rows, selection_table, without_hidden

RESAMPLE = "resample"

_SHOWN = 4
"""Images in figures, evenly over the classes."""

_ROW_BYTES, _UNIT_BYTES = 250, 32
"""Of a part, for every row and every unit of an image."""


def run_resample(asked: Asked, request: ResampleRequest) -> dict[str, Any]:
    """Write the tables and figures of the study, and print the means.

    Args:
        asked: run, console, number of images.
        request: what the command was told.

    Returns:
        The summary.

    Raises:
        SettingsError: a request that cannot be. NetworkError: a layer that does not exist. DataError: an image or class
            that does not, or masks that know none of the images. RunFolderError: see ``open_study``.
    """
    run = asked.run()
    request = request.of_run(run.settings).checked()
    layers, units = asked_layers(run, request)
    weights = asked_weights(run, request.checkpoints)
    masks = asked_masks(run, request, asked)
    reads = [*(Path(one.path) for one in weights if one.checkpoint), *(masks.tables if masks else ())]
    told = asdict(request) | {
        "masks": masks_place(run, masks.source) if masks else None,
        "checkpoints": place_of(run.folder, Path(request.checkpoints)) if request.checkpoints else None,
    }
    after = "extract" if run.plan.outputs else "index"
    with open_study(RESAMPLE, asked, told, after=after, reads=reads) as study:
        subject = Subject(study, resampling(request, layers), units, weights, masks, asked_images(study, request))
        phases, sets = subject.phases(), subject.patch_sets() if request.secondary and subject.has_classes else []
        if study.begin(*phases, items=len(sets)):
            _answer(subject, phases, sets)
        means, secondary = (read_table(study.folder.table(name)) for name in ("selection_means", "secondary"))
        asked.console.print(means_table(means, secondary))
    return study.summary()


@dataclass(frozen=True)
class Subject:
    """What a study asks of what.

    Attributes:
        study: at work.
        asked: of every image.
        units: D of every layer.
        weights: in the order of training, the run's own last.
        masks: of objects.
        images: (n,) ids.
    """

    study: StudyContext
    asked: Resampling
    units: list[int]
    weights: list[Weights]
    masks: MaskSet | None
    images: Int[np.ndarray, " n"]

    @property
    def has_classes(self) -> bool:
        """Whether any image has a label or a prediction."""
        return bool((explained_classes(self.study.folder, self.images.tolist()) >= 0).any())

    def phases(self) -> list[Phase]:
        """One a set of weights."""
        rows = len(self.asked.layers) * len(self.asked.metrics) * sum(self.asked.tops)
        held = min(self.study.settings.extract.images_per_shard, len(self.images))
        size = held * (rows * _ROW_BYTES + _UNIT_BYTES * sum(self.units))
        # A signal back from the middle of the network takes about half a pass, and metrics share some units.
        passes = self.asked.forward_passes + self.asked.most_units / 2
        return [Phase(one.phase, self.images, passes, size) for one in self.weights]

    def patch_sets(self) -> list[PatchSet]:
        """One a set of weights, metric and number of units."""
        names = [one.checkpoint for one in self.weights]
        return [PatchSet(*one) for one in product(names, self.asked.metrics, self.asked.tops)]


def _answer(subject: Subject, phases: Sequence[Phase], sets: Sequence[PatchSet]) -> None:
    study, found = subject.study, []
    images = subject.images.tolist()
    classes = dict(zip(images, explained_classes(study.folder, images).tolist(), strict=True))
    for phase, one in zip(phases, subject.weights, strict=True):
        inputs = {"asked": subject.asked, "weights": one.path, "masks": subject.masks}
        found.append(Found.read(study.map_parts(phase, ResampleWorker, **inputs), classes, one.checkpoint))
    _write_selections(subject, found)
    _write_secondary(study, sets)
    _tell(subject, found[-1])
    _draw(subject, found[-1])


def _write_selections(subject: Subject, found: Sequence[Found]) -> None:
    study, asked, units = subject.study, subject.asked, subject.units
    names, seed = study.plan.class_names, study.settings.seed
    tables, means = [], []
    for one in found:
        of_classes = class_rows(one, asked, units, names)
        tables += [to_table(rows, "selections", network=study.settings.name)
                   for rows in (selection_table(one, asked, names), without_hidden(of_classes)) if rows]  # fmt: skip
        means += [*mean_rows(one, asked, names, seed), *class_mean_rows(of_classes, one)]
    study.write_table("selections", pa.concat_tables(tables) if tables else [])
    study.write_table("selection_means", means)
    last = found[-1]
    pairs = [*zip(found[1:], found[:-1], strict=True), *((one, last) for one in found[:-2])]
    study.write_table(
        "selection_epochs", [row for one, other in pairs for row in agreement_rows(one, other, asked, units, seed)]
    )


def _write_secondary(study: StudyContext, sets: Sequence[PatchSet]) -> None:
    done = {str(one): record for one in sets for record in [study.ledger.items().get(str(one))] if record}
    left = [one for one in sets if str(one) not in done]
    if left:
        inputs = {"settings": study.worker_settings(), "plan": study.plan, "folder": study.folder}
        map_shards(
            PatchClassifierWorker,
            inputs,
            left,
            study.pool(len(left), "patch set"),
            on_done=lambda one, record: study.finished(str(one), record),
            on_failure=lambda one, reason, last: study.failed(str(one), reason, last),
        )
    items = study.ledger.items()
    columns = SCHEMAS["secondary"].names
    study.write_table(
        "secondary", [{name: value for name, value in items[str(one)].items() if name in columns} for one in sets]
    )


def _tell(subject: Subject, own: Found) -> None:
    """What a program may want, and what people must not overlook."""
    study, asked, masks = subject.study, subject.asked, subject.masks
    seconds = [record["seconds"] for item, record in study.ledger.items().items() if str(item).startswith("run ")]
    of_images = len(own.images)
    empty = of_images - len(np.unique(own.rows["image"][own.rows["metric"] == 0])) if own.rows else of_images
    masked = 0 if masks is None else int(np.isin(own.images, masks.images).sum())
    study.tell(
        images=of_images,
        layers=[layer.name for layer in asked.layers],
        forward_passes_per_image=asked.forward_passes,
        seconds_per_1000_images=round(1000 * sum(seconds) / max(of_images, 1), 1),
        images_with_masks=masked,
        images_without_variance=empty,
    )
    if empty:
        study.say(f"resample: {empty:,} of {of_images:,} images have no {asked.metrics[0]}: nothing in them varies")
    if masks is not None and masked < of_images:
        study.say(f"resample: {of_images - masked:,} of {of_images:,} images have no mask; patches there have no place")


def _draw(subject: Subject, found: Found) -> None:
    study, asked, shown = subject.study, subject.asked, _shown(found)
    saver = SavedPictures(study.settings, study.folder)
    patiently(lambda: saver.save(shown), *study.settings.runtime.patience)
    pictures = PictureFolder(study.folder.pictures)
    rows = read_table(study.folder.table("selections"), filters=[("image", "in", shown)])
    layers = {layer.name: str(layer.number or layer.name) for layer in asked.layers}
    few = min(asked.tops)
    draw_overlays(rows, pictures, layers, asked.metrics, few, study.settings.name, _paths(study))
    for image in shown:
        draw_patches(rows, pictures, layers, asked.metrics[:2], few, image, _paths(study, f"image-{image}"))
    if len(subject.weights) > 1:
        agreement, secondary = (read_table(study.folder.table(name)) for name in ("selection_epochs", "secondary"))
        names = [one.checkpoint for one in subject.weights if one.checkpoint is not None]
        draw_epochs(agreement, secondary, names, few, study.settings.name, _paths(study, "epochs"))


def _paths(study: StudyContext, name: str = "") -> tuple[Path, Path]:
    return study.figure("png", name), study.figure("svg", name)


def _shown(found: Found) -> list[int]:
    """The first images of every class in turn."""
    places: dict[int, int] = {}
    order = []
    for image, label in zip(found.images.tolist(), found.classes.tolist(), strict=True):
        order.append((places.get(label, 0), label, image))
        places[label] = places.get(label, 0) + 1
    return sorted(image for _, _, image in sorted(order)[:_SHOWN])

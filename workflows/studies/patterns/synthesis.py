"""Objects as pictures again, from what a layer responds: all of it, or what lies at valid patterns alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.synthesis import DecoderSettings
from workflows.asking.pattern_files import PatternedLayer, Top
from workflows.asking.study import StudyContext
from workflows.data.objects import BoxedObjects
from workflows.data.reading import photo_sizes
from workflows.errors import SettingsError
from workflows.report.lettering import short_name
from workflows.report.pattern_figures import Synthesis, draw_synthesis
from workflows.runtime.dispatcher import map_shards
from workflows.storage.images_table import ImageColumns
from workflows.storage.tables import read_table
from workflows.studies.patterns.answers import Learned
from workflows.studies.patterns.decoder_worker import DecoderJob, DecoderWorker, Shown, ShownClass
from workflows.studies.patterns.object_maps import Crops
from workflows.studies.patterns.subject import Subject

_SIDE = 112
"""Pixels of a synthesis, about: the map's side doubled until it is nearest; the network's input where that is less."""

_BYTES = 2**29
"""Of maps that the actor holds, at most: objects first, then photos."""

_PHOTOS = 1500
"""Whole photos that are learned from, at most: each is a pass of the network."""

_HELD_OUT = 0.2
"""Of the photos of a class: the decoder never sees them."""

_JUDGED = 200
"""Objects of a class that are held out, at most."""

TRAINING = DecoderSettings()

_SHOWN = 7
"""Objects of a figure."""

WEIGHTS = "synthesis.pt"
"""In the folder of the study: state dict of the decoder, and the deviations that F is measured in."""

_ITEM = "synthesis"


def synthesis_layer(layers: Sequence[PatternedLayer], name: str) -> PatternedLayer:
    """The layer whose responses become pictures: the lowest, or that of a name. Raises SettingsError without it."""
    found = [layer for layer in layers if name in ("", layer.name)]
    if not found:
        known = ", ".join(layer.name for layer in layers)
        raise SettingsError(f"--synthesis-layer: must be a layer that has patterns, got {name!r}; name one of {known}")
    return found[0]


@dataclass(frozen=True, eq=False)
class Pictures:
    """One decoder for all classes that are asked for.

    Attributes:
        study: at work.
        subjects: the classes.
    """

    study: StudyContext
    subjects: Sequence[Subject]

    @cached_property
    def layer(self) -> PatternedLayer:
        """Whose responses are decoded."""
        return synthesis_layer(self.subjects[0].layers, self.subjects[0].request.synthesis_layer)

    @property
    def _most(self) -> int:
        """Maps that the actor holds."""
        return max(2, _BYTES // (2 * self.layer.units * self.layer.grid.height * self.layer.grid.width))

    def parted(self, subject: Subject) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
        """Objects that are learned from, and those on photos that are held out: a seeded draw that memory holds."""
        photos = subject.objects.images
        draw = np.random.default_rng([self.study.settings.seed % 2**64, 10])
        keys = photos if len(np.unique(photos)) > 1 else np.arange(len(photos))
        order = draw.permutation(np.unique(keys))
        held = np.isin(keys, order[: max(1, round(_HELD_OUT * len(order)))])
        sides = sum(len(one.objects) * (1 + one.mirrored) for one in self.subjects)
        share = min(1.0, self._most / sides)
        rows = draw.permutation(len(photos))
        learned, unseen = rows[~held[rows]], rows[held[rows]]
        return np.sort(learned[: max(1, int(share * len(learned)))]), np.sort(unseen[:_JUDGED])

    @cached_property
    def photos(self) -> Crops | None:
        """Whole photos of the run, none of which shows an object that is held out; None: there is no room, or none."""
        room, held = self._most, list[np.ndarray]()
        for one in self.subjects:
            learned, unseen = self.parted(one)
            room -= len(learned) * (1 + one.mirrored)
            held.append(one.objects.images[unseen])
        readable = np.flatnonzero(ImageColumns.read(self.study.folder, 0, self.study.plan.images).readable)
        others = np.setdiff1d(readable, np.concatenate(held))
        most = min(room, _PHOTOS, self.study.asked.images or _PHOTOS)
        if most < 1 or not len(others):
            return None
        images = self.study.choose_images(among=others, limit=most)
        root = self.study.own.parts / _ITEM
        return Crops(self.study, f"{_ITEM} photos", root, self._whole(images), (self.layer,), mirrored=False)

    def _whole(self, images: Int[np.ndarray, " m"]) -> BoxedObjects:
        paths = read_table(self.study.folder.images_table, ["path"])["path"].take(images).to_pylist()
        settings = self.study.settings
        sizes = photo_sizes(settings.data, paths, settings.runtime.patience)
        boxes = [(0, 0, width, height) for height, width in sizes]
        return BoxedObjects(images, np.array(boxes, np.int64), {})

    def paint(self, learned: Sequence[Learned]) -> list[dict[str, Any]]:
        """Train the decoder in an actor, unless that is done, and draw; gives rows of pattern_synthesis."""
        job, study = self._job(learned), self.study
        if _ITEM not in study.ledger.items() or not job.weights.exists():
            map_shards(
                DecoderWorker,
                {"job": job},
                [_ITEM],
                study.pool(1, "synthesis"),
                on_done=study.finished,
                on_failure=study.failed,
            )
        for subject, one in zip(self.subjects, job.classes, strict=True):
            for top in job.tops:
                _draw(subject, job, one, top)
        rows: list[dict[str, Any]] = study.ledger.items()[_ITEM]["rows"]
        return rows

    def _job(self, learned: Sequence[Learned]) -> DecoderJob:
        study, place = self.study, self.subjects[0].layers.index(self.layer)
        found = [one.deviations[place] for one in learned]
        counts = [len(one.objects) for one in self.subjects]
        if self.photos is not None:
            found.append(self.photos.run()[0])
            counts.append(len(self.photos.objects))
        pooled = np.sqrt(np.average(np.square(found), axis=0, weights=counts))
        classes = tuple(
            ShownClass(one.label, of.turned, _shown(one.crops, place, pooled), one.files, *self.parted(one))
            for one, of in zip(self.subjects, learned, strict=True)
        )
        photos = None if self.photos is None else _shown(self.photos, 0, pooled)
        size = study.plan.input_height, study.plan.input_width
        doublings = max(0, round(math.log2(min(_SIDE, size[0]) / self.layer.grid.height)))
        tops = self.subjects[0].request.tops
        return DecoderJob(
            study.worker_settings(), study.folder, size, self.layer, pooled, doublings, classes, photos, tops, TRAINING,
            study.own.root / WEIGHTS,
        )  # fmt: skip


def _shown(crops: Crops, place: int, deviations: Float[np.ndarray, " D"]) -> Shown:
    count = len(crops.objects)
    sides = (crops.maps(place, deviations, np.full(count, side)) for side in range(1 + crops.mirrored))
    return Shown(crops.objects, tuple(sides))


@torch.inference_mode()
def _draw(subject: Subject, job: DecoderJob, one: ShownClass, top: Top) -> None:
    rows = one.held[np.unique(np.linspace(0, len(one.held) - 1, min(len(one.held), _SHOWN)).round().astype(int))]
    decoder, (maps, pictures) = job.decoder(), job.turned(one, rows)
    kept = job.at_patterns(one, top, rows, maps)
    columns = zip(*(_pixels(some) for some in (pictures, decoder(maps), decoder(kept))), strict=True)
    shown = [Synthesis(f"object {row}", *some) for row, some in zip(rows.tolist(), columns, strict=True)]
    study = subject.study
    name = f"synthesis-{top}-{subject.label}"
    heading = f"{study.settings.name}, {short_name(subject.class_name)}: pictures from {job.layer.name}"
    below = (
        f"{top} top; objects of photos that the decoder has not seen, from whole maps, and from valid patterns alone"
    )
    draw_synthesis(shown, heading, below, (study.figure("png", name), study.figure("svg", name)))


def _pixels(pictures: Tensor) -> list[np.ndarray]:
    plain = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return list(plain)

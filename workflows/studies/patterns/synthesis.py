"""Objects as pictures again, from the responses of a middle layer: all of them, or those at valid patterns alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.pattern_places import PatternPlaces, valid_patterns
from gmm_ops.explanatory.synthesis import (
    Decoder,
    DecoderSettings,
    kept_as_many,
    kept_at_patterns,
    signal_to_noise,
    train_decoder,
)
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, Top, TurnedObjects
from workflows.data.network_inputs import ObjectInputs
from workflows.report.lettering import short_name
from workflows.report.pattern_figures import Synthesis, draw_synthesis
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.storage.atomic import replacing
from workflows.storage.run_folder import RunFolder
from workflows.studies.patterns.answers import Learned
from workflows.studies.patterns.object_maps import ObjectResponses
from workflows.studies.patterns.subject import Subject

_SIDE = 56
"""Pixels of a synthesis, about: the map's side doubled until it is nearest."""

_BYTES = 2**28
"""Of maps that the actor holds, at most."""

_HELD_OUT = 0.2
"""Of the photos: the decoder never sees them."""

TRAINING = DecoderSettings()

_SHOWN = 7
"""Objects of the figure."""


@dataclass(frozen=True)
class SynthesisJob:
    """What the actor that trains a decoder is given.

    Attributes:
        settings, folder, size: of the run.
        turned: objects of the class.
        layer: whose responses are decoded.
        sides: F of all objects as they are and, where they were run, of their mirror images.
        files: places of the patterns.
        tops: kinds of top.
        training: of the decoder.
    """

    settings: Settings
    folder: RunFolder
    size: tuple[int, int]
    turned: TurnedObjects
    layer: PatternedLayer
    sides: tuple[ObjectResponses, ...]
    files: PatternFiles
    tops: tuple[Top, ...]
    training: DecoderSettings

    @property
    def weights(self) -> Path:
        """A plain state dict."""
        return self.files.root / "synthesis.pt"

    @property
    def doublings(self) -> int:
        """Up-convolutions between map and picture."""
        return max(0, round(math.log2(_SIDE / self.layer.grid.height)))

    def chosen(self) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
        """Objects that are learned from, and those on photos that are held out; a seeded draw that memory holds."""
        grid = self.layer.grid
        most = _BYTES // (2 * len(self.sides) * self.layer.units * grid.height * grid.width)
        draw = np.random.default_rng([self.settings.seed % 2**64, 10])
        photos = self.turned.objects.images
        keys = photos if len(np.unique(photos)) > 1 else np.arange(len(photos))
        order = draw.permutation(np.unique(keys))
        held = np.isin(keys, order[: max(1, round(_HELD_OUT * len(order)))])
        rows = np.sort(draw.permutation(len(photos))[: max(most, 2)])
        return rows[~held[rows]], rows[held[rows]]

    def pictures(self, rows: Int[np.ndarray, " m"]) -> Float[Tensor, "m 3 h w"]:
        """Objects as they are on their photos, 0 to 1, as large as a synthesis."""
        grid, found = self.layer.grid, []
        shape = grid.height << self.doublings, grid.width << self.doublings
        for pixels in ObjectInputs(self.settings, self.folder, self.size).crops(self.turned.objects.only(rows)):
            colours = np.broadcast_to(pixels, (*self.size, 3)) if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)
            plain = torch.from_numpy(np.ascontiguousarray(colours)).permute(2, 0, 1)[None].float() / 255
            found.append(F.interpolate(plain, shape, mode="area"))
        return torch.cat(found)

    def turned_maps(self, rows: Int[np.ndarray, " m"]) -> Float[Tensor, "m D H W"]:
        """F of objects, turned."""
        mirrored = self.turned.signs[rows] < 0
        return torch.cat([self.sides[int(turn)][row : row + 1] for row, turn in zip(rows, mirrored, strict=True)])

    def turned_pictures(self, rows: Int[np.ndarray, " m"]) -> Float[Tensor, "m 3 h w"]:
        """Their pictures, turned."""
        plain, mirrored = self.pictures(rows), torch.from_numpy(self.turned.signs[rows] < 0)
        return torch.where(mirrored[:, None, None, None], plain.flip(3), plain)

    def at_patterns(self, top: Top, rows: Int[np.ndarray, " m"], maps: Float[Tensor, "m D H W"]) -> Tensor:
        """Of the maps what lies at the valid patterns of each object."""
        found = [self.files.places(top, self.layer.name, slice(row, row + 1)) for row in rows.tolist()]
        places, scores = (torch.cat([getattr(one, name) for one in found]) for name in ("places", "scores"))
        return kept_at_patterns(maps, self.layer.grid, PatternPlaces(places, scores), valid_patterns(scores))

    def decoder(self) -> Decoder:
        """The trained one."""
        found = Decoder(self.layer.units, self.doublings)
        found.load_state_dict(torch.load(self.weights, weights_only=True))
        return found.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Pairs:
    """Examples in memory: every object as it is, then every mirror image."""

    maps: Float[Tensor, "m D H W"]
    pictures: Float[Tensor, "m 3 h w"]

    def __len__(self) -> int:
        return len(self.maps)

    def __call__(self, rows: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        return self.maps[rows].float(), self.pictures[rows]


class SynthesisWorker:
    """Trains the decoder of a class and judges it on objects of photos that it has not seen."""

    def __init__(self, job: SynthesisJob) -> None:
        self._job = job

    def __call__(self, item: str) -> dict[str, Any]:
        """Write its weights; the record has the rows of pattern_synthesis.parquet."""
        job = self._job
        learned, held = job.chosen()
        pairs = self._pairs(learned)
        decoder = train_decoder(pairs, job.training, job.settings.seed)
        with replacing(job.weights) as temporary:
            torch.save(decoder.state_dict(), temporary)
        with torch.inference_mode():
            return {"rows": list(self._judged(decoder, pairs.pictures.mean(dim=0), held)), "learned": len(learned)}

    def _pairs(self, rows: Int[np.ndarray, " m"]) -> _Pairs:
        plain = self._job.pictures(rows)
        pictures = [plain, plain.flip(3)][: len(self._job.sides)]
        maps = [torch.cat([side[row : row + 1].half() for row in rows.tolist()]) for side in self._job.sides]
        return _Pairs(torch.cat(maps), torch.cat(pictures))

    def _judged(self, decoder: Decoder, mean: Tensor, rows: Int[np.ndarray, " m"]) -> Iterator[dict[str, Any]]:
        job = self._job
        maps, pictures = job.turned_maps(rows), job.turned_pictures(rows)
        key = {"layer": job.layer.name, "objects": len(rows)}
        yield {**key, "top": None, "source": "mean", "responses": 0.0, **_decibels(mean.expand_as(pictures), pictures)}
        yield {**key, "top": None, "source": "whole", **_shown(decoder, maps, pictures)}
        draw = torch.Generator().manual_seed(job.settings.seed)
        for top in job.tops:
            kept = job.at_patterns(top, rows, maps)
            beside = {"patterns": kept, "strongest": kept_as_many(maps, kept, maps)}
            beside["random"] = kept_as_many(maps, kept, torch.rand(maps.shape, generator=draw))
            for source, some in beside.items():
                yield {**key, "top": top, "source": source, **_shown(decoder, some, pictures)}


def _shown(decoder: Decoder, maps: Tensor, pictures: Tensor) -> dict[str, float]:
    responses = float((maps > 0).flatten(1).sum(dim=1).double().mean())
    return {"responses": responses, **_decibels(decoder(maps), pictures)}


def _decibels(shown: Tensor, pictures: Tensor) -> dict[str, float]:
    found = signal_to_noise(shown, pictures)
    reach = 1.96 * float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else math.inf
    mean = float(found.mean())
    return {"psnr": mean, "psnr_low": mean - reach, "psnr_high": mean + reach}


def synthesise(subject: Subject, learned: Learned) -> list[dict[str, Any]]:
    """Train the decoder of a class in an actor, unless that is done, and draw; gives rows of pattern_synthesis."""
    place = len(subject.layers) // 2 if len(subject.layers) > 2 else 0
    study, count = subject.study, len(subject.objects)
    sides = tuple(
        subject.maps(place, learned.deviations[place], np.full(count, side)) for side in range(1 + subject.mirrored)
    )
    size = study.plan.input_height, study.plan.input_width
    job = SynthesisJob(
        study.worker_settings(), study.folder, size, learned.turned, subject.layers[place], sides, subject.files,
        subject.request.tops, TRAINING,
    )  # fmt: skip
    item = f"class {subject.label} synthesis"
    if item not in study.ledger.items() or not job.weights.exists():
        map_shards(
            SynthesisWorker,
            {"job": job},
            [item],
            study.pool(1, "synthesis"),
            on_done=study.finished,
            on_failure=study.failed,
        )
    for top in job.tops:
        _draw(subject, job, top)
    return [{"class": subject.label, **row} for row in study.ledger.items()[item]["rows"]]


@torch.inference_mode()
def _draw(subject: Subject, job: SynthesisJob, top: Top) -> None:
    _, held = job.chosen()
    rows = held[np.unique(np.linspace(0, len(held) - 1, min(len(held), _SHOWN)).round().astype(int))]
    decoder, maps = job.decoder(), job.turned_maps(rows)
    kept = job.at_patterns(top, rows, maps)
    columns = zip(*(_pixels(one) for one in (job.turned_pictures(rows), decoder(maps), decoder(kept))), strict=True)
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

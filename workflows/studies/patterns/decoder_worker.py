"""What the actor that trains a decoder does: maps and pictures of objects and whole photos, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
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
from workflows.data.objects import BoxedObjects
from workflows.settings import Settings
from workflows.storage.atomic import replacing
from workflows.storage.run_folder import RunFolder
from workflows.studies.patterns.object_maps import ObjectResponses


@dataclass(frozen=True, eq=False)
class Shown:
    """Boxes on photos, and what a layer responds there.

    Attributes:
        objects: the boxes.
        sides: F of all as they are and, where they were run, of their mirror images.
    """

    objects: BoxedObjects
    sides: tuple[ObjectResponses, ...]

    def maps(self, rows: Int[np.ndarray, " m"], sides: Int[np.ndarray, " m"]) -> Float[Tensor, "m D H W"]:
        """F of some, each as it is (0) or mirrored (1)."""
        return torch.cat([self.sides[side][row : row + 1] for row, side in zip(rows, sides, strict=True)])


@dataclass(frozen=True, eq=False)
class ShownClass:
    """Objects of a class.

    Attributes:
        label: id of the class.
        turned: how each is turned.
        shown: their maps.
        files: places of the patterns.
        learned, held: objects that the decoder learns from, and on photos that it never sees.
    """

    label: int
    turned: TurnedObjects
    shown: Shown
    files: PatternFiles
    learned: Int[np.ndarray, " a"]
    held: Int[np.ndarray, " b"]


@dataclass(frozen=True, eq=False)
class DecoderJob:
    """What the actor is given.

    Attributes:
        settings, folder, size: of the run.
        layer: whose responses are decoded.
        deviations: of its units, that F is measured in.
        doublings: of the side of a map to that of a picture.
        classes: whose objects are learned and judged.
        photos: whole photos that are learned from too.
        tops: kinds of top.
        training: of the decoder.
        weights: where its state dict is written.
    """

    settings: Settings
    folder: RunFolder
    size: tuple[int, int]
    layer: PatternedLayer
    deviations: Float[np.ndarray, " D"]
    doublings: int
    classes: tuple[ShownClass, ...]
    photos: Shown | None
    tops: tuple[Top, ...]
    training: DecoderSettings
    weights: Path

    def pictures(self, objects: BoxedObjects) -> UInt8[Tensor, "m 3 h w"]:
        """Boxes as they are on their photos, as large as a synthesis."""
        grid, found = self.layer.grid, []
        shape = grid.height << self.doublings, grid.width << self.doublings
        for pixels in ObjectInputs(self.settings, self.folder, self.size).crops(objects):
            colours = np.broadcast_to(pixels, (*self.size, 3)) if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1)
            plain = torch.from_numpy(np.ascontiguousarray(colours)).permute(2, 0, 1)[None].float()
            found.append(F.interpolate(plain, shape, mode="area").round().byte())
        return torch.cat(found)

    def turned(self, one: ShownClass, rows: Int[np.ndarray, " m"]) -> tuple[Tensor, Tensor]:
        """Maps and pictures of objects of a class, turned; pictures from 0 to 1."""
        mirrored = one.turned.signs[rows] < 0
        plain = self.pictures(one.turned.objects.only(rows)).float() / 255
        pictures = torch.where(torch.from_numpy(mirrored)[:, None, None, None], plain.flip(3), plain)
        return one.shown.maps(rows, mirrored.astype(np.int64)), pictures

    def at_patterns(self, one: ShownClass, top: Top, rows: Int[np.ndarray, " m"], maps: Tensor) -> Tensor:
        """Of turned maps what lies at the valid patterns of each object."""
        found = [one.files.places(top, self.layer.name, slice(row, row + 1)) for row in rows.tolist()]
        places, scores = (torch.cat([getattr(each, name) for each in found]) for name in ("places", "scores"))
        return kept_at_patterns(maps, self.layer.grid, PatternPlaces(places, scores), valid_patterns(scores))

    def decoder(self) -> Decoder:
        """The trained one."""
        found = Decoder(self.layer.units, self.doublings)
        found.load_state_dict(torch.load(self.weights, weights_only=True)["decoder"])
        return found.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Pairs:
    """Examples in memory."""

    maps: Float[Tensor, "m D H W"]
    pictures: UInt8[Tensor, "m 3 h w"]

    def __len__(self) -> int:
        return len(self.maps)

    def __call__(self, rows: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        return self.maps[rows].float(), self.pictures[rows].float() / 255


class DecoderWorker:
    """Trains a decoder and judges it on objects of photos that it has not seen."""

    def __init__(self, job: DecoderJob) -> None:
        self._job = job

    def __call__(self, item: str) -> dict[str, Any]:
        """Write its weights; the record has the rows of pattern_synthesis.parquet."""
        job = self._job
        pairs = self._pairs()
        decoder = train_decoder(pairs, job.training, job.settings.seed)
        with replacing(job.weights) as temporary:
            deviations = torch.from_numpy(job.deviations)
            torch.save({"decoder": decoder.state_dict(), "deviations": deviations}, temporary)
        with torch.inference_mode():
            rows = [row for one in job.classes for row in self._judged(decoder, one)]
        return {"rows": rows, "learned": len(pairs)}

    def _pairs(self) -> _Pairs:
        """Every object and its mirror image, and every photo."""
        sources = [(one.shown, one.learned) for one in self._job.classes]
        if self._job.photos is not None:
            sources.append((self._job.photos, np.arange(len(self._job.photos.objects))))
        maps, pictures = list[Tensor](), list[Tensor]()
        for shown, rows in sources:
            plain = self._job.pictures(shown.objects.only(rows))
            pictures += [plain, plain.flip(3)][: len(shown.sides)]
            maps += [side[row : row + 1].half() for side in shown.sides for row in rows.tolist()]
        return _Pairs(torch.cat(maps), torch.cat(pictures))

    def _judged(self, decoder: Decoder, one: ShownClass) -> Iterator[dict[str, Any]]:
        job = self._job
        maps, pictures = job.turned(one, one.held)
        key = {"class": one.label, "layer": job.layer.name, "objects": len(one.held)}
        mean = job.turned(one, one.learned)[1].mean(dim=0).expand_as(pictures)
        yield {**key, "top": None, "source": "mean", "responses": 0.0, **_decibels(mean, pictures)}
        yield {**key, "top": None, "source": "whole", **_shown(decoder, maps, pictures)}
        draw = torch.Generator().manual_seed(job.settings.seed)
        for top in job.tops:
            kept = job.at_patterns(one, top, one.held, maps)
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

"""What units respond with on objects and their mirror images: stored once, read block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.responses import UnitMoments, responses
from gmm_ops.records import Sums
from workflows.asking.image_parts import ImageShard, Phase
from workflows.asking.pattern_files import PatternedLayer
from workflows.asking.study import StudyContext
from workflows.data.network_inputs import ObjectInputs
from workflows.data.objects import BoxedObjects
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.atomic import replacing
from workflows.storage.names import slug
from workflows.storage.run_folder import RunFolder


@dataclass(frozen=True)
class ResponseFiles:
    """Maps of a class while the study is at work: for each layer and shard of photos a plain array on the disk.

    They are read many times, a few units of all objects at a time. A plain array that is mapped into memory gives just
    these bytes, and none is decoded again; that of a shard is written whole or not at all, so it may be written twice.

    Attributes:
        root: folder.
        counts: objects of every shard, in order.
    """

    root: Path
    counts: tuple[int, ...]

    def path(self, layer: str, shard: int) -> Path:
        """(b, S, D, H, W): objects of a shard, each as it is and, with S = 2, its mirror image."""
        return self.root / slug(layer) / f"{shard:06d}.npy"

    def paths(self, layer: str) -> tuple[Path, ...]:
        """Of all shards."""
        return tuple(self.path(layer, shard) for shard in range(len(self.counts)))


@dataclass(frozen=True)
class CropMoments(Sums):
    """What one shard adds up to: of every layer."""

    layers: tuple[UnitMoments, ...]


def write_plain(path: Path, values: np.ndarray) -> None:
    """An array that can be mapped into memory, whole or not at all."""
    with replacing(path, synced=False) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


class CropWorker:
    """Runs the objects of a shard of photos through the network; built once an actor.

    Args:
        settings, plan, folder: of the run.
        objects: of the class.
        layers: whose maps are stored.
        mirrored: run mirror images too.
        files: where they are stored.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        objects: BoxedObjects,
        layers: Sequence[PatternedLayer],
        mirrored: bool,
        files: ResponseFiles,
    ) -> None:
        self._objects, self._layers, self._mirrored, self._files = objects, layers, mirrored, files
        self._device = choose_device(settings.runtime.device)
        size = plan.input_height, plan.input_width
        shape = settings.preprocessing.channels, *size
        network = UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting, self._device)
        self._network = network.tapped([layer.name for layer in layers])
        self._inputs = ObjectInputs(settings, folder, size, self._device)
        self._batch = plan.batch(settings.extract)
        self._dtype = np.dtype(settings.extract.dtype)

    def __call__(self, shard: ImageShard) -> CropMoments:
        """Store the maps of its objects, and give their sums."""
        own = self._objects.only(np.isin(self._objects.images, shard.images))
        found: list[list[np.ndarray]] = [[] for _ in self._layers]
        with torch.inference_mode():
            for sides in self._inputs(own, self._batch, self._mirrored):
                maps = [self._network(side)[1] for side in sides]
                for place, stored in enumerate(found):
                    stored.append(torch.stack([one[place] for one in maps], dim=1).cpu().numpy().astype(self._dtype))
        moments = []
        for layer, stored in zip(self._layers, found, strict=True):
            whole = np.concatenate(stored)
            write_plain(self._files.path(layer.name, shard.index), whole)
            moments.append(UnitMoments.from_batch(torch.from_numpy(whole).float().flatten(0, 1)))
        return CropMoments(tuple(moments))


@dataclass(frozen=True)
class ObjectResponses:
    """F of some units of a layer on some objects, each turned: rows are read when they are asked for.

    Attributes:
        paths: of the maps of a layer, shard by shard.
        counts: objects of every shard.
        deviations: (D,) of all units of the layer.
        sides: (n,) 0: the object as it is, 1: its mirror image, of all objects.
        rows: (m,) which objects.
        units: first unit, and the one behind the last.
    """

    paths: tuple[Path, ...]
    counts: tuple[int, ...]
    deviations: Float[np.ndarray, " D"]
    sides: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " m"]
    units: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, units, H, W)."""
        first, stop = self.units
        return len(self.rows), stop - first, *self._maps[0].shape[3:]

    def __getitem__(self, rows: slice, /) -> Float[Tensor, "b D H W"]:
        first, stop = self.units
        found = []
        for row in self.rows[rows].tolist():
            shard = int(np.searchsorted(self._starts, row, side="right")) - 1
            found.append(self._maps[shard][row - self._starts[shard], self.sides[row], first:stop])
        maps = np.stack(found) if found else np.zeros((0, *self.shape[1:]), np.float32)
        return responses(torch.from_numpy(maps).float(), torch.from_numpy(self.deviations[first:stop]))

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r", allow_pickle=False) for path in self.paths]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *self.counts[:-1]])

    def __getstate__(self) -> Mapping[str, object]:
        """Without the open files: an actor opens its own."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


@dataclass(frozen=True, eq=False)
class Crops:
    """Boxes on photos through the network: a phase of the study, whose maps stay while it is at work.

    Attributes:
        study: at work.
        name: of the phase.
        root: folder of the maps.
        objects: the boxes.
        layers: whose maps are stored, lowest first.
        mirrored: run mirror images too.
        further_bytes: what else the study writes for them.
    """

    study: StudyContext
    name: str
    root: Path
    objects: BoxedObjects
    layers: tuple[PatternedLayer, ...]
    mirrored: bool
    further_bytes: int = 0

    @cached_property
    def phase(self) -> Phase:
        """The bytes are all that is written, spread over the shards."""
        images = np.unique(self.objects.images)
        passes = len(self.objects) * (1 + self.mirrored) / len(images)
        bare = Phase(self.name, images, passes)
        return Phase(bare.name, images, passes, -(-self._bytes // len(self.study.shards(bare))))

    @property
    def _bytes(self) -> int:
        width = np.dtype(self.study.settings.extract.dtype).itemsize
        maps = sum(layer.units * layer.grid.height * layer.grid.width for layer in self.layers)
        return len(self.objects) * maps * width * (1 + self.mirrored) + self.further_bytes

    @cached_property
    def files(self) -> ResponseFiles:
        """Where the maps lie."""
        shards = self.study.shards(self.phase)
        counts = tuple(int(np.isin(self.objects.images, shard.images).sum()) for shard in shards)
        return ResponseFiles(self.root, counts)

    def run(self) -> tuple[Float[np.ndarray, " D"], ...]:
        """Run what has not been run; gives the standard deviations of the units of every layer."""
        inputs = {"objects": self.objects, "layers": self.layers, "mirrored": self.mirrored, "files": self.files}
        moments = self.study.map_parts(self.phase, CropWorker, **inputs).sum(CropMoments)
        return tuple(one.deviations().numpy() for one in moments.layers)

    def maps(self, place: int, deviations: Float[np.ndarray, " D"], sides: Int[np.ndarray, " n"]) -> ObjectResponses:
        """F of a layer, each crop as it is or its mirror image."""
        layer, every = self.layers[place], np.arange(len(self.objects))
        paths = self.files.paths(layer.name)
        return ObjectResponses(paths, self.files.counts, deviations, sides, every, (0, layer.units))

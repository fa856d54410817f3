"""The frozen network over one shard: decode, forward once, hand out every modelled layer."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workflows.data.decoding import BrokenPicture, Picture
from workflows.data.device_decoding import device_decoder
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.data.shards import Shard
from workflows.errors import DataError
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.phases import phase
from workflows.plan.run_inputs import refuse_changed_inputs
from workflows.plan.run_plan import OUTPUT, ForwardTrial, Plan
from workflows.runtime.devices import STORAGE_DTYPES, choose_device
from workflows.settings import Settings
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder

_SPREAD_COLUMNS = 20_000
_LOST_SPREAD, _LOST_UNITS = 0.03, 0.1
"""A unit is lost that is rounded by more than this share of its standard deviation, a layer with more units lost."""

_TRIAL_S = 0.5
"""Seconds that a batch is measured for, at least."""
_HUNG_S = 300.0
"""After which an actor no longer waits for one that failed."""


def spread_lost(columns: Float[Tensor, "n D"], dtype: torch.dtype) -> tuple[float, float]:
    """Median standard deviation of a layer's units, and the share of them that a cast rounds away.

    Units that hardly vary beside the others (below a thousandth of the median of those that vary) are not counted:
    networks have dead ones. Overflow is not counted either, it is refused by itself.
    """
    exact = columns.double()
    spread = exact.std(dim=0, correction=0)
    varying = spread > spread.max() * 1e-6
    if not bool(varying.any()):
        return 0.0, 0.0
    median = spread[varying].median()
    counted = varying & (spread >= 1e-3 * median)
    error = (columns.to(dtype).double() - exact).square().mean(dim=0).sqrt()
    lost = (error > _LOST_SPREAD * spread) & error.isfinite()
    return float(median), float(lost[counted].double().mean())


@dataclass(frozen=True)
class ForwardBatch:
    """Images behind one forward pass.

    Attributes:
        first: image id of row 0; of a shard the others follow.
        logits: (N, M) float32 on the CPU; of a network without outputs, the values of its last layer.
        columns: layer name -> (N, H*W, D) as the network computed them, on its device; within the storage dtype.
        broken: row -> why its picture could not be read; its columns are those of a black picture.
    """

    first: int
    logits: Float[Tensor, "N M"]
    columns: dict[str, Tensor]
    broken: dict[int, str]


class FrozenForward:
    """A network ready to run over shards.

    A shard is always cut into the same batches, so what it yields does not depend on how many actors share
    the work. The next batch is decoded while the current one is in the network.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.device = choose_device(settings.runtime.device)
        self.precision = torch.bfloat16 if settings.extract.precision == "bfloat16" else torch.float32
        if self.device.type == "cuda":
            # TF32 keeps 10 bits of mantissa: far too few for "float32" columns, and on by default for convolutions.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        names = [layer.name for layer in plan.layers]
        refuse_changed_inputs(settings.network.name, plan, folder)
        network = load_network(settings.network.model_copy(update={"weights": plan.weights}))
        tapped = TappedNetwork(network, names, rewriting=plan.rewriting, outputs=plan.outputs)
        self.network = tapped.to(self.device, self.precision)
        self.preprocessor = Preprocessor(settings.preprocessing)
        self._spread_seen = False
        threads = settings.runtime.decode_threads
        on_device = device_decoder(settings.extract.decode, self.preprocessor, self.device)
        self.reader = PictureReader(settings.data, threads, geometry=self.preprocessor.crop, on_device=on_device)

    def __call__(self, shard: Shard) -> Iterator[ForwardBatch]:
        """Yield the shard's batches in order.

        Raises:
            DataError: NaN or infinite activations, or values beyond the storage dtype.
        """
        return self.of(range(shard.first, shard.stop))

    def of(self, images: Sequence[int]) -> Iterator[ForwardBatch]:
        """Yield batches of some images, ascending ids near each other. Raises DataError, see ``__call__``."""
        done = 0
        for pixels, broken in self._inputs(images, self.plan.batch(self.settings.extract)):
            with phase("forward"):
                batch = self._forward(images[done : done + len(pixels)], pixels, broken)
            yield batch
            done += len(pixels)

    def inputs(self, images: Sequence[int]) -> Float[Tensor, "N C H W"]:
        """What the network is given for some images, ascending ids near each other; black where one is broken."""
        ((pixels, _),) = self._inputs(images, len(images))
        return self.preprocessor.normalise(pixels, self.device).to(self.precision)

    def _inputs(self, images: Sequence[int], batch: int) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
        with phase("read"):
            pictures = IndexedPictures.read(self.folder.images_table, images)
        for results in self.reader.stream(pictures.paths, batch, states=pictures.states):
            yield self._stack(results)

    def _stack(self, results: Sequence[Picture | BrokenPicture]) -> tuple[np.ndarray, dict[int, str]]:
        """Crops (N, H, W, 3) uint8, black where the picture is broken, and why by row."""
        size = (self.plan.input_height, self.plan.input_width)
        black = np.zeros((*size, 3), np.uint8)
        broken = {row: result.reason for row, result in enumerate(results) if isinstance(result, BrokenPicture)}
        crops = [black if isinstance(result, BrokenPicture) else result.pixels for result in results]
        return self.preprocessor.stack(crops, size), broken

    @torch.inference_mode()
    def _forward(self, images: Sequence[int], pixels: np.ndarray, broken: dict[int, str]) -> ForwardBatch:
        batch = self.preprocessor.normalise(pixels, self.device).to(self.precision)
        logits, maps = self.network(batch)
        columns = {layer.name: self._checked(maps[layer.name], layer.name, images) for layer in self.plan.layers}
        if not self._spread_seen:
            self._refuse_lost_spread(columns)
        if not torch.isfinite(logits).all():
            self._refuse(logits, OUTPUT, images, logits.dtype)
        return ForwardBatch(images[0], logits.float().cpu(), columns, broken)

    def _checked(self, maps: Tensor, layer: str, images: Sequence[int]) -> Tensor:
        """(N, D, H, W) -> (N, H*W, D); refuses what the storage dtype cannot hold."""
        dtype = STORAGE_DTYPES[self.settings.extract.dtype]
        columns = maps.permute(0, 2, 3, 1).reshape(len(maps), -1, maps.shape[1])  # a view of channels-last maps
        low, high = torch.aminmax(columns)  # NaN and infinity survive into both
        if not (torch.isfinite(low) and torch.isfinite(high) and max(-low, high) <= torch.finfo(dtype).max):
            self._refuse(maps, layer, images, dtype)
        return columns

    def _refuse_lost_spread(self, columns: dict[str, Tensor]) -> None:
        """At the first batch: refuse a storage dtype whose steps are too coarse for how a layer's columns differ."""
        self._spread_seen = True
        dtype = STORAGE_DTYPES[self.settings.extract.dtype]
        for layer in self.plan.layers:
            every = columns[layer.name].flatten(0, 1)
            kept, lost = spread_lost(every[:: max(1, len(every) // _SPREAD_COLUMNS)], dtype)
            if lost > _LOST_UNITS:
                raise DataError(
                    f"layer {layer.name!r}: extract.dtype must keep how its columns differ, but in {dtype} {lost:.0%} "
                    f"of its units are rounded by more than {_LOST_SPREAD:.0%} of their standard deviation (the median "
                    f"is {kept:.3g}), for they are tiny or lie far from 0; set extract.dtype = 'float32'"
                )

    def _refuse(self, maps: Tensor, layer: str, images: Sequence[int], dtype: torch.dtype) -> None:
        finite = torch.isfinite(maps).flatten(1).all(1)
        row = int(torch.argmin(finite.int())) if not finite.all() else int(maps.abs().flatten(1).amax(1).argmax())
        image = images[row]
        path = read_image_rows(self.folder.images_table, image, image + 1, ["path"])["path"][0].as_py()
        if not finite.all():
            raise DataError(
                f"layer {layer!r} has NaN or infinite activations at image {image} ({path}): "
                f"check network.weights and the [preprocessing] section"
            )
        raise DataError(
            f"layer {layer!r} reaches {maps.abs().max():.3g} at image {image} ({path}), beyond {dtype}: "
            f"set extract.dtype = 'float32'"
        )


class BatchTrials:
    """Runs in an actor that has the cores of a node, or a GPU, for itself: measures the batches that are allowed."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self._batches, self._images = [min(batch, plan.images) for batch in settings.extract.batches], plan.images
        self._forward = FrozenForward(settings, plan, folder)

    def __call__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Images per second of so many actors with so many threads each; the largest batch first, which says the bits.

        They are threads here, each with torch threads of its own: torch holds Python's lock between operations only.
        """
        actors, threads = item
        images = self._forward.inputs(range(max(self._batches)))
        trials, usual = [], list[int]()
        for batch in reversed(self._batches):
            together = Barrier(actors, timeout=_HUNG_S)
            with ThreadPoolExecutor(actors) as pool:
                given = [(images[:batch], threads, together)] * actors
                found = list(pool.map(self._measure, *zip(*given, strict=True)))
            usual = usual or found[0][1]
            same = all(bits == usual[:batch] for _, bits in found) and self._ends_alike(batch, images, usual)
            trials.append(ForwardTrial(batch, sum(rate for rate, _ in found), same))
        return {"trials": trials[::-1]}

    def _ends_alike(self, batch: int, images: Float[Tensor, "N C H W"], usual: Sequence[int]) -> bool:
        """Whether the last images, which fill no batch, have the bits that they have behind the largest batches."""
        left = {self._images % size for size in (batch, max(self._batches))}
        return len(left) == 1 or all(self._bits(images[:size]) == usual[:size] for size in left if size)

    @torch.inference_mode()
    def _measure(self, images: Float[Tensor, "N C H W"], threads: int, together: Barrier) -> tuple[float, list[int]]:
        """Images per second of one actor, and the bits of each image."""
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        bits = self._bits(images)  # memory and kernels are there now
        together.wait()
        started, passes, taken = time.perf_counter(), 0, 0.0
        while taken < _TRIAL_S:
            logits, _ = self._forward.network(images)
            float(logits[0, 0])  # a GPU has finished
            passes, taken = passes + 1, time.perf_counter() - started
        return passes * len(images) / taken, bits

    @torch.inference_mode()
    def _bits(self, images: Float[Tensor, "N C H W"]) -> list[int]:
        """A checksum of all that is computed of each image."""
        logits, maps = self._forward.network(images)
        found = [0] * len(images)
        for values in (logits, *maps.values()):
            for row, value in enumerate(values.float().cpu()):
                found[row] = zlib.crc32(value.contiguous().numpy().tobytes(), found[row])
        return found

"""Images of a run as its network takes them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from workflows.data.decoding import unbroken
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.objects import BoxedObjects, object_pixels
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder

_PHOTOS_AT_ONCE = 8


class NetworkInputs:
    """Decodes, crops and normalises images of a run; the next batch is decoded while one is used.

    Args:
        settings, folder: of the run.
        size: height and width of the network's input, as the run has settled on.
        device: where the batches are put.
    """

    def __init__(self, settings: Settings, folder: RunFolder, size: tuple[int, int], device: torch.device) -> None:
        self._folder, self._size, self._device = folder, size, device
        self._preprocessor = Preprocessor(settings.preprocessing)
        threads = settings.runtime.decode_threads
        self._reader = PictureReader(settings.data, threads, geometry=self._preprocessor.crop)

    def __call__(self, images: Sequence[int], batch: int) -> Iterator[tuple[list[int], Float[Tensor, "N C H W"]]]:
        """Ids and inputs. images: ascending ids near each other.

        Raises:
            DataError: a picture that the run could read is broken now.
        """
        indexed, done = IndexedPictures.read(self._folder.images_table, images), 0
        for pictures in self._reader.stream(indexed.paths, batch, states=indexed.states):
            crops = [unbroken(picture).pixels for picture in pictures]
            pixels = self._preprocessor.stack(crops, self._size)
            yield list(images[done : done + len(crops)]), self._preprocessor.normalise(pixels, self._device)
            done += len(crops)

    def black(self) -> Float[Tensor, "1 C H W"]:
        """A black picture."""
        return self._preprocessor.normalise(np.zeros((1, *self._size, 3), np.uint8), self._device)


class ObjectInputs:
    """Objects of photos as the network's input: their pixels in the photo as it is, resized to its square.

    Args:
        settings, folder: of the run.
        size: height and width of the network's input.
        device: where the batches are put.
    """

    def __init__(
        self, settings: Settings, folder: RunFolder, size: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        self._folder, self._size, self._device = folder, size, device
        self._preprocessor = Preprocessor(settings.preprocessing)
        self._reader = PictureReader(settings.data, settings.runtime.decode_threads)

    def crops(self, objects: BoxedObjects) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Every object in its order, as figures show it; photos are decoded once, few at a time.

        Raises:
            DataError: a picture that the run could read is broken now.
        """
        images = np.unique(objects.images)
        indexed = IndexedPictures.read(self._folder.images_table, images.tolist())
        boxes = (objects.boxes[objects.images == image] for image in images)
        for pictures in self._reader.stream(indexed.paths, _PHOTOS_AT_ONCE, states=indexed.states):
            for picture in pictures:
                pixels = unbroken(picture).pixels
                for box in next(boxes):
                    yield self._preprocessor.square(object_pixels(pixels, box), self._size)

    def __call__(
        self, objects: BoxedObjects, batch: int, mirrored: bool
    ) -> Iterator[tuple[Float[Tensor, "N C H W"], ...]]:
        """Inputs of up to ``batch`` objects at a time, and where asked for of their mirror images."""
        crops = self.crops(objects)
        while some := list(islice(crops, batch)):
            pixels = np.stack(some)
            sides = (pixels, np.ascontiguousarray(pixels[:, :, ::-1])) if mirrored else (pixels,)
            yield tuple(self._preprocessor.normalise(side, self._device) for side in sides)

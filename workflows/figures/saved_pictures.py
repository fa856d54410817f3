"""The crops that figures show: read once from the images, saved as PNG, then read from the run folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from workflows.data.decoding import BrokenPicture
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.errors import DataError
from workflows.report.pictures import PictureFolder, picture_path
from workflows.settings import Settings
from workflows.storage.atomic import replacing
from workflows.storage.run_folder import RunFolder


class SavedPictures:
    """Pictures of a run by image id; one that no figure has saved yet is saved first."""

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self._folder = folder
        self._reader = PictureReader(settings.data, threads=1, geometry=Preprocessor(settings.preprocessing).crop)
        self._pictures = PictureFolder(folder.pictures)

    def read(self, image: int) -> UInt8[np.ndarray, "H W 3"]:
        """The network's input before normalisation, read-only.

        Raises:
            DataError: the picture can no longer be read.
        """
        if not picture_path(self._folder.pictures, image).exists():
            self.save([image])
        return self._pictures.read(image)

    def save(self, images: Sequence[int]) -> None:
        """Save the crops of these images that no figure has saved yet.

        Raises:
            DataError: a picture can no longer be read.
        """
        missing = [image for image in images if not picture_path(self._folder.pictures, image).exists()]
        indexed = [IndexedPictures.read(self._folder.images_table, [image]) for image in missing]
        paths, states = [one.paths[0] for one in indexed], [one.states[0] for one in indexed]
        for image, result in zip(missing, self._reader.read(paths, states), strict=True):
            if isinstance(result, BrokenPicture):
                raise DataError(f"image {image} could be read before, now it is {result.reason}: restore {result.path}")
            with replacing(picture_path(self._folder.pictures, image)) as temporary:
                Image.fromarray(result.pixels).save(temporary, format="PNG")

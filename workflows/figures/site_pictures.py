"""Pictures for the site: the crops that figures show, read from the run folder or, where it has none, the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

from jaxtyping import UInt8
from numpy import ndarray

from workflows.data.decoding import BrokenPicture
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.errors import RunError
from workflows.report.pictures import PictureFolder, picture_path
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder

_AT_ONCE = 64

Picture = UInt8[ndarray, "H W 3"]


class SitePictures:
    """Reads pictures of a run and writes none. One that can no longer be read is None, for a site needs no images.

    Attributes:
        absent: images that could not be read; ``reason`` says why the first of them could not.
    """

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self._folder = folder
        self._reader = PictureReader(settings.data, threads=1, geometry=Preprocessor(settings.preprocessing).crop)
        self._saved = PictureFolder(folder.pictures, kept=1)
        self.absent, self.reason = 0, ""

    def __enter__(self) -> SitePictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def read(self, images: Sequence[int]) -> Iterator[tuple[int, Picture | None]]:
        """The pictures of ascending image ids, some at a time."""
        for first in range(0, len(images), _AT_ONCE):
            part = list(images[first : first + _AT_ONCE])
            unsaved = [image for image in part if not picture_path(self._folder.pictures, image).exists()]
            found = dict(zip(unsaved, self._from_images(unsaved), strict=True))
            for image in part:
                yield image, found[image] if image in found else self._from_folder(image)

    def _from_folder(self, image: int) -> Picture | None:
        try:
            return self._saved.read(image)
        except RunError as error:
            return self._missing(str(error))

    def _from_images(self, images: Sequence[int]) -> list[Picture | None]:
        if not images:
            return []
        indexed = IndexedPictures.read(self._folder.images_table, images)
        try:
            return self._decoded(indexed.paths, indexed.states)
        except (RunError, OSError):  # one of them: which one is found singly
            if len(images) == 1:
                return [self._decode_one(indexed)]
            return [self._from_images([image])[0] for image in images]

    def _decode_one(self, indexed: IndexedPictures) -> Picture | None:
        try:
            return self._decoded(indexed.paths, indexed.states)[0]
        except (RunError, OSError) as error:
            return self._missing(str(error))

    def _decoded(self, paths: Sequence[str], states: Sequence[object]) -> list[Picture | None]:
        results = self._reader.read(paths, states)  # type: ignore[arg-type]
        return [self._missing(one.reason) if isinstance(one, BrokenPicture) else one.pixels for one in results]

    def _missing(self, reason: str) -> Picture | None:
        self.absent += 1
        self.reason = self.reason or reason
        return None

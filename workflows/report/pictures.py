"""Saved pictures: one PNG per image id, the network's input before normalisation."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from workflows.errors import RunFolderError


def picture_path(folder: Path, image: int) -> Path:
    """Where the picture of an image id is saved."""
    return folder / f"{image}.png"


class PictureFolder:
    """Reads saved pictures and keeps the most recent ones in memory.

    Args:
        root: folder of ``<image>.png`` files.
        kept: how many decoded pictures stay in memory (a 224-pixel one is 150 kB).
    """

    def __init__(self, root: Path, kept: int = 512) -> None:
        self.root = root
        self._kept = kept
        self._recent: OrderedDict[int, UInt8[np.ndarray, "H W 3"]] = OrderedDict()

    def read(self, image: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of an image id, RGB, read-only.

        Raises:
            RunFolderError: it is not in the folder or cannot be decoded.
        """
        if image in self._recent:
            self._recent.move_to_end(image)
            return self._recent[image]
        path = picture_path(self.root, image)
        try:
            with Image.open(path) as opened:
                picture = np.asarray(opened.convert("RGB"))
        except FileNotFoundError:
            raise RunFolderError(f"picture {str(path)!r} is missing: run the draw stage again to save it") from None
        except (OSError, SyntaxError) as error:
            raise RunFolderError(f"picture {str(path)!r} is broken ({error}): delete it and draw again") from None
        picture.setflags(write=False)
        self._recent[image] = picture
        if len(self._recent) > self._kept:
            self._recent.popitem(last=False)
        return picture

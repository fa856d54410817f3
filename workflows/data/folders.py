"""Image folders: one folder per class, several roots joined."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from workflows.data.decoding import PictureError, check_readable
from workflows.errors import DataError

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"))


@dataclass(frozen=True)
class ClassFolder:
    """One class of one root: its folder and the image files directly in it, in natural order."""

    name: str
    folder: str
    files: tuple[str, ...]


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts ``image2`` before ``image10``."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def scan_folders(roots: Sequence[str], n_threads: int = 4) -> dict[str, list[str]]:
    """Class name to the absolute paths of its images, names sorted; roots in the order given.

    Names are listed, pictures are not read, except for one readable picture in every class folder.
    Hidden names, files beside the class folders and files without an image extension are left out.

    Raises:
        DataError: a root is missing or holds no class folder, or a class folder holds no readable image.
    """
    if not roots:
        raise DataError("data.folders is empty; give folders that hold one folder of images per class")
    absolute_roots = [os.path.abspath(Path(root).expanduser()) for root in roots]
    if len(set(absolute_roots)) < len(roots):
        raise DataError(f"data.folders names a folder twice ({', '.join(roots)}); every image may occur once")
    found = [entry for root in absolute_roots for entry in _class_folders(root)]
    with ThreadPoolExecutor(n_threads) as pool:
        # Consumed in order, so that the first bad folder is reported whatever the threads do.
        for _ in pool.map(_demand_readable, found):
            pass
    classes: dict[str, list[str]] = {name: [] for name in sorted({entry.name for entry in found})}
    for entry in found:
        classes[entry.name] += [os.path.join(entry.folder, file) for file in entry.files]
    return classes


def _class_folders(root: str) -> list[ClassFolder]:
    if not os.path.isdir(root):
        raise DataError(f"data.folders: {root!r} is not a folder; give folders that hold one folder per class")
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not names:
        raise DataError(f"data.folders: {root!r} holds no class folder; put the images of each class in a folder of it")
    return [_class_folder(name, os.path.join(root, name)) for name in names]


def _class_folder(name: str, folder: str) -> ClassFolder:
    with os.scandir(folder) as entries:
        files = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in EXTENSIONS
            and entry.is_file()
        ]
    if not files:
        raise DataError(
            f"class folder {folder!r} holds no image directly in it (known are {', '.join(sorted(EXTENSIONS))}); "
            "remove the folder or add images"
        )
    return ClassFolder(name, folder, tuple(sorted(files, key=natural_key)))


def _demand_readable(entry: ClassFolder) -> None:
    reasons = []
    for file in entry.files:
        try:
            check_readable(Path(entry.folder, file).read_bytes())
            return
        except (PictureError, OSError) as error:
            reasons.append(f"{file}: {error}")
    raise DataError(
        f"class folder {entry.folder!r} holds no readable image: none of its {len(entry.files)} files can be decoded "
        f"({reasons[0]}); remove the folder or add images"
    )

"""Which files are images, by their names, and those below a place in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator

from workflows.storage.names import readable_name
from workflows.storage.object_store import files_below

EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".jpx", ".png", ".apng", ".bmp", ".dib", ".gif"),
        *(".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
"""Of the formats that ``decoding`` opens."""

_RUBBISH = frozenset(
    (
        *("@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found"),
        *("thumbs.db", "desktop.ini"),
    )
)
"""What systems put into folders, besides hidden names: of no interest to anybody."""


def is_rubbish(name: str) -> bool:
    """Whether a file or folder is hidden, or what systems leave behind."""
    return name.startswith(".") or name.casefold() in _RUBBISH


def why_no_image(name: str) -> str:
    """Why a file is left out; empty: its name is that of an image."""
    extension = os.path.splitext(name)[1].lower()
    return "" if extension in EXTENSIONS else f"without an image extension ({readable_name(extension) or 'none'})"


def stored_files(root: str) -> Iterator[tuple[str, str]]:
    """Files below a URI, by what follows it, each with why it is left out; rubbish is skipped, as is what is empty.

    An empty object is how consoles draw a folder.

    Raises:
        OSError: the store does not answer.
    """
    for file in files_below(root):
        path = file.uri[len(root) + 1 :]
        if not any(map(is_rubbish, path.split("/"))) and not (file.size == 0 and why_no_image(path)):
            yield path, why_no_image(path)

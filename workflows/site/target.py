"""Where a site is written: whole or not at all, and never over what is no site."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from workflows.errors import RunFolderError, full_disk, is_full

MARKER = "inference-graphs-site.txt"
"""Stands in the folder of a site: what has it may be written anew."""

_BUILDING = ".building-"


@contextmanager
def new_site(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``, which takes its place when the block ends without an error.

    Raises:
        RunFolderError: ``target`` is a file, or a folder that holds something else than a site.
        DiskFull: the disk has no room.
    """
    _refuse_other(target)
    building = target.with_name(f".{target.name}{_BUILDING}{uuid4().hex[:8]}")
    try:
        building.mkdir(parents=True)
        (building / MARKER).write_text(
            "A report site of inference-graphs; the command report replaces this folder.\n", encoding="utf-8"
        )
        yield building
        old = target.with_name(f"{building.name}-old")
        if target.exists():
            target.rename(old)
        building.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if is_full(error):
            raise full_disk(error, target) from None
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_other(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise RunFolderError(f"report: --out must be a folder, got the file {str(target)!r}; give another")
    held = sorted(entry.name for entry in target.iterdir())
    if held and MARKER not in held:
        shown = ", ".join(held[:5])
        raise RunFolderError(
            f"report: --out must be a new or empty folder or an earlier site, got {str(target)!r}, which holds other "
            f"files ({shown}); give another --out"
        )

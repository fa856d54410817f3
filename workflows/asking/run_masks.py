"""The masks of a run's images, as a study is asked for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc

from workflows.data.masks.concept_masks import MaskSet, read_masks
from workflows.errors import SettingsError
from workflows.run import Run
from workflows.storage.study_folder import place_of
from workflows.storage.tables import read_table

_NAMED = 3


def masks_place(run: Run, source: str) -> str:
    """``kind:path`` as the request of a study has it, whatever folder it is named from; see ``place_of``."""
    kind, _, place = source.partition(":")
    path, mark, category = place.partition("#")
    return f"{kind}:{place_of(run.folder, Path(path))}{mark}{category.strip()}"


def masks_of_run(run: Run, source: str | None, say: Callable[[str], None]) -> MaskSet:
    """Masks on the readable images of a run; what does not fit together is told.

    Args:
        run: whose images.
        source: as ``--masks`` has it; None: the run's ``data.masks``.
        say: prints a line.

    Raises:
        SettingsError: neither names a source. DataError: see ``read_masks``.
    """
    asked = source or run.settings.data.masks
    if not asked:
        raise SettingsError(
            "--masks: must be coco:FILE, boxes:FILE, broden:FOLDER, labels:FOLDER or colours:FOLDER, got none; give "
            "it, or set data.masks"
        )
    table = read_table(run.folder.images_table, ["image", "path", "status"])
    table = table.filter(pc.not_equal(table["status"], "broken"))
    paths = dict(zip(table["image"].to_pylist(), table["path"].to_pylist(), strict=True))
    size = (run.plan.input_height, run.plan.input_width)
    masks = read_masks(asked, paths, run.settings.data, run.settings.preprocessing, size)
    if masks.absent:
        named = ", ".join(masks.absent[:_NAMED]) + (", ..." if len(masks.absent) > _NAMED else "")
        known = len(masks.images) + len(masks.absent)
        say(f"masks: {len(masks.absent):,} of {known:,} photos of the file are not in the run: {named}")
    for note in masks.notes:
        say(f"masks: {note}")
    return masks

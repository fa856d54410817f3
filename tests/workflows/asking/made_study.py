"""A made study: how many images the network calls each class, counted by actors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gmm_ops.records import Sums
from workflows.asking.image_parts import ImageShard, Phase
from workflows.asking.study import Asked, StudyContext, open_study
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import Study

STUDY = Study("census", "how many images are called each class", ("census",))
SCHEMA = pa.schema(
    [
        pa.field("network", pa.string(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Census(Sums):
    """counts: (M,) int64."""

    counts: Tensor


class CensusWorker:
    """Dies at one shard as long as a file is there."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, deadly: Path | None) -> None:
        self.folder, self.plan, self.deadly = folder, plan, deadly

    def __call__(self, shard: ImageShard) -> Census:
        if self.deadly is not None and self.deadly.exists() and shard.index == 3:
            os._exit(1)
        images = ImageColumns.read(self.folder, 0, self.plan.images)
        predicted = torch.from_numpy(images.predicted[list(shard.images)])
        return Census(torch.bincount(predicted, minlength=len(self.plan.class_names)))


def run_census(
    asked: Asked,
    deadly: Path | None = None,
    look: Callable[[StudyContext], None] | None = None,
    among: Sequence[int] | None = None,
    **request: Any,
) -> dict[str, Any]:
    """deadly: see the worker. look: sees the study before its parts are dropped. among: ids to choose from."""
    with open_study("census", asked, request) as study:
        chosen = study.choose_images(among=None if among is None else np.array(among))
        phase = Phase("counts", chosen, passes=2, part_bytes=1000)
        if study.begin(phase):
            _answer(study, phase, deadly, request.get("classes"))
            if look is not None:
                look(study)
    return study.summary()


def _answer(study: StudyContext, phase: Phase, deadly: Path | None, classes: list[int] | None) -> None:
    counts = study.map_parts(phase, CensusWorker, deadly=deadly).sum(Census).counts.tolist()
    rows = [{"class": label, "images": count} for label, count in enumerate(counts)]
    kept = [row for row in rows if classes is None or row["class"] in classes]
    study.write_table("census", kept)
    study.tell(counted=sum(counts))

"""What fits decide about the validation images of a run folder, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from workflows.data.shards import plan_shards
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.decisions import WAYS, DecisionsWorker, FittedLayer, decisions_part, shards_to_decide, way_column
from workflows.words.shard_names import ShardNames


def decided(settings: Settings, plan: Plan, folder: RunFolder, fits: Sequence[FittedLayer], parts: Path) -> pa.Table:
    """Rows of decisions.parquet of all fits, image after image."""
    worker = DecisionsWorker(settings, plan, folder, fits, parts)
    shards = plan_shards(plan.images, settings.extract.images_per_shard)
    wanted = shards_to_decide(settings, plan, folder, fits)
    for index, names in wanted.items():
        worker(ShardNames(shards[index], tuple(names)))
    return pa.concat_tables([read_table(decisions_part(parts, index)) for index in wanted])


def errors_of(rows: pa.Table) -> dict[str, int]:
    """Wrong images by way."""
    label = rows["label"].to_numpy()
    return {name: int(np.sum(rows[name].to_numpy() != label)) for name in (way_column(*way) for way in WAYS)}

"""What counting one more image takes: measured by itself, for on few images most of the stage is its start."""

from __future__ import annotations

import time
from dataclasses import dataclass

from workflows.forecast.amounts import Amounts
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import joint_scope, read_scopes
from workflows.settings import Settings
from workflows.stages.count import counts_of
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.words.pair_sums import PairBlock
from workflows.words.scope_images import ScopeImages


@dataclass(frozen=True)
class CountSeconds:
    """Of one core.

    Attributes:
        pair: of a validation image, in all pairs of layers. layer: of any image, in all layers.
    """

    pair: float = 0.0
    layer: float = 0.0

    def of(self, amounts: Amounts) -> float:
        """Of all images of all scopes."""
        return self.pair * amounts.counted + self.layer * amounts.assigned


def count_seconds(folder: RunFolder, settings: Settings, plan: Plan) -> CountSeconds:
    """Count the first scope of a finished run again, now that everything is compiled; nothing is written."""
    scope = joint_scope(plan) if settings.hmm is not None else read_scopes(folder)[0]
    images = ScopeImages(ImageColumns.read(folder, 0, plan.images))
    seconds = {True: 0.0, False: 0.0}
    for count in counts_of(folder, settings, plan, scope, images):
        for block in count.blocks:
            count.part(block)
            begun = time.process_time()
            count.part(block)
            of_pair = isinstance(block, PairBlock)
            seconds[of_pair] += (time.process_time() - begun) / max(1, count.images)
    return CountSeconds(seconds[True], seconds[False])

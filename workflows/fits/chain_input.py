"""What a hidden Markov model cannot be fitted to, told before the fit: too few images, silent layers and units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from workflows.context import StageContext
from workflows.data.shards import plan_shards
from workflows.errors import DataError
from workflows.fits.training_images import TrainingImages, readable_images
from workflows.plan.run_plan import Plan
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder

ActiveUnits = dict[str, Bool[np.ndarray, " D"]]
"""Layer -> which of its units are not zero for some image."""


@dataclass(frozen=True)
class ActivityBlock:
    """Consecutive training images, read once for all layers."""

    folder: RunFolder
    plan: Plan
    first: int
    stop: int

    def active(self) -> ActiveUnits:
        """Units that are not zero for some image of the block; broken images do not count."""
        rows = np.flatnonzero(readable_images(self.folder, self.first, self.stop))
        found = {}
        for layer in self.plan.layers:
            columns = read_rows(self.folder.activations(layer.name), self.first, self.stop)
            found[layer.name] = (columns[rows, 0, :] != 0).any(axis=0)
        return found


def refuse_too_few_images(context: StageContext, plan: Plan) -> None:
    """Raise DataError if a layer has more words than images to fit, or if no image can judge the restarts."""
    images = TrainingImages(context.settings, plan, context.folder)
    fitted, held_out = int(images.fitted.sum()), int(images.held_out.sum())
    shares = (
        f"of {plan.train_images} training images {held_out} are held out (fit.held_out = "
        f"{context.settings.fit.held_out:g}) and {plan.train_images - fitted - held_out} are broken"
    )
    for layer in plan.layers:
        if layer.words > fitted:
            raise DataError(
                f"fit.words gives layer {layer.name!r} {layer.words} words, but only {fitted} images are fitted: "
                f"{shares}; give at most {fitted} words, or more images"
            )
    if not held_out:
        raise DataError(
            f"no readable image is left to judge the restarts: {shares}; raise fit.held_out, or give more images"
        )


def silent_units(context: StageContext, plan: Plan) -> dict[str, int]:
    """Units that are zero for every training image, by layer; exact, one pass over the stored activations.

    Raises:
        DataError: a layer has no other units.
    """
    shards = plan_shards(plan.train_images, context.settings.extract.images_per_shard)
    blocks = [ActivityBlock(context.folder, plan, shard.first, shard.stop) for shard in shards]
    active = context.reduce(blocks, ActivityBlock.active, _either)
    silent = {layer: int((~units).sum()) for layer, units in active.items()}
    for layer in plan.layers:
        if silent[layer.name] == layer.units:
            raise DataError(
                f"layer {layer.name!r} is zero for every training image, so its words cannot differ: check "
                "network.weights and the [preprocessing] section, or name the layers to model without it"
            )
    return silent


def silent_warning(silent: dict[str, int], plan: Plan, clamp: float) -> str | None:
    """What the run says of silent units; None if there are none."""
    counts = [f"{layer.name} {silent[layer.name]} of {layer.units}" for layer in plan.layers if silent[layer.name]]
    if not counts:
        return None
    return (
        f"units that are zero for every training image: {', '.join(counts)}; they tell no words apart, and a rectified "
        f"unit's mean stays {clamp:g} standard deviations below 0 (hmm.clamp)"
    )


def _either(left: ActiveUnits, right: ActiveUnits) -> ActiveUnits:
    return {layer: units | right[layer] for layer, units in left.items()}

"""First-order effects of all words on the images of a shard, from one backward pass; in an actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.trust.column_changes import changed_columns
from gmm_ops.trust.word_effects import FirstOrderSums, first_order_effects
from workflows.asking.image_parts import ImageShard
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder
from workflows.studies.trust.request import Intervention
from workflows.studies.trust.scoped_network import ScopedNetwork, WordedBatch


class FirstOrderWorker:
    """Sums by half of a class; built once an actor.

    Args:
        settings, plan, folder: of the run.
        scope: whose words.
        interventions: what columns would say without their words.
        groups: by image, its group.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        scope: str,
        interventions: Sequence[Intervention],
        groups: Mapping[int, int],
    ) -> None:
        self._own = ScopedNetwork(settings, plan, folder, scope)
        self._body = self._own.network.tapped(self._own.names)
        self._interventions, self._groups = interventions, groups

    def __call__(self, shard: ImageShard) -> FirstOrderSums:
        """Sums over the shard's images."""
        parts = []
        for batch in self._own.batches(shard):
            groups = torch.tensor([self._groups[int(image)] for image in batch.images])
            parts.append(FirstOrderSums.from_batch(groups, self._effects(batch).cpu()))
        return sum(parts[1:], parts[0])

    def _effects(self, batch: WordedBatch) -> Float[Tensor, "N I U"]:
        with torch.enable_grad():
            logits, taps = self._body(batch.pixels.requires_grad_())
            chosen = logits.gather(1, batch.predicted[:, None])
            gradients = torch.autograd.grad(chosen.sum(), taps)
        return torch.cat(
            [
                self._of_layer(*every)
                for every in zip(range(len(taps)), (tap.detach() for tap in taps), gradients, batch.words, strict=True)
            ],
            dim=2,
        )

    def _of_layer(self, layer: int, maps: Tensor, gradients: Tensor, words: Tensor) -> Float[Tensor, "N I K"]:
        known = self._own.layers[layer]
        means, size = known.mixture.mean, known.mixture.n_words
        changes = (changed_columns(maps, words, means, known.centre, change) for change in self._interventions)
        effects = [first_order_effects(gradients, maps, changed, words, size) for changed in changes]
        return torch.stack(effects, dim=1)

"""The images of a shard with columns taken out: drops of logits, whole layers replaced, edges; in an actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.records import Sums, joined
from gmm_ops.trust.column_changes import as_many_others, changed_columns, columns_of
from gmm_ops.trust.word_choices import draw_keys
from workflows.asking.image_parts import ImageShard
from workflows.networks.interventions import Interventions, Pause, replaced, replaced_columns
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.run_folder import RunFolder
from workflows.studies.trust.edges import EdgeProbes, EdgeTests
from workflows.studies.trust.probes import LayerProbes
from workflows.studies.trust.request import Intervention
from workflows.studies.trust.scoped_network import ScopedNetwork, WordedBatch

KINDS = ("words", "error", "components", "axes")
"""Of whole layers that are replaced; the centre stands beside them."""


@dataclass(frozen=True)
class ProbedImages(Sums):
    """What the images of a shard say.

    Attributes:
        images: (n,) ids.
        plain: (n,) logit of the predicted class.
        right: (n,) 1 where the prediction is the label, 0 where not, -1 without a label.
        drops: (n, J) of that logit under each probe of the class; NaN where it was not looked at.
        replaced: (n, L, kinds + 1) the logit with every column of a layer replaced, by kind; last the centre.
        same: (n, L, kinds) whether the decision is the same.
        right_after: (n, L, kinds) whether it is the label.
        positions: (n, E) columns of the upper word of each edge of the class.
        lost: (n, E, 1 + draws) of them that lose it: with the lower word ablated, and with as many others.
    """

    images: Annotated[Int[Tensor, " n"], joined]
    plain: Annotated[Float[Tensor, " n"], joined]
    right: Annotated[Int[Tensor, " n"], joined]
    drops: Annotated[Float[Tensor, "n J"], joined]
    replaced: Annotated[Float[Tensor, "n L kinds+1"], joined]
    same: Annotated[Bool[Tensor, "n L kinds"], joined]
    right_after: Annotated[Bool[Tensor, "n L kinds"], joined]
    positions: Annotated[Int[Tensor, "n E"], joined]
    lost: Annotated[Int[Tensor, "n E D"], joined]


@dataclass(frozen=True, eq=False)
class Tasks:
    """What is done with a class: probes by layer, edges by their lower layer, and how many there are."""

    probes: Sequence[LayerProbes]
    edges: EdgeProbes


class ProbingWorker:
    """Built once an actor.

    Args:
        settings, plan, folder: of the run.
        scope: whose words.
        interventions: of the probes, by their place; edges take the first.
        tasks: by class.
        judged: images of the judging halves.
        draws: of random columns.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        scope: str,
        interventions: Sequence[Intervention],
        tasks: Mapping[int, Tasks],
        judged: frozenset[int],
        draws: int,
    ) -> None:
        self._own = ScopedNetwork(settings, plan, folder, scope)
        self._network = Interventions(self._own.network)
        self._tests = EdgeTests(self._own, plan, draws)
        self._interventions, self._tasks, self._judged = interventions, tasks, judged
        self._draws, self._seed = draws, settings.seed
        self._width = max(sum(len(one.places) for one in task.probes) for task in tasks.values())
        self._edges = max(len(task.edges) for task in tasks.values())

    @torch.inference_mode()
    def __call__(self, shard: ImageShard) -> ProbedImages:
        """All that is asked of the shard's images."""
        parts = [self._batch(batch) for batch in self._own.batches(shard)]
        total = parts[0]
        for part in parts[1:]:
            total = total.merge(part)
        return total

    def _batch(self, batch: WordedBatch) -> ProbedImages:
        logits = self._network(batch.pixels)
        found = self._empty(batch, logits.gather(1, batch.predicted[:, None])[:, 0].cpu())
        for layer, pause in enumerate(self._pauses(batch.pixels)):
            maps = pause.value(self._own.names[layer])
            assert maps is not None  # a pause knows the layers that it was asked for
            keys = self._keys(batch, layer)
            self._replace(batch, layer, pause, maps, logits, found)
            self._probe(batch, layer, pause, maps, keys, found)
            edges = [self._tasks[int(label)].edges.below(layer) for label in batch.predicted]
            shift = self._changed(batch, layer, maps, self._interventions[0])
            self._tests(batch, layer, pause, shift, keys, edges, found.positions, found.lost)
        return found

    def _pauses(self, pixels: Tensor) -> list[Pause]:
        """Lowest layer first, as the plan has them."""
        by_name = {
            pause.layers[0]: pause for pause in self._network.pauses(pixels, [(one,) for one in self._own.names])
        }
        return [by_name[name] for name in self._own.names]

    def _empty(self, batch: WordedBatch, plain: Float[Tensor, " N"]) -> ProbedImages:
        images, layers = len(plain), len(self._own.names)
        labels, predicted = batch.labels.cpu(), batch.predicted.cpu()
        drops = torch.full((images, self._width), torch.nan, dtype=torch.float32)
        for row, image in enumerate(batch.images):
            for one in self._tasks[int(predicted[row])].probes:
                seen = ~one.judged_only if int(image) not in self._judged else torch.ones_like(one.judged_only)
                drops[row, one.places[seen]] = 0.0
        return ProbedImages(
            torch.from_numpy(batch.images.astype(np.int64)),
            plain.double(),
            torch.where(labels < 0, -1, (labels == predicted).long()),
            drops,
            torch.zeros(images, layers, len(KINDS) + 1, dtype=torch.float64),
            torch.zeros(images, layers, len(KINDS), dtype=torch.bool),
            torch.zeros(images, layers, len(KINDS), dtype=torch.bool),
            torch.zeros(images, self._edges, dtype=torch.int64),
            torch.zeros(images, self._edges, 1 + self._draws, dtype=torch.int64),
        )

    def _keys(self, batch: WordedBatch, layer: int) -> Float[Tensor, "draws N H W"]:
        words = batch.words[layer]
        every = [
            draw_keys(batch.images, words[0].numel(), draw, self._seed + layer).view(words.shape)
            for draw in range(self._draws)
        ]
        return torch.stack(every).float().to(words.device)

    def _changed(self, batch: WordedBatch, layer: int, maps: Tensor, change: str) -> Tensor:
        known = self._own.layers[layer]
        return changed_columns(maps, batch.words[layer], known.mixture.mean, known.centre, change, known.axes)  # type: ignore[arg-type]

    def _replace(
        self, batch: WordedBatch, layer: int, pause: Pause, maps: Tensor, logits: Tensor, found: ProbedImages
    ) -> None:
        """Every column of the layer."""
        for place, kind in enumerate((*KINDS, "mean")):
            instead = self._changed(batch, layer, maps, kind)
            after = pause.rest({self._own.names[layer]: replaced(instead)})
            found.replaced[:, layer, place] = after.gather(1, batch.predicted[:, None])[:, 0].cpu().double()
            if kind in KINDS:
                decided = after.argmax(dim=1)
                found.same[:, layer, place] = (decided == logits.argmax(dim=1)).cpu()
                found.right_after[:, layer, place] = (decided == batch.labels).cpu()

    def _probe(
        self, batch: WordedBatch, layer: int, pause: Pause, maps: Tensor, keys: Tensor, found: ProbedImages
    ) -> None:
        """All probes of all images, as many at once as the batch has images."""
        words, name = batch.words[layer], self._own.names[layer]
        changed = torch.stack([self._changed(batch, layer, maps, one) for one in self._interventions])
        for label in batch.predicted.unique().tolist():
            probes = self._tasks[label].probes[layer]
            rows, tasks = self._due(batch, probes, label, columns_present(words, probes.words.shape[1]))
            for some in _chunks(len(rows), len(words)):
                row, task = rows[some], tasks[some]
                mask = self._columns(words, probes, row, task, keys)
                change = replaced_columns(mask, changed[probes.interventions[task].to(maps.device), row])
                after = pause.rest({name: change}, row)[:, label].cpu().double()
                kept = len(some.unique())
                found.drops[row[:kept].cpu(), probes.places[task[:kept].cpu()]] = (
                    found.plain[row[:kept].cpu()] - after[:kept]
                ).float()

    def _due(
        self, batch: WordedBatch, probes: LayerProbes, label: int, present: Bool[Tensor, "N K"]
    ) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
        """Rows and probes of the class's images that have some of the columns; the others lose nothing."""
        own = (batch.predicted == label).cpu()
        judged = torch.tensor([int(image) in self._judged for image in batch.images])
        some = (present.float().cpu() @ probes.words.float().T) > 0
        due = some & own[:, None] & (judged[:, None] | ~probes.judged_only[None])
        rows, tasks = due.nonzero(as_tuple=True)
        return rows.to(batch.predicted.device), tasks.to(batch.predicted.device)

    def _columns(
        self, words: Tensor, probes: LayerProbes, row: Tensor, task: Tensor, keys: Tensor
    ) -> Bool[Tensor, "n H W"]:
        own = columns_of(words[row], probes.words.to(words.device)[task])
        draws = probes.draws.to(words.device)[task]
        at = (draws >= 0).nonzero()[:, 0]
        if len(at):
            among = words[row[at]] >= 0
            own[at] = as_many_others(own[at], among, keys[draws[at], row[at]])
        return own


def columns_present(words: Int[Tensor, "N H W"], n_words: int) -> Bool[Tensor, "N K"]:
    """Which words an image has."""
    found = torch.zeros(len(words), n_words + 1, dtype=torch.bool, device=words.device)
    flat = torch.where(words < 0, n_words, words).flatten(1)
    return found.scatter_(1, flat, True)[:, :n_words]


def _chunks(tasks: int, size: int) -> list[Int[Tensor, " size"]]:
    """Places of tasks, always ``size`` of them: the last are repeated, for the rest of a network may know its batch."""
    return [torch.arange(first, first + size).clamp(max=tasks - 1) for first in range(0, tasks, size)]

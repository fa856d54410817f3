"""Edges tested: do positions of the upper word lose it when the lower word goes from their windows?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.graphs.inference_graph import GraphEdge
from gmm_ops.trust.column_changes import as_many_others, inside_windows
from workflows.networks.interventions import Pause, replaced_columns
from workflows.plan.run_plan import Plan
from workflows.studies.trust.scoped_network import ScopedNetwork, WordedBatch


@dataclass(frozen=True, eq=False)
class EdgeProbes:
    """The edges of a class between modelled layers, in the order of the table."""

    edges: tuple[GraphEdge, ...]

    def __len__(self) -> int:
        return len(self.edges)

    def below(self, layer: int) -> list[tuple[int, GraphEdge]]:
        """Those whose lower word lies in a layer, with their places."""
        return [(place, edge) for place, edge in enumerate(self.edges) if edge.lower_layer == layer]


class EdgeTests:
    """Runs from a layer to the next modelled one, with the columns of a lower word ablated, or as many others.

    Args:
        own: the network.
        plan: of the run.
        draws: of as many others.
    """

    def __init__(self, own: ScopedNetwork, plan: Plan, draws: int) -> None:
        self._own, self._plan, self._draws = own, plan, draws

    def __call__(
        self,
        batch: WordedBatch,
        layer: int,
        pause: Pause,
        changed: Float[Tensor, "N D H W"],
        keys: Float[Tensor, "draws N H W"],
        edges: Sequence[Sequence[tuple[int, GraphEdge]]],
        positions: Int[Tensor, "N E"],
        lost: Int[Tensor, "N E draws+1"],
    ) -> None:
        """Fill in positions and lost of the edges whose lower word lies in the layer. edges: by image."""
        if not any(edges):
            return
        size, tasks = len(changed), self._due(batch, layer, edges, positions)
        for first in range(0, len(tasks), size):
            some = tasks[first : first + size]
            padded = [*some, *[some[-1]] * (size - len(some))]
            rows = torch.tensor([row for row, _, _ in padded], device=changed.device)
            own = [edge for _, _, edge in padded]
            upper, ablated, among = self._columns(batch, layer, rows, own)
            for draw in range(1 + self._draws):
                columns = ablated if draw == 0 else as_many_others(ablated, among, keys[draw - 1, rows])
                counts = self._lost(layer, pause, rows, columns, changed, upper, own)
                for (row, place, _), count in zip(some, counts.tolist(), strict=False):
                    lost[row, place, draw] = count

    def _due(
        self,
        batch: WordedBatch,
        layer: int,
        edges: Sequence[Sequence[tuple[int, GraphEdge]]],
        positions: Int[Tensor, "N E"],
    ) -> list[tuple[int, int, GraphEdge]]:
        """Fill in positions; row, place and edge where both words are there: of the others none is lost."""
        counts = [
            torch.stack(
                [torch.bincount(one[one >= 0], minlength=self._plan.layers[place].words) for one in words]
            ).cpu()
            for place, words in ((layer, batch.words[layer]), (layer + 1, batch.words[layer + 1]))
        ]
        due = []
        for row, own in enumerate(edges):
            for place, edge in own:
                positions[row, place] = counts[1][row, edge.upper_word]
                if counts[1][row, edge.upper_word] and counts[0][row, edge.lower_word]:
                    due.append((row, place, edge))
        return due

    def _columns(
        self, batch: WordedBatch, layer: int, rows: Tensor, edges: Sequence[GraphEdge]
    ) -> tuple[Bool[Tensor, "N h w"], Bool[Tensor, "N H W"], Bool[Tensor, "N H W"]]:
        """Positions of the upper words; columns of the lower words in their windows; all columns there."""
        window = self._plan.layers[layer + 1].window
        assert window is not None  # of the lowest layer alone
        lower, device = batch.words[layer][rows], rows.device
        words = [torch.tensor(some, device=device)[:, None, None] for some in _words(edges)]
        upper = batch.words[layer + 1][rows] == words[0]
        inside = inside_windows(upper, window, *lower.shape[1:]) & (lower >= 0)
        return upper, inside & (lower == words[1]), inside

    def _lost(
        self,
        layer: int,
        pause: Pause,
        rows: Tensor,
        columns: Bool[Tensor, "N H W"],
        changed: Tensor,
        upper: Bool[Tensor, "N h w"],
        edges: Sequence[GraphEdge],
    ) -> Int[Tensor, " N"]:
        names = self._own.names
        maps = pause.upto(names[layer + 1], {names[layer]: replaced_columns(columns, changed[rows])}, rows)
        image, y, x = upper.nonzero(as_tuple=True)
        if not len(image):
            return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        found = self._own.layers[layer + 1].mixture.assign(maps[image, :, y, x]).word
        wanted = torch.tensor(_words(edges)[0], device=rows.device)[image]
        return torch.bincount(image[found != wanted], minlength=len(rows))


def _words(edges: Sequence[GraphEdge]) -> tuple[list[int], list[int]]:
    return [edge.upper_word for edge in edges], [edge.lower_word for edge in edges]

"""Where in the window of an upper word the lower word of an edge sits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from gmm_ops.axes import LowerWordMaps, WordMaps
from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.device_counts import count_offsets_on
from gmm_ops.graphs.windows import Window
from gmm_ops.graphs.word_maps import integer_array, on_device, word_arrays, word_tensors
from gmm_ops.records import Sums


@njit(cache=True, nogil=True)
def _count_offsets(upper, lower, corner, targets, first_edge, counts, inside):  # type: ignore[no-untyped-def]
    """Add the images to ``counts`` (edges, h, w) and to ``inside`` (upper words, h, w).

    ``corner`` is (stride, offset) of the rows, then of the columns; the edges of upper word k are
    ``first_edge[k]`` to ``first_edge[k + 1]``.
    """
    n_words = first_edge.shape[0] - 1
    for n in range(upper.shape[0]):
        for y in range(upper.shape[1]):
            for x in range(upper.shape[2]):
                word = upper[n, y, x]
                if word < 0 or word >= n_words or first_edge[word] == first_edge[word + 1]:
                    continue
                top, left = corner[0] * y + corner[1], corner[2] * x + corner[3]
                for i in range(max(0, -top), min(counts.shape[1], lower.shape[1] - top)):
                    for j in range(max(0, -left), min(counts.shape[2], lower.shape[2] - left)):
                        found = lower[n, top + i, left + j]
                        if found < 0:
                            continue
                        inside[word, i, j] += 1
                        for e in range(first_edge[word], first_edge[word + 1]):
                            if targets[e] == found:
                                counts[e, i, j] += 1


@dataclass(frozen=True)
class OffsetHistogram(Sums):
    """How often the lower word of an edge sits at each offset of the window of its upper word.

    ``counts`` (E, h, w) int64: times the lower word was at that offset; ``inside`` (E, h, w) int64: times the
    offset was inside the map and its column took part. Offset (i, j) of a window is the lower position
    (stride*y + offset + i, ...); for a whole window (h, w) is the lower map and offsets are absolute positions.
    Source: IG section 3.2, the location heat maps of the class graph; dividing by ``inside`` removes the bias of
    the borders.
    """

    counts: Int[Tensor, "E h w"]
    inside: Int[Tensor, "E h w"]

    @classmethod
    def zero(cls, n_edges: int, height: int, width: int) -> OffsetHistogram:
        """No images; (height, width) is ``window.shape`` on the lower map."""
        counts, inside = (torch.zeros(n_edges, height, width, dtype=torch.int64) for _ in range(2))
        return cls(counts, inside)

    @classmethod
    def from_batch(
        cls, upper: WordMaps, lower: LowerWordMaps, window: Window, edges: Int[Tensor, "E 2"]
    ) -> OffsetHistogram:
        """Count some images; ``edges`` holds (upper word, lower word) in the order of the result.

        Maps that lie on one GPU are counted there; the histogram is in host memory.
        Raises ``RefusedInput`` for other axes or types, different numbers of images, or a negative word in an edge.
        """
        pairs = integer_array("edges", edges, n_axes=2, axes="(edges, 2)").astype(np.int64)
        if pairs.shape[1] != 2 or pairs.min(initial=0) < 0:
            raise RefusedInput(
                f"edges: must hold (upper word, lower word), neither negative, got shape {pairs.shape} with "
                f"lowest value {pairs.min(initial=0)}; pass the two words of every chosen edge"
            )
        if on_device(upper, lower):
            maps = word_tensors(upper, lower)
            found = count_offsets_on(*maps, window, torch.from_numpy(pairs).to(maps[0].device))
            return cls(*(part.cpu() for part in found))
        upper_words, lower_words = word_arrays(upper, lower)
        height, width = window.shape(lower_words.shape[1], lower_words.shape[2])
        order = np.argsort(pairs[:, 0], kind="stable")
        n_words = int(pairs[:, 0].max(initial=-1)) + 1
        first_edge = np.searchsorted(pairs[order, 0], np.arange(n_words + 1))
        corner = np.array([window.rows.stride, window.rows.offset, window.columns.stride, window.columns.offset])
        counts, inside = np.zeros((len(pairs), height, width), np.int64), np.zeros((n_words, height, width), np.int64)
        _count_offsets(upper_words, lower_words, corner, pairs[order, 1], first_edge, counts, inside)
        unsorted = np.empty_like(counts)
        unsorted[order] = counts
        return cls(torch.from_numpy(unsorted), torch.from_numpy(inside[pairs[:, 0]]))

    def frequency(self) -> Float[Tensor, "E h w"]:
        """Share of the times an offset was inside the map that it held the lower word, float64; NaN where never."""
        return self.counts.to(torch.float64) / self.inside.to(torch.float64)

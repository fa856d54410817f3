"""What a graph figure shows: frozen records, already joined, named and ordered from the output downwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt8

from workflows.storage.fields import LIKELIHOOD

Drawn: TypeAlias = Literal["hidden", "weak", "strong"]
NodeKey: TypeAlias = tuple[str, int]
"""Layer and word."""

OUTPUT = "output"
"""Name of the output layer; its word is the class."""


@dataclass(frozen=True, eq=False)
class ExemplarView:
    """One typical column of a word, as a picture (IG Fig. 5).

    ``picture`` is the network's input before normalisation (None where no picture was saved), ``rectangle`` the
    receptive field (x0, y0, x1, y1) in its pixels, half open, possibly reaching outside. ``repeated`` marks an image
    that the same word already shows.
    """

    image: int
    label: str
    rectangle: tuple[int, int, int, int]
    picture: UInt8[np.ndarray, "H W 3"] | None = None
    repeated: bool = False


@dataclass(frozen=True, eq=False)
class NodeView:
    """One word of the graph (or the class itself, in the output layer).

    ``positions`` of Omega's columns belong to the word, which is ``share`` of them. ``dominant_class`` is the most
    frequent class among the word's columns and ``dominant_share`` its share. ``dots`` (image graph) are the word's
    positions (x, y) in the pixels of the network's input. ``concept`` is what the study dissect found that it covers
    best (empty: not asked, or nothing), and ``iou`` how well. ``name`` is what users call it (labels.csv).
    ``chosen_again`` is the share of resamplings of the images in which it is chosen (None: not asked). ``covered``: in
    how many other runs its columns are covered, and how many there are (None: not asked).
    """

    layer: str
    word: int
    rank: int
    score: float
    positions: int
    share: float
    dominant_class: str
    dominant_share: float
    exemplars: tuple[ExemplarView, ...] = ()
    dots: Float[np.ndarray, "n 2"] | None = None
    concept: str = ""
    iou: float = 0.0
    name: str = ""
    chosen_again: float | None = None
    covered: tuple[int, int] | None = None

    @property
    def is_unstable(self) -> bool:
        """Whether fewer than half of the other runs cover it; without these, of the resamplings of images choose it."""
        if self.covered is not None:
            return 2 * self.covered[0] < self.covered[1]
        return self.chosen_again is not None and self.chosen_again < 0.5

    @property
    def key(self) -> NodeKey:
        """Layer and word."""
        return self.layer, self.word


@dataclass(frozen=True, eq=False)
class EdgeView:
    """A lower word that speaks for an upper word.

    ``count`` is Q[s, t] within Omega, ``relative_frequency`` Q[s, t] / sum_t Q[s, t], ``log_ratio`` in the
    tables' unit, ``score`` their product count x log ratio (IG Eq. 16). ``heat`` is how often the lower word sat at
    each offset of the upper word's window when that offset was inside the map (NaN: never inside). ``low`` is the lower
    end of the log ratio's 95 % interval over images (None: not asked).
    """

    upper: NodeKey
    lower: NodeKey
    count: int
    relative_frequency: float
    log_ratio: float
    score: float
    drawn: Drawn
    heat: Float[np.ndarray, "H W"] | None = None
    low: float | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether the words may occur together no more often than by chance: the interval reaches 0 or below."""
        return self.low is not None and self.low <= 0


@dataclass(frozen=True, eq=False)
class ImageView:
    """The explained image of an image graph. ``probability`` is the network's, of the predicted class.

    ``true_name`` is empty without labels.
    """

    image: int
    true_name: str
    predicted_name: str
    probability: float
    picture: UInt8[np.ndarray, "H W 3"] | None = None


@dataclass(frozen=True, eq=False)
class WordMap:
    """The hard words of one layer for one image, and where its positions lie in the network's input (pixels)."""

    words: Int[np.ndarray, "H W"]
    row_centres: Float[np.ndarray, " H"]
    column_centres: Float[np.ndarray, " W"]

    def dots(self, word: int) -> Float[np.ndarray, "n 2"]:
        """Positions (x, y) of ``word`` in pixels of the network's input."""
        rows, columns = np.nonzero(np.asarray(self.words) == word)
        return np.stack([np.asarray(self.column_centres)[columns], np.asarray(self.row_centres)[rows]], axis=1)


@dataclass(frozen=True, eq=False)
class GraphView:
    """A whole inference graph: ``layers`` from the output down, edges from each lower word to the upper words.

    ``omega`` is the number of images the graph was mined from (None: unknown); ``image`` is set for an image graph.
    ``layer_titles`` are shorter names of layers (aliases), where there are any; ``criterion`` is what the words are
    chosen by.

    Raises:
        ValueError: the top layer is not exactly one node, a node occurs twice, or an edge joins words that are not in
            neighbouring layers.
    """

    graph: str
    scope: str
    network: str
    class_name: str
    layers: tuple[tuple[NodeView, ...], ...]
    edges: tuple[EdgeView, ...]
    omega: int | None = None
    image: ImageView | None = None
    layer_titles: Mapping[str, str] = field(default_factory=dict)
    criterion: str = LIKELIHOOD
    depth: dict[NodeKey, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        depth = {node.key: index for index, layer in enumerate(self.layers) for node in layer}
        if not self.layers or len(self.layers[0]) != 1:
            raise ValueError(f"graph {self.graph}: the top layer must be one node, the class")
        if len(depth) != sum(len(layer) for layer in self.layers):
            raise ValueError(f"graph {self.graph}: a word occurs twice in its layers")
        for edge in self.edges:
            if edge.upper not in depth or edge.lower not in depth or depth[edge.lower] != depth[edge.upper] + 1:
                raise ValueError(f"graph {self.graph}: edge {edge.lower} -> {edge.upper} joins no neighbouring layers")
        object.__setattr__(self, "depth", depth)

    @property
    def is_consensus(self) -> bool:
        """Whether it shows what other runs say to its nodes."""
        return any(node.covered is not None for layer in self.layers for node in layer)

    @property
    def root(self) -> NodeView:
        """The class node."""
        return self.layers[0][0]

    def layer_title(self, layer: str) -> str:
        """The name of a layer that is shown."""
        return self.layer_titles.get(layer, layer)

    def drawn_edges(self) -> tuple[EdgeView, ...]:
        """The edges that a figure shows."""
        return tuple(edge for edge in self.edges if edge.drawn != "hidden")

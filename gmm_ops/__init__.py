"""The method for arrays: torch tensors in, tensors out; no cluster, no settings, no files but ``Mixture.save``.

Everything that someone with activations in memory needs has its name here, imported when it is first used. Tensors,
numpy arrays and lists are taken alike.

>>> import torch, gmm_ops
>>> noise = torch.Generator().manual_seed(0)
>>> lower = torch.randn(40, 8, 6, 6, generator=noise)  # activations of two layers: (images, units, rows, columns)
>>> upper = torch.nn.functional.avg_pool2d(lower, 2) + 0.1 * torch.randn(40, 8, 3, 3, generator=noise)
>>> columns = [maps.permute(0, 2, 3, 1).reshape(-1, 8) for maps in (lower, upper)]

A dictionary for each layer, and the word of every column:

>>> dictionaries = [gmm_ops.fit_online(x, n_words=5, seed=0).mixture for x in columns]
>>> words = [d.assign(maps).word for d, maps in zip(dictionaries, (lower, upper))]
>>> dictionaries[0].posteriors(columns[0]).sum(dim=1).allclose(torch.ones(40 * 36))
True

Which words occur together, through the window of the layers between, and the graph of a class (here: of the images
that the network calls 0, with the class as the word of a map of one position):

>>> predicted = (torch.arange(40) % 2).reshape(40, 1, 1)
>>> pairs = [(predicted, words[1], gmm_ops.Window.whole(), 2, 5)]
>>> pairs += [(words[1], words[0], gmm_ops.Window.square(stride=2, offset=0, size=2), 5, 5)]
>>> every = [gmm_ops.count_pairs(*pair) for pair in pairs]
>>> own = predicted[:, 0, 0] == 0
>>> omega = [gmm_ops.count_pairs(up[own], low[own], *rest) for up, low, *rest in pairs]
>>> graph = gmm_ops.mine(0, omega, [gmm_ops.log_ratios(total) for total in every], top=2)
>>> [len(graph.nodes_of(layer)) for layer in (2, 1, 0)]
[1, 2, 2]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmm_ops.discriminative.image_fit import fit_discriminative as fit_discriminative
    from gmm_ops.discriminative.settings import DiscriminativeSettings as DiscriminativeSettings
    from gmm_ops.errors import RefusedInput as RefusedInput
    from gmm_ops.graphs.cooccurrence import SparseCounts as SparseCounts
    from gmm_ops.graphs.cooccurrence import WordCounts as WordCounts
    from gmm_ops.graphs.cooccurrence import count_pairs as count_pairs
    from gmm_ops.graphs.cooccurrence import count_words as count_words
    from gmm_ops.graphs.exemplars import Exemplars as Exemplars
    from gmm_ops.graphs.inference_graph import InferenceGraph as InferenceGraph
    from gmm_ops.graphs.inference_graph import LogRatios as LogRatios
    from gmm_ops.graphs.inference_graph import edge_drawn as edge_drawn
    from gmm_ops.graphs.inference_graph import log_ratios as log_ratios
    from gmm_ops.graphs.inference_graph import mine as mine
    from gmm_ops.graphs.offset_histogram import OffsetHistogram as OffsetHistogram
    from gmm_ops.graphs.windows import Window as Window
    from gmm_ops.hmm.fitting import fit_chain as fit_chain
    from gmm_ops.hmm.learning import HMMSettings as HMMSettings
    from gmm_ops.hmm.model import HiddenMarkovModel as HiddenMarkovModel
    from gmm_ops.hmm.paths import most_probable_paths as most_probable_paths
    from gmm_ops.mixtures.em import BatchFit as BatchFit
    from gmm_ops.mixtures.em import fit_batch as fit_batch
    from gmm_ops.mixtures.mixture import Assignment as Assignment
    from gmm_ops.mixtures.mixture import Mixture as Mixture
    from gmm_ops.mixtures.online_em import fit_online as fit_online
    from gmm_ops.mixtures.online_step import OnlineEMSettings as OnlineEMSettings

_NAMES = {
    "mixtures.mixture": ("Assignment", "Mixture"),
    "mixtures.online_em": ("fit_online",),
    "mixtures.online_step": ("OnlineEMSettings",),
    "mixtures.em": ("BatchFit", "fit_batch"),
    "graphs.windows": ("Window",),
    "graphs.cooccurrence": ("SparseCounts", "WordCounts", "count_pairs", "count_words"),
    "graphs.inference_graph": ("InferenceGraph", "LogRatios", "edge_drawn", "log_ratios", "mine"),
    "graphs.exemplars": ("Exemplars",),
    "graphs.offset_histogram": ("OffsetHistogram",),
    "hmm.fitting": ("fit_chain",),
    "hmm.learning": ("HMMSettings",),
    "hmm.model": ("HiddenMarkovModel",),
    "hmm.paths": ("most_probable_paths",),
    "discriminative.image_fit": ("fit_discriminative",),
    "discriminative.settings": ("DiscriminativeSettings",),
    "errors": ("RefusedInput",),
}
"""Where every name of the front door stands: module within gmm_ops -> names."""

_PLACES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_PLACES)  # one list of names, in _NAMES


def __getattr__(name: str) -> Any:
    """Import a name of the front door when it is first asked for: ``import gmm_ops`` alone costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

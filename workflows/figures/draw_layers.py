"""The figures of all layers of a scope: their similarity matrices, and the curves of their fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gmm_ops.graphs.word_distances import centre_distances
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.report.fit_figure import draw_fit_figure
from workflows.report.similarity_figure import LayerSimilarity, draw_similarity_figure
from workflows.settings import Settings
from workflows.storage.names import JOINT, split_item
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.dictionaries import read_dictionary

SIMILARITY, FIT = "similarity", "fit"
"""Items of the draw stage, and the names of their files."""


class SimilarityDrawWorker:
    """Draws the matrices of all layers of a scope in one figure."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files; the item is ``<scope>/similarity``, in scope `joint` ``similarity``."""
        scope, name = split_item(item)
        paths = self.folder.figure(name, "png", scope), self.folder.figure(name, "svg", scope)
        layers = [self._similarity(layer, scope) for layer in self.plan.layers]
        draw_similarity_figure(layers, self.plan.class_names, *paths, network=self.settings.name, scope=scope)
        return {"bytes": sum(path.stat().st_size for path in paths)}

    def _similarity(self, layer: LayerPlan, scope: str = JOINT) -> LayerSimilarity:
        key = [("scope", "=", scope), ("layer", "=", layer.name)]
        words = read_table(self.folder.table("words"), ["word", "dominant_class", "dominant_share"], key)
        numbers = ["column_dominant_share", "column_ratio"]
        measured = read_table(self.folder.table("layers"), numbers, key).to_pylist()[0]
        mean = read_dictionary(self.folder, self.settings, self.plan, layer, scope).mean
        return LayerSimilarity(
            title=layer.given,
            distances=centre_distances(torch.from_numpy(mean)).numpy(),
            dominant=words["dominant_class"].fill_null(-1).to_numpy().astype(np.int64),
            share=words["dominant_share"].fill_null(0.0).to_numpy(),
            dominant_share=measured["column_dominant_share"],
            ratio=measured["column_ratio"],
        )


class FitDrawWorker:
    """Draws the curves of the fits of a scope."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.folder = folder
        self.titles = {layer.name: f"{layer.given} ({layer.name})" for layer in plan.layers}

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files; the item is ``<scope>/fit``, in scope `joint` ``fit``."""
        scope, name = split_item(item)
        history = read_table(self.folder.table("history"), filters=[("scope", "=", scope)])
        paths = self.folder.figure(name, "png", scope), self.folder.figure(name, "svg", scope)
        draw_fit_figure(history, *paths, scope=scope, layer_titles=self.titles)
        return {"bytes": sum(path.stat().st_size for path in paths)}

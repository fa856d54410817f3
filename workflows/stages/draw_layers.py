"""The figure of the layers' similarity matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gmm_ops.word_distances import centre_distances
from workflows.plan import LayerPlan, Plan
from workflows.report.similarity_figure import LayerSimilarity, draw_similarity_figure
from workflows.settings import Settings
from workflows.stages.dictionaries import read_dictionary
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

SIMILARITY = "similarity"
"""The item of the draw stage, and the name of its files."""


class SimilarityDrawWorker:
    """Draws the one figure of all layers."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files."""
        paths = self.folder.figure(item, "png"), self.folder.figure(item, "svg")
        layers = [self._similarity(layer) for layer in self.plan.layers]
        scope = self.settings.fit.scope
        draw_similarity_figure(layers, self.plan.class_names, *paths, network=self.settings.name, scope=scope)
        return {"bytes": sum(path.stat().st_size for path in paths)}

    def _similarity(self, layer: LayerPlan) -> LayerSimilarity:
        key = [("scope", "=", self.settings.fit.scope), ("layer", "=", layer.name)]
        words = read_table(self.folder.table("words"), ["word", "dominant_class", "dominant_share"], key)
        numbers = ["column_dominant_share", "column_ratio"]
        measured = read_table(self.folder.table("layers"), numbers, key).to_pylist()[0]
        mean = read_dictionary(self.folder, self.settings, self.plan, layer).mean
        return LayerSimilarity(
            title=layer.given,
            distances=centre_distances(torch.from_numpy(mean)).numpy(),
            dominant=words["dominant_class"].fill_null(-1).to_numpy().astype(np.int64),
            share=words["dominant_share"].fill_null(0.0).to_numpy(),
            dominant_share=measured["column_dominant_share"],
            ratio=measured["column_ratio"],
        )

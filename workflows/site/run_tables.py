"""The tables of a run as the site needs them, also of a run that is not finished: what is missing is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.run import Run
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.storage.tables import SCHEMAS

_SAYS = {
    "history": ("fit", "curves of the fits"),
    "words": ("count", "words and how pure they are"),
    "exemplars": ("count", "pictures of words"),
    "layers": ("count", "figures of the layers"),
    "nodes": ("mine", "inference graphs"),
    "edges": ("mine", "arrows of the graphs"),
    "heatmaps": ("mine", "heat maps"),
    "pairs": ("mine", "neighbours of words (count.pairs)"),
}
"""Tables of every run: the stage that writes them, and what the site shows of them."""

_CHAIN_SAYS = {
    "paths": ("paths", "inference paths"),
    "junctions": ("paths", "decision junctions"),
    "triage": ("paths", "where errors leave the paths of their class"),
}


@dataclass
class RunTables:
    """A run, its images and its tables.

    Attributes:
        run: it is.
        missing: what the site cannot show: what, and why.
        criterion: what the words of its graphs are chosen by; empty: see ``Run.criterion``.

    Raises:
        DataError: the run has no graphs by it.
    """

    run: Run
    missing: list[tuple[str, str]] = field(default_factory=list)
    criterion: str = ""

    def __post_init__(self) -> None:
        self.criterion = self.run.criterion(self.criterion or None)

    def note_missing(self) -> None:
        """Fill ``missing`` from the tables that are not there."""
        folder, settings = self.run.folder, self.run.settings
        says = dict(_SAYS)
        if settings.hmm is not None:
            says |= _CHAIN_SAYS
        if not settings.network.has_outputs:
            for name in ("nodes", "edges", "heatmaps", "pairs"):
                says.pop(name)
        if settings.count.pairs == "none":
            says.pop("pairs")
        if settings.network.has_outputs and not (self.images.predicted >= 0).any():
            self.missing.append(("predictions", "the stage extract has not ended"))
        for name, (stage, what) in says.items():
            if not folder.table(name).exists():
                self.missing.append((what, f"table {name}: the stage {stage} has not written it"))

    @cached_property
    def images(self) -> ImageColumns:
        """Labels and predictions of all images."""
        return ImageColumns.read(self.run.folder, 0, self.run.plan.images)

    @cached_property
    def validation(self) -> np.ndarray:
        """Ids of the readable validation images with a prediction."""
        ids = np.arange(self.run.plan.train_images, self.run.plan.images)
        return ids[self.images.predicted[ids] >= 0]

    def has(self, name: str) -> bool:
        """Whether a table is there."""
        return self.run.folder.existing_table(name).exists()

    def table(self, name: str, filters: Sequence[tuple[str, str, Any]] = (), columns: Sequence[str] = ()) -> pa.Table:
        """A table; without rows where the run has not written it.

        Raises:
            RunFolderError: it is damaged.
        """
        if not self.has(name):
            schema = SCHEMAS[name]
            empty = schema.empty_table()
            return empty.select(list(columns)) if columns else empty
        return self.run.table(name, list(columns) or None, list(filters) or None)

    @cached_property
    def graphs(self) -> list[tuple[str, GraphId]]:
        """(scope, graph) of every graph that is mined by the criterion, in the order of the table."""
        table = self.table("nodes", [("criterion", "=", self.criterion)], ["scope", "graph"])
        pairs = table.group_by(["scope", "graph"], use_threads=False).aggregate([])
        names = zip(pairs["scope"].to_pylist(), pairs["graph"].to_pylist(), strict=True)
        return [(scope, GraphId.parse(graph)) for scope, graph in names]

    def titles(self) -> dict[str, str]:
        """Short names of layers by canonical ones."""
        return {layer.name: layer.given for layer in self.run.plan.layers}

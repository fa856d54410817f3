"""Figures of the transition graphs of classes, in a run with a hidden Markov model."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from workflows.figures.saved_pictures import SavedPictures
from workflows.plan.requests import class_id
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.report.pictures import PictureFolder
from workflows.report.transition_figure import draw_transition_graph
from workflows.report.transition_view import ClassPaths, build_transition_view, drawn_words, typical_images
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.word_maps import read_all_maps

TRANSITIONS = "transitions:"
"""Begins the item of a class; its number follows."""


def transition_items(folder: RunFolder, settings: Settings, plan: Plan) -> list[str]:
    """``transitions:<id>`` of every class in ``mine.classes`` that some readable validation image truly belongs to."""
    images = ImageColumns.read(folder, plan.train_images, plan.images)
    present = set(np.unique(images.label[images.predicted >= 0]).tolist())
    requests = settings.mine.classes
    chosen = present if "all" in requests else present & {class_id(name, plan.class_names) for name in requests}
    return [f"{TRANSITIONS}{label}" for label in sorted(chosen)]


class TransitionDrawWorker:
    """Draws ``transitions:<class id>``: the paths of the validation images of the class."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.words, self.exemplars = (read_table(folder.table(name)) for name in ("words", "exemplars"))
        self.saver = SavedPictures(settings, folder)
        self.pictures = PictureFolder(folder.pictures)
        self.layers = {layer.name: layer.given for layer in plan.layers} | {OUTPUT: "prediction"}

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files."""
        label, scope = int(item.removeprefix(TRANSITIONS)), JOINT
        words, labels = self._validation
        paths = ClassPaths(label, words[labels == label])
        for layer, shown in zip(self.layers, drawn_words(paths), strict=True):
            typical = typical_images(self.exemplars, scope, layer, shown)
            self.saver.save(sorted({image for images in typical.values() for image in images}))
        view = build_transition_view(
            paths,
            self.words,
            self.exemplars,
            layers=self.layers,
            network=self.settings.name,
            scope=scope,
            class_names=self.plan.class_names,
            pictures=self.pictures,
        )
        files = self.folder.figure(item, "png"), self.folder.figure(item, "svg")
        draw_transition_graph(view, *files)
        return {"bytes": sum(path.stat().st_size for path in files)}

    @cached_property
    def _validation(self) -> tuple[Int[np.ndarray, "images levels"], Int[np.ndarray, " images"]]:
        """Words of the readable validation images in every layer, the prediction last, and their true classes."""
        first, stop = self.plan.train_images, self.plan.images
        images = ImageColumns.read(self.folder, first, stop)
        maps = read_all_maps(self.folder, JOINT, self.plan, first, stop, images.predicted)
        words = np.stack([maps[layer].numpy()[:, 0, 0] for layer in self.layers], axis=1).astype(np.int64)
        kept = images.predicted >= 0
        return words[kept], images.label[kept]

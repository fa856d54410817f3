"""Paths of images and decision junctions -> figures/path-<image>.*, figures/junction-<level>-<word>.* of a chain."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workflows.figures.saved_pictures import SavedPictures
from workflows.plan.requests import class_id, requested_images
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.report.chain_view import Explained, JunctionView, PathView, chosen_levels
from workflows.report.junction_figure import draw_junction_figure
from workflows.report.junction_members import (
    ExplainedImage,
    JunctionErrors,
    JunctionMembers,
    Naming,
    build_junction_view,
    sampled_rows,
)
from workflows.report.path_figure import draw_path_figure
from workflows.report.path_views import build_path_view, read_path_tables, read_word_names
from workflows.report.pictures import PictureFolder
from workflows.report.transition_figure import draw_transition_graph
from workflows.report.transition_view import ClassPaths, build_transition_view, drawn_words, typical_images
from workflows.settings import Settings
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.word_maps import read_all_maps, read_words

PATH, JUNCTION = "path:", "junction:"

_SHOWN_MEMBERS = 2000
_SHOWN_ERRORS = 300


def path_items(folder: RunFolder, settings: Settings, plan: Plan) -> list[str]:
    """The figures of a run with a hidden Markov model: paths that ``draw.paths`` asks for, junctions with most errors.

    Items are ``path:<image>`` and ``junction:<level>-<word>``, level and word being those of the lower layer.

    Raises:
        DataError: ``draw.paths`` asks for an image that the run does not have, or whose picture was broken.
    """
    images = ImageColumns.read(folder, 0, plan.images)
    paths = requested_images(settings.draw.paths, plan, images, "draw.paths")
    columns = ["rank", "level", "lower_word"]
    rows = read_table(folder.table("junctions"), columns, [("scope", "=", JOINT)]).sort_by("rank")
    junctions = [row for row in rows.to_pylist() if row["lower_word"] is not None][: settings.draw.junctions]
    return [
        *(f"{PATH}{image}" for image in paths),
        *(f"{JUNCTION}{row['level'] - 1}-{row['lower_word']}" for row in junctions),
    ]


class PathDrawWorker:
    """Runs in an actor: one item of ``path_items`` in, its figure out."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder, self.scope = settings, plan, folder, JOINT
        titles = {layer.name: layer.given for layer in plan.layers}
        self.names = read_word_names(folder, titles, plan.class_names, self.scope)
        self.layers = [*(layer.name for layer in plan.layers), OUTPUT]
        self.images = ImageColumns.read(folder, 0, plan.images)
        self.pictures = SavedPictures(settings, folder)
        self._words: dict[int, Int[np.ndarray, " N"]] = {}

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files."""
        png, svg = self.folder.figure(item, "png"), self.folder.figure(item, "svg")
        if item.startswith(PATH):
            path = self.path(int(item.removeprefix(PATH)))
            junctions = [self.junction_of(path, level) for level in chosen_levels(path)]
            draw_path_figure(path, junctions, png, svg)
        else:
            level, word = (int(part) for part in item.removeprefix(JUNCTION).split("-"))
            draw_junction_figure(self.junction(level, word), self.settings.name, png, svg)
        return {"bytes": png.stat().st_size + svg.stat().st_size}

    def path(self, image: int) -> PathView:
        """The path of an image, with its picture."""
        tables = read_path_tables(self.folder, image, self.scope)
        name = self.settings.name
        return build_path_view(tables, image, self.names, scope=self.scope, network=name, pictures=self.pictures)

    def junction_of(self, path: PathView, level: int) -> JunctionView:
        """The junction that a path stands at on a level, with its image marked."""
        found = path.departure
        leaves = found is not None and found.level == level + 1
        expected = found.expected.word if found is not None and leaves and found.expected is not None else None
        column = self._columns(level, np.array([path.image.image]))[0]
        explained = ExplainedImage(column, path.step(level + 1).word.word, expected)
        word = path.step(level).word.word
        return build_junction_view(
            level, self._members(level, word), self._naming(level, word), pictures=self.pictures, image=explained
        )

    def junction(self, level: int, word: int) -> JunctionView:
        """A junction by itself, with the misclassified validation images that leave their class's paths there."""
        return build_junction_view(
            level,
            self._members(level, word),
            self._naming(level, word),
            pictures=self.pictures,
            errors=self._errors(level, word),
        )

    def _naming(self, level: int, word: int) -> Naming:
        layer, upper = self.layers[level - 1], self.layers[level]
        return Naming(
            self.names(layer, word),
            lambda other: self.names(upper, other),
            self.names.titles[upper],
            self.plan.class_names,
        )

    def _members(self, level: int, word: int) -> JunctionMembers:
        """Training images of a word; broken ones have none."""
        images = np.flatnonzero(self._words_at(level) == word)
        rows = sampled_rows(len(images), _SHOWN_MEMBERS, (self.settings.seed, level, word))
        upper, label = self._words_at(level + 1)[images], self.images.label[images]
        return JunctionMembers(images, upper, label, rows, self._columns(level, images[rows]))

    def _errors(self, level: int, word: int) -> JunctionErrors:
        lower = [("scope", "=", self.scope), ("lower_layer", "=", self.layers[level - 1]), ("lower_word", "=", word)]
        validation = [*lower, ("split", "=", "validation")]
        rows = read_table(self.folder.table("triage"), filters=validation).sort_by("image")[:_SHOWN_ERRORS]
        image = rows["image"].to_numpy()
        found = read_table(self.folder.table("junctions"), filters=lower).to_pylist()
        return JunctionErrors(
            image=image,
            taken=rows["upper_word"].to_numpy(),
            true_names=rows["label_name"].to_pylist(),
            predicted_names=rows["predicted_name"].to_pylist(),
            columns=self._columns(level, image),
            explained=_explained(found[0]) if found else None,
        )

    def _words_at(self, level: int) -> Int[np.ndarray, " N"]:
        """Word of every training image on a level of its path; -1 where the picture was broken."""
        if level not in self._words:
            train = self.plan.train_images
            self._words[level] = (
                self.images.predicted[:train]
                if level == len(self.layers)
                else read_words(self.folder, self.scope, self.layers[level - 1], 0, train).numpy().reshape(train)
            )
        return self._words[level]

    def _columns(self, level: int, images: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n D"]:
        """Stored activity of some images, ascending; reads the chunks that hold them, one at a time."""
        layer = self.plan.layers[level - 1]
        array = open_array(self.folder.activations(layer.name))
        step = self.settings.extract.images_per_chunk
        found = np.empty((len(images), layer.units), np.float64)
        for chunk in np.unique(images // step).tolist():
            here = images // step == chunk
            block = read_rows(array, chunk * step, min((chunk + 1) * step, self.plan.images))
            found[here] = block[images[here] - chunk * step, 0]
        return found


def _explained(row: dict[str, Any]) -> Explained:
    return Explained(
        row["errors"], row["share"], row["label_name"] or "", row["predicted_name"] or "", row["confusions"]
    )


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

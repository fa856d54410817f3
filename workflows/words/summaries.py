"""What the word maps say of each word: how often, in which classes, and its most typical columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from gmm_ops.graphs.cooccurrence import WordCounts, count_words
from gmm_ops.graphs.exemplars import Exemplars
from gmm_ops.graphs.word_distances import centre_distances, class_distances
from gmm_ops.records import Sums
from workflows.plan.run_plan import OUTPUT, LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.storage.arrays import read_arrays, read_rows
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import to_table, write_table
from workflows.words.dictionaries import read_dictionary
from workflows.words.scope_images import ScopeImages
from workflows.words.word_maps import read_member_words, words_path

EXEMPLAR_FIELDS = ("word", "image", "y", "x", "posterior", "log_joint")


@dataclass(frozen=True)
class WordSummary(Sums):
    """What words.parquet and exemplars.parquet need of one layer, mergeable over blocks of images.

    Attributes:
        label: columns of every word in the training images, by true label, or by predicted class without labels.
        prediction: columns of every word in the validation images, by predicted class.
        images: training images that have the word, by word.
        exemplar: the most typical training columns.
    """

    label: WordCounts
    prediction: WordCounts
    images: np.ndarray
    exemplar: Exemplars


@dataclass(frozen=True)
class LayerBlock:
    """One block of images of one layer."""

    folder: RunFolder
    scope: Scope
    layer: LayerPlan
    train_images: int
    exemplars: int
    first: int
    stop: int

    def summarise(self) -> WordSummary:
        """Word counts and exemplars of the images of the scope; a block may straddle S_T and S_V."""
        columns = ImageColumns.read(self.folder, self.first, self.stop)
        member = self.scope.contains(columns.label)
        word = read_member_words(self.folder, self.scope.name, self.layer.name, self.first, member)
        train = max(0, min(self.stop, self.train_images) - self.first)
        return WordSummary(
            count_words(word[:train], torch.from_numpy(columns.classes[:train]), self.layer.words),
            count_words(word[train:], torch.from_numpy(columns.predicted[train:]), self.layer.words),
            self._images_with(word[:train]),
            self._exemplars(word[:train], train),
        )

    def _images_with(self, word: torch.Tensor) -> np.ndarray:
        present = np.zeros((len(word), self.layer.words + 1), bool)
        flat = word.reshape(len(word), self.layer.positions).numpy()
        np.put_along_axis(present, np.where(flat < 0, self.layer.words, flat), True, axis=1)
        return present[:, :-1].sum(0)

    def _exemplars(self, word: torch.Tensor, train: int) -> Exemplars:
        if not train:
            return Exemplars.zero(self.exemplars)
        stop = self.first + train
        posterior, log_joint = (
            torch.from_numpy(
                read_rows(words_path(self.folder, self.scope.name, self.layer.name, field), self.first, stop)
            )
            for field in ("posterior", "log_joint")
        )
        images = torch.arange(self.first, stop)
        return Exemplars.from_batch(word, posterior, log_joint, images, per_word=self.exemplars)


def summary_path(folder: RunFolder, scope: str, layer: str) -> Path:
    """Zarr group of a layer's summary."""
    return folder.words(scope, layer, "summary")


def write_word_tables(folder: RunFolder, settings: Settings, plan: Plan, scopes: Sequence[Scope]) -> None:
    """words.parquet, exemplars.parquet and layers.parquet: every scope and layer, and for the first two the output."""
    images = ImageColumns.read(folder, 0, plan.train_images)
    members = ScopeImages(images)
    parts: dict[str, list[pa.Table]] = {"words": [], "exemplars": [], "layers": []}
    for scope in scopes:
        # As Arrow at once: the records of a thousand scopes take gigabytes.
        for name, rows in _scope_tables(folder, settings, plan, scope, images, members.members(scope)).items():
            parts[name].append(to_table([{"scope": scope.name, **row} for row in rows], name))
    for name, tables in parts.items():
        write_table(folder.table(name), pa.concat_tables(tables), name, network=settings.name)


def _scope_tables(
    folder: RunFolder,
    settings: Settings,
    plan: Plan,
    scope: Scope,
    images: ImageColumns,
    members: Int[np.ndarray, " n"],
) -> dict[str, list[dict[str, Any]]]:
    """Rows of one scope. members: its training images, ascending ids."""
    words: list[dict[str, Any]] = []
    exemplars: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for layer in plan.layers:
        summary = read_arrays(summary_path(folder, scope.name, layer.name))
        dictionary = read_dictionary(folder, settings, plan, layer, scope.name)
        rows = word_rows(summary, plan, layer.words)
        shares = zip(rows, dictionary.pi.tolist(), dictionary.reseeded.tolist(), strict=True)
        words.extend({"layer": layer.name, "pi": pi, **row, "reseeded": n} for row, pi, n in shares)
        layers.append(layer_row(rows, layer, dictionary.mean))
        exemplars.extend(exemplar_rows(summary, layer, plan, images))
    kept = members[images.predicted[members] >= 0]
    words.extend(_output_words(images, kept, plan))
    exemplars.extend(_output_exemplars(images, kept, plan, settings.draw.exemplars))
    return {"words": words, "exemplars": exemplars, "layers": layers}


def word_rows(summary: dict[str, np.ndarray], plan: Plan, n_words: int) -> list[dict[str, Any]]:
    """Columns, images and dominant class (ties: lowest id) of every word over the training images."""
    by_label = np.zeros((n_words, len(plan.class_names)), np.int64)
    by_label[summary["label_word"], summary["label_group"]] = summary["label_count"]
    return [_word_row(word, counts, int(summary["images"][word]), plan) for word, counts in enumerate(by_label)]


def _word_row(word: int, by_label: np.ndarray, images: int, plan: Plan) -> dict[str, Any]:
    columns, dominant = int(by_label.sum()), int(by_label.argmax())
    return {
        "word": word,
        "columns": columns,
        "images": images,
        "dominant_class": dominant if columns else None,
        "dominant_name": plan.class_names[dominant] if columns else None,
        "dominant_share": by_label[dominant] / columns if columns else None,
    }


def layer_row(rows: Sequence[dict[str, Any]], layer: LayerPlan, mean: Float[np.ndarray, "K D"]) -> dict[str, Any]:
    """How pure the words of a layer are, and how near to each other those of one class lie (IG Fig. 4, top left).

    Args:
        rows: of ``word_rows``, all words of the layer.
        layer: the layer.
        mean: centres of its words, layer units.
    """
    dominant = torch.tensor([-1 if row["dominant_class"] is None else row["dominant_class"] for row in rows])
    shares = [row["dominant_share"] for row in rows if row["dominant_share"] is not None]
    columns = torch.tensor([row["columns"] for row in rows])
    distances = centre_distances(torch.from_numpy(mean))
    found, weighted = class_distances(distances, dominant), class_distances(distances, dominant, columns)
    pure = sum(row["columns"] * row["dominant_share"] for row in rows if row["dominant_share"] is not None)
    return {
        "layer": layer.name,
        "units": layer.units,
        "words": layer.words,
        "used": len(shares),
        "dominant_share": float(np.mean(shares)),
        "distance_within": found.within,
        "distance_between": found.between,
        "ratio": found.ratio,
        "column_dominant_share": pure / int(columns.sum()),
        "column_ratio": weighted.ratio,
    }


def exemplar_rows(
    summary: dict[str, np.ndarray], layer: LayerPlan, plan: Plan, images: ImageColumns
) -> list[dict[str, Any]]:
    """The exemplars of every word of a layer, with the receptive field in the network's input."""
    fields = [summary[f"exemplar_{field}"].tolist() for field in EXEMPLAR_FIELDS]
    rows: list[dict[str, Any]] = []
    for word, image, y, x, posterior, log_joint in zip(*fields, strict=True):
        rank = rows[-1]["rank"] + 1 if rows and rows[-1]["word"] == word else 0
        y0, x0, y1, x1 = layer.pixels.bounds(y, x, plan.input_height, plan.input_width)
        place = {"y": y, "x": x, "posterior": posterior, "log_joint": log_joint, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
        key = {"layer": layer.name, "word": word, "rank": rank, "image": image}
        rows.append(key | place | _label(images, plan, image))
    return rows


def _label(images: ImageColumns, plan: Plan, image: int) -> dict[str, Any]:
    label = int(images.label[image])
    return {"label": label, "label_name": plan.class_names[label]} if label >= 0 else {}


def _output_words(images: ImageColumns, kept: Int[np.ndarray, " n"], plan: Plan) -> list[dict[str, Any]]:
    """The output's word m is "the network predicts m": pi is its share of the kept training images."""
    by_label = np.zeros((len(plan.class_names), len(plan.class_names)), np.int64)
    np.add.at(by_label, (images.predicted[kept], images.classes[kept]), 1)
    rows = []
    for word, counts in enumerate(by_label):
        row = _word_row(word, counts, int(counts.sum()), plan)
        rows.append({"layer": OUTPUT, "pi": counts.sum() / max(1, len(kept)), **row, "reseeded": 0})
    return rows


def _output_exemplars(
    images: ImageColumns, kept: Int[np.ndarray, " n"], plan: Plan, per_word: int
) -> list[dict[str, Any]]:
    """The kept training images of each predicted class with the highest probability (ties: lowest image)."""
    rows = []
    whole = {"y": 0, "x": 0, "x0": 0, "y0": 0, "x1": plan.input_width, "y1": plan.input_height}
    order = kept[np.argsort(-images.probability[kept], kind="stable")]
    for word in np.unique(images.predicted[order]).tolist():
        members = order[images.predicted[order] == word][:per_word]
        for rank, image in enumerate(members.tolist()):
            chance = float(images.probability[image])
            key = {"layer": OUTPUT, "word": word, "rank": rank, "image": image}
            seen = {"posterior": chance, "log_joint": float(np.log(chance))}
            rows.append(key | whole | seen | _label(images, plan, image))
    return rows

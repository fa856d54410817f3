"""What the word maps say of each word: how often, in which classes, and its most typical columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int, Shaped

from gmm_ops.graphs.cooccurrence import WordCounts, count_words
from gmm_ops.graphs.exemplars import Exemplars
from gmm_ops.graphs.word_distances import centre_distances, class_distances
from gmm_ops.records import Sums
from workflows.plan.run_plan import OUTPUT, LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import to_table, write_table
from workflows.words.dictionaries import read_dictionary
from workflows.words.scope_images import MemberBlock, ScopeImages
from workflows.words.word_maps import read_member_maps

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
    """Some images of one layer of a scope; they may be of S_T and of S_V."""

    folder: RunFolder
    scope: str
    layer: LayerPlan
    train_images: int
    exemplars: int
    images: MemberBlock

    def __len__(self) -> int:
        return len(self.images)

    def summarise(self) -> WordSummary:
        """Word counts and exemplars of the images."""
        word, train = self._maps("word"), int(np.searchsorted(self.images.ids, self.train_images))
        return WordSummary(
            count_words(word[:train], torch.from_numpy(self.images.classes[:train]), self.layer.words),
            count_words(word[train:], torch.from_numpy(self.images.predicted[train:]), self.layer.words),
            self._images_with(word[:train]),
            self._exemplars(word[:train], train),
        )

    def _maps(self, field: str) -> Shaped[torch.Tensor, "n H W"]:
        return read_member_maps(self.folder, self.scope, self.layer.name, field, self.images)

    def _images_with(self, word: torch.Tensor) -> np.ndarray:
        present = np.zeros((len(word), self.layer.words + 1), bool)
        flat = word.reshape(len(word), self.layer.positions).numpy()
        np.put_along_axis(present, np.where(flat < 0, self.layer.words, flat), True, axis=1)
        return present[:, :-1].sum(0)

    def _exemplars(self, word: torch.Tensor, train: int) -> Exemplars:
        if not train:
            return Exemplars.zero(self.exemplars)
        posterior, log_joint = (self._maps(field)[:train] for field in ("posterior", "log_joint"))
        images = torch.from_numpy(self.images.ids[:train])
        return Exemplars.from_batch(word, posterior, log_joint, images, per_word=self.exemplars)


def write_word_tables(folder: RunFolder, settings: Settings, plan: Plan, scopes: Sequence[Scope]) -> None:
    """words.parquet, exemplars.parquet and layers.parquet: every scope and layer, and for the first two the output."""
    images = ImageColumns.read(folder, 0, plan.train_images)
    members = ScopeImages(images)
    parts: dict[str, list[pa.Table]] = {"words": [], "exemplars": [], "layers": []}
    for scope in scopes:
        for name, table in _scope_tables(folder, settings, plan, scope, images, members.members(scope)):
            parts[name].append(table)
    for name, tables in parts.items():
        write_table(folder.table(name), pa.concat_tables(tables), name, network=settings.name)


def _scope_tables(
    folder: RunFolder,
    settings: Settings,
    plan: Plan,
    scope: Scope,
    images: ImageColumns,
    members: Int[np.ndarray, " n"],
) -> Iterator[tuple[str, pa.Table]]:
    """Parts of the tables, of one scope, as Arrow: the records of a thousand scopes take gigabytes.

    members: its training images, ascending ids.
    """
    words: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for layer in plan.layers:
        summary = load_state(folder.word_summary(scope.name, layer.name), "count")
        dictionary = read_dictionary(folder, settings, plan, layer, scope.name)
        rows = word_rows(summary, plan, layer.words)
        shares = zip(rows, dictionary.pi.tolist(), dictionary.reseeded.tolist(), strict=True)
        words.extend({"layer": layer.name, "pi": pi, **row, "reseeded": n} for row, pi, n in shares)
        layers.append(layer_row(rows, layer, dictionary.mean))
        yield "exemplars", _exemplar_table(scope, layer, _exemplars(summary, layer, plan), plan, images)
    kept = members[images.predicted[members] >= 0]
    words.extend(_output_words(images, kept, plan))
    yield "words", to_table([{"scope": scope.name, **row} for row in words], "words")
    yield "layers", to_table([{"scope": scope.name, **row} for row in layers], "layers")
    found = _output_exemplars(images, kept, plan, settings.draw.exemplars)
    yield "exemplars", _exemplar_table(scope, OUTPUT, found, plan, images)


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


def _exemplars(summary: dict[str, np.ndarray], layer: LayerPlan, plan: Plan) -> dict[str, np.ndarray]:
    """The exemplars of every word of a layer, with the receptive field in the network's input."""
    columns = {field: summary[f"exemplar_{field}"] for field in EXEMPLAR_FIELDS}
    fields = {"y": (layer.pixels.rows, plan.input_height), "x": (layer.pixels.columns, plan.input_width)}
    for axis, (window, extent) in fields.items():
        positions, place = np.unique(columns[axis], return_inverse=True)
        ranges = np.array([window.range(position, extent) for position in positions.tolist()], int).reshape(-1, 2)
        columns |= {f"{axis}0": ranges[place, 0], f"{axis}1": ranges[place, 1]}
    return {"rank": _places(columns["word"]), **columns}


def _places(word: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Place of every row among those of its word; equal words stand together."""
    starts = np.flatnonzero(np.diff(word, prepend=-1))
    return np.arange(len(word)) - np.repeat(starts, np.diff(starts, append=len(word)))


def _exemplar_table(
    scope: Scope, layer: LayerPlan | str, columns: dict[str, np.ndarray], plan: Plan, images: ImageColumns
) -> pa.Table:
    """Exemplars with the label of their images."""
    label = images.label[columns["image"]]
    names = [plan.class_names[one] if one >= 0 else None for one in label.tolist()]
    known = {"label": pa.array(label, mask=label < 0), "label_name": pa.array(names, pa.string())}
    name = layer if isinstance(layer, str) else layer.name
    keys = {key: pa.repeat(value, len(label)) for key, value in (("scope", scope.name), ("layer", name))}
    return to_table(keys | columns | known, "exemplars")


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
) -> dict[str, np.ndarray]:
    """The kept training images of each predicted class with the highest probability (ties: lowest image)."""
    order = kept[np.lexsort((-images.probability[kept], images.predicted[kept]))]
    rank = _places(images.predicted[order])
    order, rank = order[rank < per_word], rank[rank < per_word]
    chance = images.probability[order].astype(np.float64)
    nothing = np.zeros(len(order), np.int64)
    whole = {"y1": nothing + plan.input_height, "x1": nothing + plan.input_width}
    seen = {"word": images.predicted[order], "rank": rank, "image": order, "posterior": chance}
    return seen | {"log_joint": np.log(chance)} | dict.fromkeys(("y", "x", "y0", "x0"), nothing) | whole

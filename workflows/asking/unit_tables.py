"""What the tables of studies say of the units of layers: a study reads the tables of others here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from workflows.errors import DataError, RunFolderError
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

DETECTOR_IOU = 0.04
"""Above it a unit is a detector of its best concept (ICQ)."""

QUANTILE = 0.005
"""Of the activations that lie above a unit's threshold: that of ICQ, among those that dissect stores."""


@dataclass(frozen=True, eq=False)
class DetectedUnits:
    """What dissect has found of a concept in the units of a layer.

    Attributes:
        layer: the convolution whose units they are.
        concept: its name.
        quantile: of the activations that lie above a unit's threshold.
        iou: (D,) with it; 0 where it is not among the concepts that are stored of a unit.
        detects: (D,) which units are detectors of it: it is their best concept.
    """

    layer: UnitLayer
    concept: str
    quantile: float
    iou: Float[np.ndarray, " D"]
    detects: Bool[np.ndarray, " D"]


def detected_units(
    folder: RunFolder, network: UnitNetwork, concept: str, quantile: float | None = QUANTILE
) -> list[DetectedUnits]:
    """By layer, what unit_concepts.parquet says of a concept; empty where there is no table, or it does not know it.

    None: at every quantile that it holds.

    Layers are told by their convolution, whatever operation behind it dissect was asked for; joins are left out.
    """
    path = folder.table("unit_concepts")
    if not path.exists():
        return []
    only = [] if quantile is None else [("quantile", "=", quantile)]
    rows = read_table(path, ["layer", "unit", "quantile", "rank", "iou"], [("concept", "=", concept), *only])
    found = []
    for name, share in dict.fromkeys(zip(rows["layer"].to_pylist(), rows["quantile"].to_pylist(), strict=True)):
        layer = network.convolution_seen_at(name)
        if layer is None:
            continue
        own = rows.filter(pc.and_(pc.equal(rows["layer"], name), pc.equal(rows["quantile"], share)))
        iou, is_best = np.zeros(layer.units), np.zeros(layer.units, bool)
        iou[own["unit"].to_numpy()] = own["iou"].to_numpy()
        is_best[own["unit"].to_numpy()] = own["rank"].to_numpy() == 0
        found.append(DetectedUnits(layer, concept, share, iou, is_best & (iou > DETECTOR_IOU)))
    return found


def relevance_scores(folder: RunFolder, label: int, column: str, class_name: str) -> dict[str, Float[np.ndarray, " D"]]:
    """By convolution, a column of relevance.parquet for a class; ``relevance`` is the share.

    Raises:
        RunFolderError: relevance was not asked for that class, or of one class alone where classes are compared.
    """
    command = f"inference-graphs relevance {folder.root} --class {class_name!r}"
    path = folder.table("relevance")
    if not path.exists():
        raise RunFolderError(f"--ranking: must have the table of relevance, got none; ask for it first: {command}")
    stored = {"relevance": "share"}.get(column, column)
    rows = read_table(path, ["layer", "unit", stored], [("class", "=", label)])
    if not len(rows):
        raise RunFolderError(
            f"--ranking: must have the relevance for class {class_name!r}, got a table without it; ask for all classes "
            f"at once: {command} --class ... --anew"
        )
    if rows[stored].null_count:
        raise RunFolderError(
            f"--ranking {column}: must have relevance for two classes at least, got a table of {class_name!r} alone; "
            f"ask for others too: {command} --class ... --anew"
        )
    return _by_layer(rows, stored)


def word_scores(folder: RunFolder, layer: str, word: int) -> Float[np.ndarray, " D"]:
    """The z-score of every unit of a layer in one of its words, from word_units.parquet.

    Raises:
        RunFolderError: there is no such table. DataError: it does not know the word.
    """
    path = folder.table("word_units")
    if not path.exists():
        raise RunFolderError(
            "--ranking word: must have the table word_units, got none; ask for it first: "
            f"inference-graphs dissect {folder.root} --masks ..."
        )
    rows = read_table(path, filters=[("layer", "=", layer), ("word", "=", word)])
    if len(rows):  # of several scopes the first
        rows = rows.filter(pc.equal(rows["scope"], rows["scope"][0]))
    else:
        raise DataError(
            f"--ranking: must be a word of the dictionary, got word {word} of layer {layer!r}, not in {path}"
        )
    return _by_layer(rows, "z")[layer]


def _by_layer(rows: pa.Table, column: str) -> dict[str, Any]:
    found = {}
    for name in dict.fromkeys(rows["layer"].to_pylist()):
        own = rows.filter(pc.equal(rows["layer"], name)).sort_by("unit")
        found[name] = own[column].to_numpy().astype(np.float64)
    return found


def missing_dissect(folder: RunFolder, names: Sequence[str]) -> RunFolderError:
    """No unit of the run was compared with the concepts of some classes."""
    told = "no table of it" if not folder.table("unit_concepts").exists() else "no concept of that name in it"
    return RunFolderError(
        f"--ranking dissect: must have what dissect says of {names[0]!r}, got {told}; ask for it first: "
        f"inference-graphs dissect {folder.root} --masks ..."
    )

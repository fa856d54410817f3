"""What the tables of studies say of the units of layers: a study reads the tables of others here.

A table that a study wrote of another run, as this one was before it changed, or in answer to a request that it has not
finished, is no answer: ``why_old`` says so, and scores are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from workflows.asking.registry import STUDIES
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder
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


def why_old(folder: RunFolder, table: str) -> str | None:
    """Why a table is not what its study says of the run as it is; None where it is, or where nobody claims it."""
    study = next(study for study in STUDIES.values() if table in study.tables)
    found = StudyFolder(folder, study).state()
    if found.state == "stale":
        return f"{', '.join(found.changed)} changed since {study.name} was asked"
    if found.state == "partial":
        return f"{study.name} is unfinished ({found.done} of {found.total or '?'} shards are done)"
    return None


def _current(folder: RunFolder, table: str, asked_by: str, what: str, command: str) -> Path:
    """A table, if it is there and not old. Raises RunFolderError, with the command that writes it."""
    path = folder.table(table)
    if not path.exists():
        raise RunFolderError(f"{asked_by}: must have {what}, got none; ask for it first: {command}")
    old = why_old(folder, table)
    if old is not None:
        raise RunFolderError(
            f"{asked_by}: must have {what} of the run as it is, got an old one, for {old}; ask for it again: {command} "
            "(with --anew where the run has changed)"
        )
    return path


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
    path = _current(folder, "relevance", "--ranking", "the table of relevance", command)
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


def dissect_scores(folder: RunFolder, network: UnitNetwork, concept: str) -> dict[str, Float[np.ndarray, " D"]]:
    """By convolution, the IoU of every unit with a concept, from unit_concepts.parquet.

    Raises:
        RunFolderError: there is no such table, it does not know the concept, or no convolution that shows it.
    """
    command = f"inference-graphs dissect {folder.root} --masks ..."
    what = f"what dissect says of {concept!r}"
    path = _current(folder, "unit_concepts", "--ranking dissect", what, command)
    found = {one.layer.name: one.iou for one in detected_units(folder, network, concept)}
    if found:
        return found
    rows = read_table(path, ["layer"], [("concept", "=", concept), ("quantile", "=", QUANTILE)])
    if len(rows):
        layers = rows["layer"].unique().to_pylist()
        asked = ",".join(layer.name for layer in (network.inner_convolutions() or network.convolutions())[-2:])
        raise RunFolderError(
            f"--ranking dissect: must have {what} in convolutions, got {', '.join(layers)}, whose units are those of "
            f"several; ask for convolutions: {command} --layers {asked}"
        )
    raise RunFolderError(
        f"--ranking dissect: must have {what}, got no concept of that name in {path}; give others: {command}"
    )


def word_scores(
    folder: RunFolder, network: UnitNetwork, name: str, word: int
) -> tuple[UnitLayer, Float[np.ndarray, " D"]]:
    """A layer by any of its names, and the z-score of every unit in one of its words, from word_units.parquet.

    Raises:
        RunFolderError: there is no such table. DataError: it does not know the word. NetworkError: there is no such
            layer. SettingsError: its units are those of the first convolution, or the classes.
    """
    layer = network.layer(name, "--ranking")
    refuse_outer(network, layer, name, "--ranking", "a word of a layer between the first convolution and the logits")
    path = _current(
        folder,
        "word_units",
        "--ranking word",
        "the table word_units",
        f"inference-graphs dissect {folder.root} --masks ...",
    )
    rows = read_table(path, filters=[("word", "=", word)])
    # A normalisation that is folded into its convolution is that layer, whatever the table calls it.
    known = [one for one in rows["layer"].unique().to_pylist() if one == name or network.is_layer(one, layer)]
    known.sort(key=lambda one: one != name)
    rows = rows.filter(pc.equal(rows["layer"], known[0])) if known else rows.slice(0, 0)
    if not len(rows):
        raise DataError(
            f"--ranking: must be a word of the dictionary, got word {word} of layer {name!r}, not in {path}"
        )
    rows = rows.filter(pc.equal(rows["scope"], rows["scope"][0]))  # of several scopes the first
    return layer, _by_layer(rows, "z")[known[0]]


def refuse_outer(network: UnitNetwork, layer: UnitLayer, name: str, asked_by: str, wanted: str) -> None:
    """Raises SettingsError: a layer shows the units of the first convolution, or the classes."""
    seen = network.convolution_seen_at(layer.name)
    if seen is not None and (seen.yields_logits or seen == network.convolutions()[0]):
        which = "gives the logits" if seen.yields_logits else "is the first"
        shows = "which" if seen == layer else f"which shows the units of {seen.name!r}, and that"
        raise SettingsError(f"{asked_by}: must be {wanted}, got {name!r}, {shows} {which}")


def _by_layer(rows: pa.Table, column: str) -> dict[str, Any]:
    found = {}
    for name in dict.fromkeys(rows["layer"].to_pylist()):
        own = rows.filter(pc.equal(rows["layer"], name)).sort_by("unit")
        found[name] = own[column].to_numpy().astype(np.float64)
    return found

"""From the finished cells of a sweep to the rows of sweep.parquet: every error with the errors it is paired with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Bool
from torch import Tensor

from gmm_ops.discriminative.classifier import paired_difference
from gmm_ops.mixtures.model_selection import VarianceOf, bayesian_criterion, free_parameters
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.decisions import WAYS, FittedLayer, way_column
from workflows.words.dictionaries import generative_path

ROWS = tuple(sorted(WAYS, key=lambda way: way[0] != "generative"))
"""The generative words first, that the others are compared with."""

Items = Mapping[int | str, dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One fit of a sweep: a layer (canonical name) with so many words."""

    layer: str
    words: int

    @property
    def name(self) -> str:
        """Key of the fit in the ledger."""
        return f"{self.layer}/{self.words}"

    def fitted(self, folder: RunFolder, plan: Plan, scope: Scope) -> FittedLayer:
        """Its fit with the discriminative loss."""
        layer = replace(plan.layer(self.layer), words=self.words)
        return FittedLayer(self.name, scope, layer, cell_folder(folder, self.words))

    @property
    def likelihood_name(self) -> str:
        """Key of its likelihoods."""
        return f"{self.name} likelihood"

    def __str__(self) -> str:
        return self.name


def fitted_cells(items: Items) -> Iterator[Cell]:
    """Cells whose fit is in a sweep's ledger."""
    for item in items:
        layer, _, words = str(item).rpartition("/")
        if words.isdecimal():
            yield Cell(layer, int(words))


def cell_folder(folder: RunFolder, words: int) -> RunFolder:
    """Where the dictionaries with so many words lie, laid out as those of a run: ``sweep/words-50``."""
    return RunFolder(sweep_folder(folder).root / f"words-{words}")


def sweep_folder(folder: RunFolder) -> RunFolder:
    """Where all that a sweep makes lies."""
    return RunFolder(folder.root / "sweep")


def item_of_decisions(index: int) -> str:
    """Key of a shard of decisions in a sweep's ledger."""
    return f"decisions {index}"


def dictionary_paths(folder: RunFolder, cell: Cell, scope: str) -> dict[str, Path]:
    """The dictionaries of a cell by loss; after a generative sweep there is only that one."""
    out = cell_folder(folder, cell.words)
    generative, last = generative_path(out, scope, cell.layer), out.mixture(scope, cell.layer)
    return {"generative": generative, "discriminative": last} if generative.exists() else {"generative": last}


def sweep_records(
    folder: RunFolder,
    plan: Plan,
    cells: Sequence[Cell],
    items: Items,
    scope: str,
    parts: Sequence[Path],
    variance_of: VarianceOf,
) -> list[dict[str, Any]]:
    """Rows of sweep.parquet.

    Args:
        folder, plan: of the run.
        cells: finished ones, of every layer with ascending numbers of words.
        items: the sweep's ledger.
        scope: of the dictionaries.
        parts: rows of decisions.parquet; none after a sweep of likelihoods alone.
        variance_of: as the words were fitted; shared variances are fewer parameters.
    """
    records: list[dict[str, Any]] = []
    fewer: dict[str, tuple[int, _Wrong]] = {}
    for cell in cells:
        layer = plan.layer(cell.layer)
        common = {"scope": scope, "layer": cell.layer, "given": layer.given, "words": cell.words}
        likelihoods = _likelihoods(items[cell.likelihood_name], layer, cell.words, variance_of)
        if not parts:
            records.append(common | {"loss": "generative"} | likelihoods["generative"])
            continue
        wrong = _wrong(parts, cell)
        for way in ROWS:
            compared = _compared(wrong, way, fewer.get(cell.layer))
            records.append(common | {"loss": way[0], "histogram": way[1]} | likelihoods[way[0]] | compared)
        fewer[cell.layer] = cell.words, wrong
    return records


_Wrong = Mapping[tuple[str, str], Bool[Tensor, " N"]]
_NETWORK = ("network", "label")


def _likelihoods(
    record: Mapping[str, Any], layer: LayerPlan, words: int, variance_of: VarianceOf
) -> dict[str, dict[str, Any]]:
    """Columns of the table by loss; the criterion is one of maximum likelihood, so of the generative words alone."""
    fitted, held_out = record["fitted"], record["held_out"]
    columns = int(fitted["columns"])
    criterion = bayesian_criterion(fitted["generative"], columns, words, layer.units, variance_of)
    found = {
        loss: {"held_out_log_likelihood": held_out[loss] / held_out["columns"], "columns": columns}
        for loss in held_out
        if loss != "columns"
    }
    found["generative"] |= {
        "log_likelihood": fitted["generative"] / columns,
        "parameters": free_parameters(words, layer.units, variance_of),
        "bic": criterion,
    }
    return found


def _wrong(parts: Sequence[Path], cell: Cell) -> _Wrong:
    """Which validation images each way, and the network, gets wrong."""
    own = [("layer", "=", cell.layer), ("words", "=", cell.words)]
    rows = pa.concat_tables([read_table(part, filters=own) for part in parts])
    label = rows["label"].to_numpy()
    return {way: torch.from_numpy(rows[way_column(*way)].to_numpy() != label) for way in (*WAYS, _NETWORK)}


def _compared(wrong: _Wrong, way: tuple[str, str], fewer: tuple[int, _Wrong] | None) -> dict[str, Any]:
    own, network = wrong[way], wrong[_NETWORK]
    images, errors = len(own), int(own.sum())
    row: dict[str, Any] = {"images": images, "errors": errors, "error": errors / images}
    row |= {"network_errors": int(network.sum()), "network_error": int(network.sum()) / images}
    row |= _pair(own, network, "network_")
    if way[0] == "discriminative":
        row |= _pair(own, wrong["generative", way[1]], "")
        row["tie"] = paired_difference(own, wrong["generative", way[1]]).is_tie
    if fewer is not None:
        row |= {"fewer_words": fewer[0]} | _pair(own, fewer[1][way], "fewer_")
    return row


def _pair(first: Bool[Tensor, " N"], second: Bool[Tensor, " N"], prefix: str) -> dict[str, float]:
    found = paired_difference(first, second)
    names = (f"{prefix}difference", f"{prefix}difference_low", f"{prefix}difference_high")
    return dict(zip(names, (found.difference, found.low, found.high), strict=True))

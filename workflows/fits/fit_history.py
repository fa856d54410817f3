"""The rows of the history table while a fit goes on: kept in its checkpoint, written when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gmm_ops.fitting.loop import has_converged
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table

_WHOLE_NUMBERS = ("step", "epoch", "columns", "reseeded", "empty")


class HistoryRow(NamedTuple):
    """One step of online EM; the fields are columns of history.parquet. held_out_full: NaN within an epoch."""

    step: float
    epoch: float
    columns: float
    held_out_log_likelihood: float
    train_log_likelihood: float
    held_out_full: float
    reseeded: float
    empty: float

    def record(self) -> dict[str, Any]:
        """As the table takes it."""
        return _record(self, "generative")


class LossRow(NamedTuple):
    """One step of the discriminative loss; the fields are columns of history.parquet.

    step, columns: counted on from the generative fit. loss, error: of the minibatch, before the step; NaN once the
    words have stopped. generative_loss: the same of the linear layer on the generative words. held_out_...: after the
    last step of an epoch, NaN within it.
    """

    step: float
    epoch: float
    columns: float
    loss: float
    error: float
    generative_loss: float
    held_out_loss: float
    held_out_error_soft: float
    held_out_error_hard: float
    generative_held_out_loss: float
    generative_held_out_error_soft: float

    def record(self) -> dict[str, Any]:
        """As the table takes it."""
        return _record(self, "discriminative")


def _record(row: HistoryRow | LossRow, phase: str) -> dict[str, Any]:
    values: dict[str, Any] = {name: None if np.isnan(value) else value for name, value in row._asdict().items()}
    whole = {name: int(values[name]) for name in _WHOLE_NUMBERS if values.get(name) is not None}
    return values | whole | {"phase": phase}


def history_path(folder: RunFolder, scope: str, name: str) -> Path:
    """The rows of history.parquet of one fit, by the name of its file of parameters."""
    return folder.mixture(scope, name).with_suffix(".history.parquet")


def write_history(path: Path, rows: Sequence[HistoryRow | LossRow], network: str, **keys: Any) -> None:
    """Write the rows of one fit as a part of history.parquet. keys: scope, layer and restart."""
    write_table(path, [row.record() | keys for row in rows], "history", network=network)


@dataclass
class FitHistory:
    """What one fit by online EM has seen so far. stopped: an epoch gained too little."""

    rows: list[HistoryRow] = field(default_factory=list)
    stopped: bool = False

    @property
    def columns(self) -> float:
        """Columns seen."""
        return self.rows[-1].columns if self.rows else 0

    @property
    def held_out(self) -> float:
        """Of the last step, nats; NaN before the first."""
        return self.rows[-1].held_out_log_likelihood if self.rows else float("nan")

    @property
    def full(self) -> list[float]:
        """Mean log-likelihood of everything held out, at the ends of epochs."""
        return [row.held_out_full for row in self.rows if not np.isnan(row.held_out_full)]

    def add(self, row: HistoryRow, ends_epoch: bool, tolerance: float) -> None:
        """After a step; an epoch that gained less than ``tolerance``, relative, is the last."""
        self.rows.append(row)
        self.stopped = ends_epoch and has_converged(self.full, tolerance)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint."""
        rows = np.array(self.rows, np.float64).reshape(-1, len(HistoryRow._fields))
        return {"history": rows, "stopped": np.array(self.stopped)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FitHistory:
        """Inverse of ``to_arrays``; other arrays are left alone."""
        return cls([HistoryRow(*row) for row in arrays["history"].tolist()], bool(arrays["stopped"]))

    def write(self, path: Path, network: str, **keys: Any) -> None:
        """Write the rows as a part of history.parquet. keys: scope, layer and restart."""
        write_history(path, self.rows, network, **keys)

    def summary(self) -> dict[str, Any]:
        """For the ledger: the steps, the last mean over everything held out, and the words without a column."""
        if not self.rows:
            return {"steps": 0, "held_out": None, "empty": 0}
        last, full = self.rows[-1], self.full
        return {"steps": int(last.step), "held_out": full[-1] if full else None, "empty": int(last.empty)}

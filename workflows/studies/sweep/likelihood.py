"""Likelihoods of the dictionaries of a sweep, over all fitted and all held-out columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.mixture import Mixture
from workflows.fits.columns import ColumnBlock, ColumnSource
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.mixtures import load_mixture
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.studies.sweep.rows import Cell, dictionary_paths


class SweepLikelihoodWorker:
    """Runs in an actor: one cell in, the log-likelihoods of its dictionaries out."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.device = choose_device(settings.runtime.device)

    def __call__(self, cell: Cell) -> dict[str, Any]:
        """Sums over columns, natural logarithm: ``fitted`` of the generative words, ``held_out`` by loss."""
        source = ColumnSource(self.settings, self.plan, self.folder, self.plan.layer(cell.layer), self.device)
        paths = dictionary_paths(self.folder, cell, JOINT)
        words = {loss: load_mixture(path).to(self.device) for loss, path in paths.items()}
        chunks = range(source.chunks)
        fitted = _sums({"generative": words["generative"]}, (source.fitted(chunk) for chunk in chunks))
        held_out = _sums(words, (source.held_out(chunk) for chunk in chunks))
        return {"fitted": fitted, "held_out": held_out}


def _sums(words: dict[str, Mixture], blocks: Iterable[ColumnBlock | None]) -> dict[str, float]:
    """Log-likelihood by loss, and the number of ``columns``."""
    total = dict.fromkeys([*words, "columns"], 0.0)
    for block in blocks:
        if block is not None and len(block.columns):
            columns = block.columns.float()
            total["columns"] += len(columns)
            for loss, mixture in words.items():
                total[loss] += float(log_likelihood(mixture, columns).double().sum())
    return total

"""A dictionary of 16,384 words on ResNet-50 columns (D = 512): two processes of one thread against one of two.

    python -m tests.benchmarks.word_slices

Columns are real, before the ReLU of layer2.3.add; the dictionary is one EM step from its start. Both sides take their
turns in one run and give the same statistics. Columns/s are medians.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.fitting.collective import gathered
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import OnlineEMSettings, advance, start
from gmm_ops.mixtures.seeding import initial_slice
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.statistics import em_pass
from tests.benchmarks.em_pass import PHOTOS, photo_columns
from tests.gmm_ops.word_slices.process_slices import ProcessReduce, on_processes, peak_bytes

Result = TypeVar("Result")

WORDS, TIMED = 16_384, 8_192
"""Words, and columns of a timed call."""

IMAGES, LABELS = 32, 5
"""Images, among which the timed columns are divided, and labels of the discriminative call."""


@dataclass(frozen=True)
class WordSlicesRow:
    """Medians of one call. ratio: of columns/s, sliced over whole. peak_gib: of a slice, libraries included."""

    call: str
    sliced_columns_per_second: float
    whole_columns_per_second: float
    ratio: float
    peak_gib: float


def measure(repeats: int = 3, columns: Tensor | None = None, tiny: bool = False) -> list[WordSlicesRow]:
    """One row per call. columns: (n, 512), n >= K; default those of 120 photos. tiny: few photos and words."""
    columns = photo_columns(("layer2.3.add",), 4 if tiny else PHOTOS)[0] if columns is None else columns
    size = (64, 512, 1) if tiny else (WORDS, TIMED, repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "columns.npy"
        np.save(path, columns.half().numpy())
        rows: list[WordSlicesRow] = on_processes(2, _slice, str(path), *size)[0]
        return rows


def _slice(reduce: ProcessReduce, path: str, n_words: int, n_timed: int, repeats: int) -> list[WordSlicesRow]:
    columns = torch.from_numpy(np.load(path, mmap_mode="r+"))
    words = _prepared(columns, n_words, reduce)
    timed = columns[:n_timed].clone()
    images, labels = timed.view(IMAGES, -1, columns.shape[1]), torch.arange(IMAGES) % LABELS
    parameters = Parameters.from_mixture(words, LABELS)
    sliced: dict[str, Callable[[], object]] = {
        "EM pass": lambda: em_pass(words, timed, reduce),
        "hard words": lambda: assign(words, timed, reduce),
        "discriminative gradient": lambda: batch_gradient(parameters, images, labels, collective=reduce),
    }
    for call in sliced.values():
        call()
    peak = float(gathered(torch.tensor(float(peak_bytes()), dtype=torch.float64), reduce).max()) / 2**30
    mixture = _whole(words, reduce)
    everything = Parameters.from_mixture(mixture, LABELS)
    whole: dict[str, Callable[[], object]] = {
        "EM pass": lambda: em_pass(mixture, timed),
        "hard words": lambda: assign(mixture, timed),
        "discriminative gradient": lambda: batch_gradient(everything, images, labels),
    }
    rows = [(name, _seconds(sliced[name], whole[name], repeats, reduce)) for name in sliced]
    return [WordSlicesRow(name, n_timed / ours, n_timed / theirs, theirs / ours, peak) for name, (ours, theirs) in rows]


def _prepared(columns: Tensor, n_words: int, reduce: ProcessReduce) -> WordSlice:
    settings = OnlineEMSettings(warmup=0, min_share=0.0)
    state = start(initial_slice(columns, n_words, 0, reduce.rank, reduce.world), settings, reduce)
    batch = em_pass(state.words, columns, reduce)
    return advance(state, batch, settings, reduce).words


def _whole(words: WordSlice, reduce: ProcessReduce) -> Mixture:
    """The whole dictionary in one process, which is what slices are for avoiding; K divides evenly."""
    own = words.own
    log_pi, mean, variance = (gathered(part, reduce).flatten(0, 1) for part in (own.log_pi, own.mean, own.variance))
    return Mixture(log_pi, mean, variance, own.center)


def _seconds(
    sliced: Callable[[], object], whole: Callable[[], object], repeats: int, reduce: ProcessReduce
) -> tuple[float, float]:
    """Medians of both, in rank 0; elsewhere the whole dictionary takes no turn."""
    seconds: dict[str, list[float]] = {"sliced": [], "whole": []}
    # In turns, so that a busy machine slows both; the first turn is not counted.
    for _ in range(1 + repeats):
        _meet(reduce)
        _timed(seconds["sliced"], sliced)
        _meet(reduce)
        if reduce.rank == 0:
            torch.set_num_threads(2)
            _timed(seconds["whole"], whole)
            torch.set_num_threads(1)
    _meet(reduce)
    return median(seconds["sliced"][1:]), median(seconds["whole"][1:] or [1.0])


def _meet(reduce: ProcessReduce) -> None:
    reduce.all_reduce_sum(torch.zeros(1))


def _timed(seconds: list[float], work: Callable[[], Result]) -> Result:
    time.sleep(0.05)  # the thread pool of the work before spins on for a while and would take a core
    begin = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - begin)
    return result


if __name__ == "__main__":
    for row in measure():
        print(row)

"""The product (max, +) of messages and a table of logarithms: one step of Viterbi, in float64.

The maximum alone is kept; which word it came from is looked up later, for the one word of each layer that is on the
path. That halves the work of the inner loop and needs no table of back pointers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.hmm.chain import refuse_no_number
from gmm_ops.threads import in_threads

BLOCK = 1 << 24
"""Most numbers in one (rows, K_upper, K_lower) block on a device without the loop."""

ROWS_PER_BLOCK = 64
"""Messages of six layers of 40 words, float64, stay in a core's second cache."""

ROWS_PER_TASK = 1_024
"""Rows handed to a thread at least: fewer cost more to hand over than to do."""


def max_product(
    messages: Float[Tensor, "n K_from"], table: Float[Tensor, "K_to K_from"], added: Float[Tensor, "n K_to"] | None
) -> Float[Tensor, "n K_to"]:
    """max over k' of (table[k, k'] + messages[n, k']) + added[n, k], float64; no threads change a bit of it.

    messages, table: float64 logarithms, -inf allowed. added: any float type, or None.
    """
    best = torch.empty(messages.shape[0], table.shape[0], dtype=torch.float64, device=messages.device)
    if messages.device.type == "cpu":
        source, target, lower_first = messages.contiguous().numpy(), best.numpy(), table.T.contiguous().numpy()
        in_threads(lambda part: _maxima(source[part], lower_first, target[part]), _parts(len(source)))
    else:
        rows = max(1, BLOCK // max(1, table.numel()))
        for start in range(0, messages.shape[0], rows):
            part = slice(start, start + rows)
            best[part] = (messages[part, None, :] + table).amax(dim=2)
    return best if added is None else best.add_(added)


def best_paths(
    log_initial: Float[Tensor, " K"],
    tables: Sequence[Float[Tensor, "K_upper K_lower"]],
    values: Sequence[Float[Tensor, "n K"]],
) -> tuple[Tensor, Tensor]:
    """(words (n, L) int64, log joints (n,) float64) of the best paths, on the CPU.

    Ties go to the lowest word from the last layer down. log_initial, tables: float64 logarithms. values: float32 or
    float64 log-likelihoods.

    Raises NonFiniteActivations.
    """
    rows = values[0].shape[0]
    words = torch.empty(rows, len(values), dtype=torch.int64)
    log_joint = torch.empty(rows, dtype=torch.float64)
    places = _flat_tables(log_initial, tables)

    def work(part: slice) -> None:
        for start in range(part.start, part.stop, ROWS_PER_TASK):
            some = slice(start, min(part.stop, start + ROWS_PER_TASK))
            tiles = [layer[some] for layer in values]
            stacked = torch.cat(tiles, dim=1).numpy()
            found = words.numpy()[some], log_joint.numpy()[some]
            if not _viterbi(stacked, *places, *found):
                for index, tile in enumerate(tiles):
                    refuse_no_number(index, tile)

    in_threads(work, _parts(rows))
    return words, log_joint


def _flat_tables(first: Tensor, tables: Sequence[Tensor]) -> tuple[NDArray[Any], ...]:
    """(ends, first, tables by lower word, by upper word, starts): what the loop takes, all tables in one array.

    ends: (L + 1,) places of each layer's words among all. starts: (L,) places of each table.
    """
    ends = np.cumsum([0, len(first), *(len(table) for table in tables)])
    starts = np.cumsum([0, *(table.numel() for table in tables)])
    lower_first = [table.T.numpy().ravel() for table in tables]
    upper_first = [table.numpy().ravel() for table in tables]
    none = np.empty(0, first.numpy().dtype)
    return ends, first.numpy(), np.concatenate([none, *lower_first]), np.concatenate([none, *upper_first]), starts


def _parts(rows: int) -> list[slice]:
    """One part a thread, each of at least ROWS_PER_TASK rows."""
    threads = max(1, min(torch.get_num_threads(), rows // ROWS_PER_TASK))
    return [slice(rows * i // threads, rows * (i + 1) // threads) for i in range(threads)]


@njit(cache=True, nogil=True)
def _row_maxima(message, table, out):  # type: ignore[no-untyped-def]
    """Four lower words at a time, so that ``out`` is read and written a quarter as often."""
    lower, upper = table.shape
    for k in range(upper):
        out[k] = -np.inf
    whole = lower - lower % 4
    for j in range(0, whole, 4):
        m0, m1, m2, m3 = message[j], message[j + 1], message[j + 2], message[j + 3]
        t0, t1, t2, t3 = table[j], table[j + 1], table[j + 2], table[j + 3]
        for k in range(upper):
            a = t0[k] + m0
            b = t1[k] + m1
            c = t2[k] + m2
            d = t3[k] + m3
            a = a if a > b else b
            c = c if c > d else d
            a = a if a > c else c
            out[k] = a if a > out[k] else out[k]
    for j in range(whole, lower):
        for k in range(upper):
            a = table[j, k] + message[j]
            out[k] = a if a > out[k] else out[k]


@njit(cache=True, nogil=True)
def _maxima(messages, table, out):  # type: ignore[no-untyped-def]
    for i in range(messages.shape[0]):
        _row_maxima(messages[i], table, out[i])


@njit(cache=True, nogil=True)
def _viterbi(values, ends, first, lower_first, upper_first, starts, words, log_joint):  # type: ignore[no-untyped-def]
    """A few sequences at a time, all their layers at once: their messages never leave the cache.

    values: (n, sum of K). Layer l has places ends[l] to ends[l + 1], table l places starts[l] to starts[l + 1] of both
    flat lists of tables. Returns whether all values were below infinity.
    """
    last = ends.shape[0] - 2
    block = np.empty(ROWS_PER_BLOCK * ends[last + 1])
    fine = True
    for begin in range(0, values.shape[0], ROWS_PER_BLOCK):
        rows = min(ROWS_PER_BLOCK, values.shape[0] - begin)
        for layer in range(last + 1):
            deltas = _layer_of(block, ends, layer, rows)
            if layer == 0:
                for i in range(rows):
                    deltas[i] = first
            else:
                below = _layer_of(block, ends, layer - 1, rows)
                table = lower_first[starts[layer - 1] : starts[layer]].reshape(below.shape[1], deltas.shape[1])
                _maxima(below, table, deltas)
            for i in range(rows):
                fine &= _add(deltas[i], values[begin + i][ends[layer] : ends[layer + 1]])
        _best_last(_layer_of(block, ends, last, rows), words[begin:], last, log_joint[begin:])
        for layer in range(last - 1, -1, -1):
            deltas = _layer_of(block, ends, layer, rows)
            table = upper_first[starts[layer] : starts[layer + 1]].reshape(-1, deltas.shape[1])
            _best_below(deltas, table, words[begin:], layer)
    return fine


@njit(cache=True, nogil=True)
def _layer_of(block, ends, layer, rows):  # type: ignore[no-untyped-def]
    """(rows, K) messages of one layer contiguous, for vector instructions."""
    width = ends[layer + 1] - ends[layer]
    begin = ROWS_PER_BLOCK * ends[layer]
    return block[begin : begin + rows * width].reshape(rows, width)


@njit(cache=True, nogil=True)
def _add(delta, values):  # type: ignore[no-untyped-def]
    """delta += values; whether all values were below infinity."""
    fine = True
    for k in range(delta.shape[0]):
        delta[k] += values[k]
        fine &= values[k] < np.inf
    return fine


@njit(cache=True, nogil=True)
def _best_last(values, words, layer, best):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        word = 0
        for k in range(1, values.shape[1]):
            if values[i, k] > values[i, word]:
                word = k
        words[i, layer] = word
        best[i] = values[i, word]


@njit(cache=True, nogil=True)
def _best_below(values, table, words, layer):  # type: ignore[no-untyped-def]
    """The lowest word whose sum with the upper word's row of the table is the largest: the sums of the step up."""
    for i in range(values.shape[0]):
        row = table[words[i, layer + 1]]
        word = 0
        best = row[0] + values[i, 0]
        for k in range(1, values.shape[1]):
            value = row[k] + values[i, k]
            if value > best:
                best = value
                word = k
        words[i, layer] = word

"""Whether two run folders hold the same: tables value by value, arrays, dictionaries and figures byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workflows.storage.states import load_state
from workflows.storage.tables import read_table

Same = Callable[[Path, Path], bool]
ARRAYS = ("activations", "words", "cooccurrence", "path_parts", "decisions", "pictures", "predictions")
"""Folders whose files hold nothing but what was computed."""


@dataclass
class Comparison:
    """What was compared, and what differs."""

    compared: dict[str, int] = field(default_factory=dict)
    """By kind, how many."""
    unlike: list[str] = field(default_factory=list)
    """Names, relative to the run folder, with what is wrong."""


def compare_runs(left: Path, right: Path) -> Comparison:
    """Of one request: an undisturbed run (left) and another."""
    found = Comparison()
    _compare(found, "tables", left, right, "*.parquet", _same_tables)
    _compare(found, "dictionaries", left, right, "mixtures/**/*.npz", _same_states)
    for folder in ARRAYS:
        _compare(found, "arrays", left, right, f"{folder}/**/*", _same_bytes)
    _compare(found, "figures", left, right, "figures/**/*.png", _same_bytes)
    _compare(found, "weights", left, right, "weights.pt", _same_bytes)
    return found


def _compare(found: Comparison, kind: str, left: Path, right: Path, pattern: str, same: Same) -> None:
    names = {path.relative_to(root) for root in (left, right) for path in root.glob(pattern) if path.is_file()}
    found.compared[kind] = found.compared.get(kind, 0) + len(names)
    for name in sorted(names):
        if not ((left / name).exists() and (right / name).exists()):
            found.unlike.append(f"{name}: in one of them only")
        elif not same(left / name, right / name):
            found.unlike.append(f"{name}: other content")


def _same_tables(left: Path, right: Path) -> bool:
    return bool(read_table(left).equals(read_table(right), check_metadata=True))


def _same_states(left: Path, right: Path) -> bool:
    states = load_state(left), load_state(right)
    return states[0].keys() == states[1].keys() and all(
        np.array_equal(states[0][name], states[1][name], equal_nan=np.asarray(states[0][name]).dtype.kind == "f")
        for name in states[0]
    )


def _same_bytes(left: Path, right: Path) -> bool:
    return left.read_bytes() == right.read_bytes()

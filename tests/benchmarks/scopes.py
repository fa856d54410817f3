"""Ten class models and the joint model of CIFAR-10 in one run, over eleven runs of one each: wall time, and results."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from workflows.pipeline import run_pipeline
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import JOINT, Scope, read_scopes
from workflows.settings import load_settings
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table
from workflows.words.word_maps import FIELDS, open_maps

PRESET = Path(__file__).parents[2] / "infra" / "presets" / "cifar10_resnet20.toml"
SIZE = (
    "network.layers=['add5','add7','add9']",
    "fit.words=[50]",
    "fit.loss=discriminative",
    "data.max_train=2000",
    "data.max_validation=1000",
    "extract.images_per_shard=250",
    "mine.images=['misclassified']",
)
TABLES = ("words", "exemplars", "layers", "nodes", "edges", "heatmaps", "history", "decisions", "errors")
TINY = (
    "network.layers=['add7','add9']",
    "fit.words=[5]",
    "fit.min_images=1",
    "runtime.actors=1",
    "discriminative.epochs=1",
    "data.max_train=60",
    # Enough of them that a cat is taken for something else: a class scope needs neighbours.
    "data.max_validation=200",
    "extract.images_per_shard=100",
    "extract.images_per_chunk=100",
)
"""Further fields of a comparison of seconds, of the joint model and one class."""
STAGES = ("extract", "fit", "errors", "words", "count", "mine")


@dataclass(frozen=True)
class Timed:
    """A finished run. seconds: of the whole command, Ray's start included. stages: of some stages, by their ledgers."""

    folder: RunFolder
    seconds: float
    stages: dict[str, float]


def measure(tiny: bool = False) -> list[dict[str, object]]:
    """One row a way. The run of all scopes stands in the middle of the others, so that both meet the same machine."""
    classes, size = ("3" if tiny else "all"), ((*SIZE, *TINY) if tiny else SIZE)
    wanted = [(JOINT, classes), *(("class", str(label)) for label in ([3] if tiny else range(10)))]
    half = (len(wanted) + 1) // 2
    with tempfile.TemporaryDirectory() as place:
        alone = [_timed(Path(place) / f"{kind}-{label}", size, [kind], label) for kind, label in wanted[:half]]
        together = _timed(Path(place) / "together", size, [JOINT, "class"], classes)
        alone += [_timed(Path(place) / f"{kind}-{label}", size, [kind], label) for kind, label in wanted[half:]]
        different = [name for one in alone for name in _differences(one.folder, together.folder)]
    both = {f"one run of {len(wanted)} scopes": [together], f"{len(wanted)} runs of one scope": alone}
    rows = [_row(way, runs) for way, runs in both.items()]
    total = sum(one.seconds for one in alone)
    rows.append({**dict.fromkeys(rows[0], ""), "way": "ratio", "seconds": total / together.seconds})
    found = ", ".join(different) or "none"
    return [{**row, "arrays and tables that differ": found} for row in rows]


def _timed(root: Path, size: tuple[str, ...], scopes: list[str], classes: str) -> Timed:
    settings = load_settings(PRESET, [*size, f"fit.scopes={scopes}", f"mine.classes=['{classes}']"])
    started = time.perf_counter()
    folder = run_pipeline(settings, root, Console(quiet=True), until="mine")
    seconds = time.perf_counter() - started
    return Timed(folder, seconds, {stage: _seconds(folder, stage) for stage in STAGES})


def _seconds(folder: RunFolder, stage: str) -> float:
    times = [json.loads(line)["time"] for line in folder.ledger(stage).path.read_text().splitlines()]
    return float(times[-1] - times[0])


def _row(way: str, runs: list[Timed]) -> dict[str, object]:
    stages = {f"{stage} s": sum(one.stages[stage] for one in runs) for stage in STAGES}
    return {"way": way, "seconds": sum(one.seconds for one in runs), **stages}


def _differences(alone: RunFolder, together: RunFolder) -> list[str]:
    """Names of what a scope's own run has otherwise than the run of all."""
    (scope,) = read_scopes(alone)
    if scope not in read_scopes(together):
        return [f"{scope.name} itself"]
    ours, theirs = (_results(folder, scope) for folder in (alone, together))
    names = [f"{scope.name} {name}" for name in ours if not np.array_equal(ours[name], theirs[name], equal_nan=True)]
    for table in TABLES:
        left, right = (
            read_table(folder.table(table), filters=[("scope", "=", scope.name)]) for folder in (alone, together)
        )
        names += [] if len(left) and left.equals(right) else [f"{scope.name} {table}.parquet"]
    return names if ours.keys() == theirs.keys() else [*names, f"{scope.name} files"]


def _results(folder: RunFolder, scope: Scope) -> dict[str, np.ndarray]:
    plan, found = Plan.read(folder), dict[str, Any]()
    for path in folder.mixture(scope.name, plan.layers[0].name).parent.glob("*.npz"):
        found |= {f"{path.name} {name}": values for name, values in load_state(path).items()}
    for layer in plan.layers:
        for field in FIELDS:
            found[f"{layer.name} {field}"] = open_maps(folder, scope.name, layer.name, field)(0, plan.images)
    for pair in plan.pairs():
        columns = read_pair_counts(folder.cooccurrence(scope.name, pair.lower, pair.upper)).columns()
        found |= {f"{pair.name} {place}": values for place, values in enumerate(columns)}
    return found

"""One small real run of a hidden Markov model that several tests share: digits through three dense layers."""

from __future__ import annotations

from pathlib import Path

TABLES = (
    "images",
    "nodes",
    "edges",
    "words",
    "exemplars",
    "heatmaps",
    "history",
    "layers",
    "paths",
    "transitions",
    "triage",
    "junctions",
)
TRAINING = ("training.epochs=2", "data.max_train=500", "data.max_validation=150")
SETTINGS = (
    "data.max_train=500",
    "data.max_validation=150",
    "extract.images_per_shard=50",
    "extract.images_per_chunk=25",
    "extract.batch=25",
    "fit.words=[5,6,7]",
    "fit.epochs=4",
    "fit.checkpoint_steps=20",
    "runtime.actors=1",
    "draw.junctions=2",
    "mine.classes=['1','8']",
    'draw.paths=["misclassified:2"]',
    'mine.images=["misclassified:2"]',
)


def chain_arguments(out: Path, weights: Path, *overrides: str, until: str | None = None) -> list[str]:
    """``run digits_mlp`` with the small settings, then the given ones."""
    fields = [f"network.weights={weights}", *SETTINGS, *overrides]
    arguments = ["run", "digits_mlp", "--out", str(out), *(part for field in fields for part in ("--set", field))]
    return arguments if until is None else [*arguments, "--until", until]

"""What is done to a run, drawn from a seed: who is killed, stopped or taken away, in which stage, how soon."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STAGES = ("index", "train", "extract", "fit", "errors", "words", "paths", "count", "effects", "mine", "draw")
KILLS = {"driver": 6, "actor": 8, "host": 6}
"""Twenty in all."""
SHARES = {"extract": 0.4, "fit": 0.3, "words": 0.2, "count": 0.1}
"""Of the stages, among the kills."""
LATEST_S = 2.5
"""Seconds into a stage, or behind the disturbance before, that one comes at the latest."""


@dataclass(frozen=True)
class Disturbance:
    """One of them. Its moment counts from the begin of the stage, or from the one before in that stage."""

    kind: str
    """``driver``, ``actor``, ``host`` (killed); ``hang`` (an actor is stopped); ``pictures``, ``columns`` (away)."""
    stage: str
    delay_s: float
    victim: float
    """In [0, 1): which of those that are there."""

    @property
    def is_kill(self) -> bool:
        return self.kind in KILLS


def draw_disturbances(rng: np.random.Generator, runs: Sequence[str]) -> dict[str, list[Disturbance]]:
    """Twenty kills over the runs, and in each one more trouble, each run's in order of time."""
    kinds = [kind for kind, number in KILLS.items() for _ in range(number)]
    rng.shuffle(kinds)
    drawn: dict[str, list[Disturbance]] = {run: [] for run in runs}
    for kind, run in zip(kinds, itertools.cycle(runs)):
        # An actor is at work only where there are shards or fits.
        stages = {stage: share for stage, share in SHARES.items() if kind == "driver" or stage != "count"}
        shares = np.array(list(stages.values())) / sum(stages.values())
        drawn[run].append(_one(rng, kind, str(rng.choice(list(stages), p=shares))))
    troubles = [("hang", "extract"), ("pictures", "extract"), ("columns", "fit")]
    for place, run in zip(rng.permutation(len(troubles)), itertools.cycle(runs)):
        drawn[run].append(_one(rng, *troubles[place]))
    return {run: in_order(those) for run, those in drawn.items()}


def in_order(disturbances: Sequence[Disturbance]) -> list[Disturbance]:
    """By stage; within one as they were."""
    return sorted(disturbances, key=lambda one: STAGES.index(one.stage))


def _one(rng: np.random.Generator, kind: str, stage: str) -> Disturbance:
    return Disturbance(kind, stage, float(rng.uniform(0.2, LATEST_S)), float(rng.random()))

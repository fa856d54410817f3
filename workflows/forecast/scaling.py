"""From what a trial took to what a run will take: each stage by the amount of its own work."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace

from workflows.fits.needs import planned_actors
from workflows.forecast.amounts import FILES, SIZES, TIMES, Amounts, Measure, makespan
from workflows.forecast.forecasts import Forecast, StageForecast
from workflows.forecast.trial import StageTrial, Trial
from workflows.plan.run_plan import Plan
from workflows.report.numbers import duration
from workflows.runtime.budget import Budget
from workflows.settings import Settings

FORWARD_STAGES = ("extract", "effects", "errors", "words")
"""Stages that decode pictures and run the network, the latter two only where not all columns are stored."""


FIT_START_S = 0.5
"""Of an actor that begins another fit: its workers, its first columns, its files."""

SMALL_FILE, OF_SMALL_FILES = 4_500, ("index", "errors", "effects", "mine")
"""Bytes of a Parquet file beside its rows, and stages that write small ones."""

STEP_BYTES = 25
"""Of a step in the history of a fit, packed."""

GRAPH_S, GRAPH_CELLS = 0.01, 10_000
"""Seconds to mine one more graph of so many pairs of words, beside what the stage takes anyway."""

SCOPE_S = 0.07
"""Seconds of a core that counting takes for one more scope, however small: its files and its rows of tables."""

PAIR_BYTES = 6
"""Of a row of the table of pairs, packed."""

BUSY = 0.8
"""Below this share of its time a trial was disturbed."""

MOST_RANKS = 12
"""Actors that find work in one fit, see ``runtime.fit_actors``."""


@dataclass(frozen=True)
class Machines:
    """What a run shall have.

    Attributes:
        nodes: machines like this one.
        gpus: GPUs of each; None: those that this machine has, or none.
        gpu_speed: how many times as fast as an actor of the trial one with a GPU is.
        free_disk: bytes where the run folder will be; None: as here.
    """

    nodes: int = 1
    gpus: int | None = None
    gpu_speed: float = 1.0
    free_disk: int | None = None

    def actors(self, settings: Settings) -> int:
        """Of all nodes."""
        return min(self.nodes * self.node_actors(settings), settings.runtime.actors or sys.maxsize)

    def node_actors(self, settings: Settings) -> int:
        """Of one node."""
        return min(self.gpus, settings.runtime.actors or self.gpus) if self.gpus else planned_actors(settings.runtime)


def forecast(
    settings: Settings,
    plan: Plan,
    amounts: Amounts,
    trial: Trial,
    machines: Machines,
    room: tuple[Budget, Budget],
    index_seconds: float,
) -> Forecast:
    """What a run takes on some machines.

    Args:
        settings, plan: of the run.
        amounts: of its work.
        trial: of the same preset on this machine.
        machines: it shall have.
        room: disk and memory that it asks for.
        index_seconds: of the index stage, which a trial repeats with everything warm.
    """
    actors = machines.actors(settings)
    case = _Case(settings, plan, amounts, trial, machines)
    stages = tuple(_stage(name, measured, case) for name, measured in trial.stages.items())
    stages = tuple(replace(one, seconds=index_seconds) if one.name == "index" else one for one in stages)
    pairs = max((pair.lower_words * pair.upper_words for pair in plan.pairs()), default=0) if plan.outputs else 0
    return Forecast(
        stages=stages,
        nodes=machines.nodes,
        actors=actors,
        memory=room[1].needed,
        memory_there=room[1].available,
        disk_at_most=room[0].needed,
        disk_there=room[0].available,
        # Dask's parts on Ray: sparse counts of a pair, one part an actor.
        object_store=pairs * _cell_bytes(settings) * machines.node_actors(settings),
        trial_seconds=trial.seconds,
        assumptions=_assumptions(settings, trial, machines),
    )


def _cell_bytes(settings: Settings) -> int:
    """At most, of a pair of words: four numbers in every fold of a class, and eight of moments."""
    return 8 * (4 * max(1, settings.count.folds) + 8 * settings.count.intervals)


@dataclass(frozen=True)
class _Case:
    """A run, its trial, and what it shall have."""

    settings: Settings
    plan: Plan
    amounts: Amounts
    trial: Trial
    machines: Machines

    @property
    def actors(self) -> int:
        return self.machines.actors(self.settings)


def _stage(name: str, measured: StageTrial, case: _Case) -> StageForecast:
    settings, plan, amounts, trial = case.settings, case.plan, case.amounts, case.trial
    if name == "fit":
        seconds = _fits(measured, case)
    elif measured.items and name == "draw":
        seconds = _figures(measured, case)
    elif measured.items:
        seconds = _shards(name, measured, case)
    elif name == "mine":
        cells = max((pair.lower_words * pair.upper_words for pair in plan.pairs()), default=0)
        seconds = measured.seconds + GRAPH_S * cells / GRAPH_CELLS * max(0, amounts.graphs - trial.amounts.graphs)
    elif name == "paths" and settings.hmm is None:
        seconds = measured.seconds
    elif name == "count" and plan.outputs:
        seconds = _count(measured, case)
    else:
        seconds = measured.seconds * _times_more(TIMES[name], amounts, trial.amounts)
    at_once = min(case.machines.node_actors(settings), max(1, amounts.shards))
    files = math.ceil(measured.files * _times_more(FILES[name], amounts, trial.amounts))
    much = _size(name, measured, files, amounts, trial.amounts)
    if name == "mine" and settings.count.pairs != "none":
        cells = sum(pair.lower_words * pair.upper_words for pair in plan.pairs())
        much += PAIR_BYTES * cells * len(amounts.scopes)
    return StageForecast(name, seconds, much, files, measured.memory * at_once)


def _count(measured: StageTrial, case: _Case) -> float:
    """What the stage takes anyway, and its images and scopes over the cores of all nodes."""
    counting = case.trial.counting
    anyway = max(0.0, measured.seconds - counting.of(case.trial.amounts))
    further = counting.of(case.amounts) + SCOPE_S * (len(case.amounts.scopes) - 1)
    return anyway + further / (case.machines.nodes * (os.cpu_count() or 1))


def _size(name: str, measured: StageTrial, files: int, full: Amounts, few: Amounts) -> int:
    """Of small tables much is what every file begins and ends with; the history of fits grows with their steps."""
    begins = SMALL_FILE if name in OF_SMALL_FILES else 0
    grows = max(0, measured.size - begins * measured.files) * _times_more(SIZES[name], full, few)
    rows = STEP_BYTES * max(0, full.steps - few.steps) if name == "fit" else 0
    return math.ceil(begins * files + grows + rows) if measured.size else 0


def _times_more(measure: Measure, full: Amounts, few: Amounts) -> float:
    """0 where there is nothing to do; what was not tried is as large as the trial's."""
    before, now = measure(few), measure(full)
    return now / before if before else float(bool(now))


def _start(measured: StageTrial) -> float:
    """What a stage takes beside its items: building its workers, and what the driver does alone."""
    return max(0.0, measured.seconds - measured.item_seconds)


def _shards(name: str, measured: StageTrial, case: _Case) -> float:
    """Shards over actors; where pictures are decoded, the cores of an actor may take longer than its GPU."""
    settings, amounts, trial, machines = case.settings, case.amounts, case.trial, case.machines
    speed = machines.gpu_speed if machines.gpus else 1.0
    each = measured.item_seconds / max(1.0, TIMES[name](trial.amounts)) / speed
    if name in FORWARD_STAGES and (name in FORWARD_STAGES[:2] or not case.plan.stores_everything):
        each = max(each, trial.decode / settings.runtime.decode_threads)
    shards = max(1, math.ceil(TIMES[name](amounts) / settings.extract.images_per_shard))
    actors = min(case.actors, shards)
    # The last round may not fill the actors.
    rounds = math.ceil(shards / actors) / (shards / actors)
    busy = each * TIMES[name](amounts) / actors
    start = _start(measured) + (trial.start if name == "extract" else 0.0)  # others take the actors that are there
    return start + busy * (rounds if shards < 4 * actors else 1.0)


def _figures(measured: StageTrial, case: _Case) -> float:
    count = sum(map(len, measured.items.values()))
    usual = measured.item_seconds / count
    means = {kind: sum(some) / len(some) for kind, some in measured.items.items()}
    total = sum(number * means.get(kind, usual) for kind, number in case.amounts.figures.items())
    return _start(measured) + total / min(case.actors, max(1, case.amounts.drawn))


def _fits(measured: StageTrial, case: _Case) -> float:
    """Each layer at its own rate; the groups take the fits, long ones first."""
    settings, machines = case.settings, case.machines
    ranks = settings.runtime.fit_actors
    group = settings.fit.word_slices if settings.fit.word_slices > 1 else ranks
    speed = (machines.gpu_speed if machines.gpus else 1.0) * min(ranks, MOST_RANKS)
    seconds = []
    for layer, fits in case.amounts.fits.items():
        each = sum(measured.items[layer]) / sum(case.trial.amounts.fits[layer])
        seconds += [FIT_START_S + each * work / speed for work in fits]
    return makespan(seconds, max(1, case.actors // group))


def _busy(trial: Trial) -> list[str]:
    """Where other processes took much of the trial's time."""
    clock = sum(stage.clock for stage in trial.stages.values())
    needed = sum(stage.seconds for stage in trial.stages.values())
    if trial.actor.device != "cpu" or needed > BUSY * clock:
        return []
    return [
        f"the machines have nothing else to do; this one had: the trial took {duration(clock)}, of which "
        f"{duration(needed)} of its processor and of writing are counted"
    ]


def _assumptions(settings: Settings, trial: Trial, machines: Machines) -> tuple[str, ...]:
    few, runtime = trial.amounts, settings.runtime
    told = [
        f"measured on {few.images:,} images in one process of {trial.actor.threads} threads "
        f"({trial.actor.device}); actors beside each other are as fast, and every stage grows with its own work",
        "fits take all passes that they may; none stops early",
        *_busy(trial),
        "counting takes all cores of the nodes, which are as fast as this one's",
    ]
    if settings.runtime.fit_actors > 1:
        told.append(f"{min(settings.runtime.fit_actors, MOST_RANKS)} actors share a fit evenly, without waiting")
    if machines.nodes > 1 or machines.gpus:
        told.append("nodes are like this machine, and share a file system that none of them waits for")
    if machines.gpus:
        told.append(
            f"an actor with a GPU does {machines.gpu_speed:g} times what one of the trial did, and "
            f"{runtime.decode_threads} threads decode for it (a picture takes {1000 * trial.decode:.1f} ms of a core)"
        )
    if "class" in settings.fit.scopes:
        told.append("the scope of a class has the images of its own class and of one neighbour")
    if settings.mine.images and trial.wrong:
        told.append(f"{trial.wrong:.1%} of the validation images are misclassified")
    return tuple(told)

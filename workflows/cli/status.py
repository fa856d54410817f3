"""``inference-graphs status``: where the stages of a run stand. Told without torch, Ray, Dask or Arrow."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.asking.registry import STUDIES
from workflows.cli.options import AsJson, Folder, console, print_json
from workflows.context import Stage
from workflows.forecast.forecasts import forecast_of
from workflows.pipeline import STAGES, stages_until, without_outputs
from workflows.plan.run_plan import ForwardChoice, Plan, plan_path
from workflows.report.numbers import duration, size
from workflows.settings import Settings
from workflows.storage.ledger import Item, LedgerContent
from workflows.storage.names import split_item
from workflows.storage.run_folder import RunFolder, size_of
from workflows.storage.study_folder import StudyFolder, StudyProgress

StageState: TypeAlias = Literal["done", "cleaned", "running", "stopped", "waiting", "failed", "not asked", "no outputs"]
_STATE_STYLES: dict[StageState, str] = {
    "done": "green",
    "cleaned": "green",
    "running": "yellow",
    "stopped": "yellow",
    "waiting": "dim",
    "failed": "bold red",
    "not asked": "dim",
    "no outputs": "dim",
}
_STUDY_STYLES: dict[StudyProgress, str] = {
    "done": "green",
    "partial": "yellow",
    "stale": "bold red",
    "not asked": "dim",
}


SILENT_S = 60.0
"""A driver that has not told for longer what is at work has stopped, or is stuck."""


@dataclass(frozen=True)
class StageStatus:
    """Where a stage stands: its shards (or other work items), time in seconds and size of its artefacts in bytes.

    A stage that is ``cleaned`` is done, and what it wrote is freed (``inference-graphs clean``). For a network without
    outputs a stage behind index is ``not asked`` until ``run --until`` names it, or does not apply: ``no outputs``.
    ``left`` is None while the number of items is unknown; ``planned_seconds`` and ``planned_size`` where ``plan`` was
    asked before. ``profile``: seconds of all actors by phase (``workflows.phases``), ``compute`` being what is left,
    and ``actors`` all of them.
    """

    name: str
    state: StageState
    done: int
    failed: int
    left: int | None
    seconds: float
    size: int
    planned_seconds: float | None = None
    planned_size: int | None = None
    profile: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyStatus:
    """What a run was asked beside its stages: a study, its question and tables, and where it stands.

    ``done`` of ``total`` work items, ``seconds`` at work, ``size`` in bytes; ``changed``: what of the run is no longer
    as it was when a stale study began.
    """

    name: str
    question: str
    tables: tuple[str, ...]
    state: StudyProgress
    done: int
    total: int | None
    seconds: float
    size: int
    changed: tuple[str, ...]


def status(
    folder: Folder,
    profile: Annotated[bool, typer.Option("--profile", help="And where the seconds of the actors went.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stages of a run: shards done, failed and left, time, sizes, as planned if it was; and the studies it was asked.

    Examples:

        inference-graphs status runs/digits

        inference-graphs status runs/digits --profile

        inference-graphs status runs/digits --json
    """
    stages, studies = stage_statuses(folder), study_statuses(folder)
    forward, untold = forward_choice(folder), without_outputs(RunFolder.open(folder).settings())
    heartbeat = RunFolder.open(folder).heartbeat()
    if as_json:
        told = {"stages": [asdict(stage) for stage in stages], "studies": [asdict(study) for study in studies]}
        more = {"forward": None if forward is None else asdict(forward), "heartbeat": heartbeat}
        print_json({"run": str(folder.resolve()), **told, **more})
    else:
        console().print(status_table(stages))
        if profile:
            console().print(profile_table(stages))
        if heartbeat is not None:
            console().print(heartbeat_line(heartbeat, time.time()), highlight=False, soft_wrap=True)
        if untold:
            console().print(Text(untold), soft_wrap=True)
        if forward is not None:
            console().print(forward_line(forward), highlight=False, soft_wrap=True)
        for study in studies:
            console().print(study_line(study), highlight=False, soft_wrap=True)


def stage_statuses(root: Path) -> list[StageStatus]:
    """One row a stage, in order.

    Raises:
        RunFolderError: there is no run in ``root``.
    """
    folder = RunFolder.open(root)
    driven, settings = folder.is_locked(), folder.settings()
    forecast = forecast_of(folder)
    planned = {stage.name: stage for stage in forecast.stages} if forecast is not None else {}
    found = []
    for stage in STAGES.values():
        content = folder.ledger(stage.name).content()
        told = _status(folder, stage, content, settings, driven)
        found.append(replace(told, profile=_profile(content.items.values())))
    return [
        replace(one, planned_seconds=planned[one.name].seconds, planned_size=planned[one.name].size)
        if one.name in planned
        else one
        for one in found
    ]


def study_statuses(root: Path) -> list[StudyStatus]:
    """One row a study, in the order of the registry."""
    folder = RunFolder.open(root)
    return [
        StudyStatus(study.name, study.question, study.tables, **asdict(StudyFolder(folder, study).state()))
        for study in STUDIES.values()
    ]


def forward_choice(root: Path) -> ForwardChoice | None:
    """The batch that was measured for the run; None if none was, or not yet."""
    folder = RunFolder.open(root)
    return Plan.read(folder).forward if plan_path(folder).exists() else None


def heartbeat_line(told: Mapping[str, Any], now: float) -> Text:
    """``2 actors at work, 0 starting, 7 items wait; longest: shard 3 for 12.0 s; told 2.1 s ago``."""
    line = Text(f"{told['actors']} actors at work, {told['starting']} starting, {told['waiting']} items wait")
    if told["oldest"]:
        line.append(f"; longest: {told['oldest']} for {duration(told['seconds'])}")
    ago = max(0.0, now - told["time"])
    return line.append(f"; told {duration(ago)} ago", style="bold red" if ago > SILENT_S else "")


def forward_line(forward: ForwardChoice) -> Text:
    """``batches of 10 were chosen, 2 actors x 1 threads, images/s: 5: 27.3, 10: 33.1, 50: 34.8 (other bits)``."""
    rates = ", ".join(
        f"{trial.batch}: {trial.images_per_second:.3g}{'' if trial.same else ' (other bits)'}"
        for trial in forward.trials
    )
    actors = f"{forward.actors} actors x {forward.threads} threads"
    return Text(f"batches of {forward.batch} were chosen, {actors}, images/s: {rates}")


def study_line(study: StudyStatus) -> Text:
    """``boxes    done     do words sit on objects?  boxes.parquet, 3.1 s, 12 kB``."""
    tables = ", ".join(f"{name}.parquet" for name in study.tables)
    took = f", {duration(study.seconds)}" if study.seconds else ""
    told = {
        "not asked": f"inference-graphs {study.name} --help",
        "partial": f"{study.done} of {study.total or '?'} shards{took}; the same command goes on",
        "done": f"{tables}{took}, {size(study.size)}",
        "stale": f"{tables}; {', '.join(study.changed)} changed since: ask again with --anew",
    }
    line = Text(f"{study.name:<9} ", style="dim" if study.state == "not asked" else "")
    line.append(f"{study.state:<9} ", style=_STUDY_STYLES[study.state])
    return line.append(f"{study.question}?  {told[study.state]}")


def _status(folder: RunFolder, stage: Stage, content: LedgerContent, settings: Settings, driven: bool) -> StageStatus:
    written = _written(folder, stage, content)
    if not stage.applies(settings):
        return StageStatus(stage.name, "no outputs", 0, 0, 0, 0.0, written)
    if content.fingerprint is None:
        asked = settings.network.has_outputs or stage in stages_until(None, settings)
        return StageStatus(stage.name, "waiting" if asked else "not asked", 0, 0, None if asked else 0, 0.0, written)
    if content.done and content.total is not None:
        # The ledger may hold items, and failures, of scopes that are no longer asked for.
        return StageStatus(
            stage.name, "cleaned" if content.cleaned else "done", content.total, 0, 0, content.seconds, written
        )
    done, failed = _of_present_scopes(folder, stage, content.items), len(content.failed)
    left = None if content.total is None else max(0, content.total - done - failed)
    state: StageState = "done" if content.done else "failed" if failed else "running" if driven else "stopped"
    return StageStatus(stage.name, state, done, failed, left, content.seconds, written)


def _written(folder: RunFolder, stage: Stage, content: LedgerContent) -> int:
    """Bytes of its artefacts; of folders, which may have 100,000 files, as they were when the stage ended."""
    known = content.summary.get("bytes", {}) if content.done and not content.cleaned else {}
    paths = {name: folder.root / name for name in stage.writes}
    return sum(known[name] if name in known and path.is_dir() else size_of(path) for name, path in paths.items())


def _of_present_scopes(folder: RunFolder, stage: Stage, items: Collection[Item]) -> int:
    """How many items belong to a scope that is asked for; all where they do not name their scope."""
    names = folder.scope_names() if stage.of_scopes else ()
    return sum(split_item(str(item))[0] in names for item in items) if names else len(items)


def status_table(stages: Sequence[StageStatus]) -> Table:
    """Stages of a run in order, with a line of totals."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_footer=True)
    table.add_column("stage", "total", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name, count in (
        ("done", sum(stage.done for stage in stages)),
        ("failed", sum(stage.failed for stage in stages)),
        ("left", sum(stage.left or 0 for stage in stages)),
    ):
        table.add_column(name, str(count), justify="right", no_wrap=True)
    table.add_column("time", duration(sum(stage.seconds for stage in stages)), justify="right", no_wrap=True)
    table.add_column("size", size(sum(stage.size for stage in stages)), justify="right", no_wrap=True)
    planned = any(stage.planned_seconds is not None for stage in stages)
    if planned:
        seconds, written = (
            sum(getattr(stage, name) or 0 for stage in stages) for name in ("planned_seconds", "planned_size")
        )
        table.add_column("planned time", duration(seconds), justify="right", no_wrap=True, style="dim")
        table.add_column("planned size", size(int(written)), justify="right", no_wrap=True, style="dim")
    for stage in stages:
        table.add_row(
            Text(stage.name),
            Text(stage.state, style=_STATE_STYLES[stage.state]),
            str(stage.done),
            Text(str(stage.failed), style="bold red" if stage.failed else ""),
            "?" if stage.left is None else str(stage.left),
            duration(stage.seconds) if stage.seconds else "–",
            size(stage.size) if stage.size else "–",
            *(_planned(stage) if planned else ()),
        )
    return table


SHOWN_PHASES = ("read", "decode", "forward", "write", "wait", "compute")


def profile_table(stages: Sequence[StageStatus]) -> Table:
    """Seconds of all actors by phase, of the stages that have some; decoding goes on beside the other phases."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("actors", *SHOWN_PHASES, "processor"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in stages:
        if stage.profile:
            spent = (stage.profile.get(name, 0.0) for name in ("actors", *SHOWN_PHASES, "cpu"))
            table.add_row(Text(stage.name), *(duration(seconds) if seconds else "–" for seconds in spent))
    return table


def _profile(items: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sums over items; none where no item has told."""
    found: dict[str, float] = defaultdict(float)
    for record in items:
        if "profile" in record:
            profile = record["profile"]
            besides = sum(seconds for name, seconds in profile.items() if name not in ("decode", "cpu"))
            found["actors"] += record["seconds"]
            found["compute"] += max(0.0, record["seconds"] - besides)
            for name, seconds in profile.items():
                found[name] += seconds
    return {name: round(seconds, 3) for name, seconds in found.items()}


def _planned(stage: StageStatus) -> tuple[str, str]:
    return duration(stage.planned_seconds or 0), size(stage.planned_size or 0)

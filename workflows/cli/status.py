"""``inference-graphs status``: where the stages of a run stand. Told without torch, Ray, Dask or Arrow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rich import box
from rich.table import Table
from rich.text import Text

from workflows.cli.options import AsJson, Folder, console, print_json
from workflows.context import Stage
from workflows.pipeline import STAGES
from workflows.report.numbers import duration, size
from workflows.storage.ledger import Item, LedgerContent
from workflows.storage.names import split_item
from workflows.storage.run_folder import RunFolder, size_of

StageState: TypeAlias = Literal["done", "running", "stopped", "waiting", "failed"]
_STATE_STYLES: dict[StageState, str] = {
    "done": "green",
    "running": "yellow",
    "stopped": "yellow",
    "waiting": "dim",
    "failed": "bold red",
}


@dataclass(frozen=True)
class StageStatus:
    """Where a stage stands: its shards (or other work items), time in seconds and size of its artefacts in bytes.

    ``left`` is None while the number of items is unknown.
    """

    name: str
    state: StageState
    done: int
    failed: int
    left: int | None
    seconds: float
    size: int


def status(folder: Folder, as_json: AsJson = False) -> None:
    """Stages of a run: shards done, failed and left, time, sizes.

    Examples:

        inference-graphs status runs/digits

        inference-graphs status runs/digits --json
    """
    stages = stage_statuses(folder)
    if as_json:
        print_json({"run": str(folder.resolve()), "stages": [asdict(stage) for stage in stages]})
    else:
        console().print(status_table(stages))


def stage_statuses(root: Path) -> list[StageStatus]:
    """One row a stage, in order.

    Raises:
        RunFolderError: there is no run in ``root``.
    """
    folder = RunFolder.open(root)
    driven = folder.is_locked()
    return [_status(folder, stage, folder.ledger(stage.name).content(), driven) for stage in STAGES.values()]


def _status(folder: RunFolder, stage: Stage, content: LedgerContent, driven: bool) -> StageStatus:
    written = sum(size_of(folder.root / name) for name in stage.writes)
    if content.fingerprint is None:
        return StageStatus(stage.name, "waiting", 0, 0, None, 0.0, written)
    if content.done and content.total is not None:
        # The ledger may hold items, and failures, of scopes that are no longer asked for.
        return StageStatus(stage.name, "done", content.total, 0, 0, content.seconds, written)
    done, failed = _of_present_scopes(folder, stage, content.items), len(content.failed)
    left = None if content.total is None else max(0, content.total - done - failed)
    state: StageState = "done" if content.done else "failed" if failed else "running" if driven else "stopped"
    return StageStatus(stage.name, state, done, failed, left, content.seconds, written)


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
    for stage in stages:
        table.add_row(
            Text(stage.name),
            Text(stage.state, style=_STATE_STYLES[stage.state]),
            str(stage.done),
            Text(str(stage.failed), style="bold red" if stage.failed else ""),
            "?" if stage.left is None else str(stage.left),
            duration(stage.seconds) if stage.seconds else "–",
            size(stage.size) if stage.size else "–",
        )
    return table

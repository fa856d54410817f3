"""What ``inference-graphs status`` tells of a run folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from workflows.artefacts import ARTEFACTS
from workflows.report.terminal import StageState, StageStatus
from workflows.storage.ledger import Item, LedgerContent
from workflows.storage.run_folder import RunFolder, size_of

SCOPED = ("fit", "count")
"""Stages whose items are named by their scope; those of the others are shards, or of graphs."""


def stage_statuses(root: Path) -> list[StageStatus]:
    """One row a stage, in order.

    Raises:
        RunFolderError: there is no run in ``root``.
    """
    folder = RunFolder.open(root)
    driven, statuses = folder.is_locked(), []
    for stage, writes in ARTEFACTS.items():
        content, size = folder.ledger(stage).content(), sum(size_of(folder.root / name) for name in writes)
        statuses.append(_status(folder, stage, content, size, driven))
    return statuses


def _status(folder: RunFolder, stage: str, content: LedgerContent, size: int, driven: bool) -> StageStatus:
    if content.fingerprint is None:
        return StageStatus(stage, "waiting", 0, 0, None, 0.0, size)
    if content.done and content.total is not None:
        # The ledger may hold items, and failures, of scopes that are no longer asked for.
        return StageStatus(stage, "done", content.total, 0, 0, content.seconds, size)
    done, failed = _of_present_scopes(folder, stage, content.items), len(content.failed)
    left = None if content.total is None else max(0, content.total - done - failed)
    state: StageState = "done" if content.done else "failed" if failed else "running" if driven else "stopped"
    return StageStatus(stage, state, done, failed, left, content.seconds, size)


def _of_present_scopes(folder: RunFolder, stage: str, items: Collection[Item]) -> int:
    """How many items belong to a scope that is asked for; all where they do not name their scope."""
    if stage not in SCOPED or not (folder.root / "scopes.json").exists():
        return len(items)
    # Late, because this takes torch: a second.
    from workflows.plan.scopes import read_scopes, split_item

    names = {scope.name for scope in read_scopes(folder)}
    return sum(split_item(str(item))[0] in names for item in items)

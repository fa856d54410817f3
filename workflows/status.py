"""What ``inference-graphs status`` tells of a run folder."""

from __future__ import annotations

from pathlib import Path

from workflows.artefacts import ARTEFACTS
from workflows.report.terminal import StageState, StageStatus
from workflows.storage.ledger import LedgerContent
from workflows.storage.run_folder import RunFolder, size_of


def stage_statuses(root: Path) -> list[StageStatus]:
    """One row a stage, in order.

    Raises:
        RunFolderError: there is no run in ``root``.
    """
    folder = RunFolder.open(root)
    driven = folder.is_locked()
    return [
        _status(stage, folder.ledger(stage).content(), sum(size_of(folder.root / name) for name in writes), driven)
        for stage, writes in ARTEFACTS.items()
    ]


def _status(stage: str, content: LedgerContent, size: int, driven: bool) -> StageStatus:
    failed, done = len(content.failed), len(content.items)
    if content.done:
        done = max(done, content.total or 0)
    if content.fingerprint is None:
        return StageStatus(stage, "waiting", 0, 0, None, 0.0, size)
    left = None if content.total is None else max(0, content.total - done - failed)
    state: StageState = "done" if content.done else "failed" if failed else "running" if driven else "stopped"
    return StageStatus(stage, state, done, failed, left, content.seconds, size)

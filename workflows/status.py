"""What ``inference-graphs status`` tells of a run folder."""

from __future__ import annotations

from pathlib import Path

from workflows.artefacts import ARTEFACTS
from workflows.report.terminal import StageRow
from workflows.storage.run_folder import RunFolder, size_of


def stage_rows(root: Path) -> list[StageRow]:
    """One row a stage, in order.

    Raises:
        RunFolderError: there is no run in ``root``.
    """
    folder, rows = RunFolder.open(root), []
    for stage, writes in ARTEFACTS.items():
        content = folder.ledger(stage).content()
        state = "done" if content.done else "interrupted" if content.fingerprint is not None else "to do"
        done, failed = len(content.items), len(content.failed)
        total = content.total or 0
        if content.done:
            done = max(done, total)
        rows.append(
            StageRow(
                name=stage,
                state=state,
                done=done,
                failed=failed,
                left=max(0, total - done - failed),
                seconds=content.seconds,
                size=sum(size_of(folder.root / artefact) for artefact in writes),
            )
        )
    return rows

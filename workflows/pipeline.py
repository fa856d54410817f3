"""The stages in order: skip what is done, resume what was interrupted, stop where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from gmm_ops.errors import RefusedInput
from workflows.artefacts import ARTEFACTS
from workflows.context import StageContext, asked_items, fingerprint
from workflows.errors import RunError, SettingsError
from workflows.runtime.cluster import Resources, connect
from workflows.runtime.progress import StageBar
from workflows.settings import Settings
from workflows.stages import count, draw, errors, extract, fit, index, mine, paths, train, words
from workflows.storage.run_folder import RunFolder

RUNS: dict[str, Callable[[StageContext], None]] = {
    "index": index.run,
    "train": train.run,
    "extract": extract.run,
    "fit": fit.run,
    "errors": errors.run,
    "words": words.run,
    "paths": paths.run,
    "count": count.run,
    "mine": mine.run,
    "draw": draw.run,
}
IN_DRIVER = ("index", "train")
"""Stages that need no Ray."""


def run_pipeline(
    settings: Settings, root: Path, console: Console, until: str | None = None, address: str | None = None
) -> RunFolder:
    """Run every stage that is not done, up to ``until``; the same call resumes an interrupted run.

    Args:
        settings: of the run; a folder that holds another run is refused.
        root: the run folder.
        console: where the bars go.
        until: last stage to run; None runs all.
        address: of a Ray cluster; None starts a local Ray when a stage needs one.

    Raises:
        RunError: whatever stops the run; what is finished stays finished.
    """
    wanted = stages_until(until)
    with RunFolder.claimed(root).lock():
        folder = RunFolder.create_or_open(root, settings)
        left = stages_left(folder, settings, wanted)
        bar = StageBar(console)
        for stage in left:
            if stage in IN_DRIVER:
                with _forgotten_if_refused(folder, stage):
                    _run_stage(stage, folder, settings, bar, None)
        on_cluster = [stage for stage in left if stage not in IN_DRIVER]
        if on_cluster:
            with connect(address) as offered:
                for stage in on_cluster:
                    _run_stage(stage, folder, settings, bar, offered)
    return folder


def stages_left(folder: RunFolder, settings: Settings, wanted: Sequence[str]) -> list[str]:
    """Stages that are not done with these settings, and every stage behind the first of them."""
    for place, stage in enumerate(wanted):
        if not folder.ledger(stage).stage_done(fingerprint(stage, settings), asked_items(stage, settings)):
            return list(wanted[place:])
    return []


@contextmanager
def _forgotten_if_refused(folder: RunFolder, stage: str) -> Iterator[None]:
    """A refused plan leaves no run behind: the corrected command may use the same folder."""
    try:
        yield
    except (RunError, RefusedInput):
        if stage == "index":
            folder.forget()
        raise


def stages_until(until: str | None) -> list[str]:
    """Names of all stages up to and including one.

    Raises:
        SettingsError: there is no such stage.
    """
    names = list(ARTEFACTS)
    if until is None:
        return names
    if until not in names:
        raise SettingsError(f"--until {until!r} is no stage; the stages are {', '.join(names)}")
    return names[: names.index(until) + 1]


def _run_stage(stage: str, folder: RunFolder, settings: Settings, bar: StageBar, offered: Resources | None) -> None:
    with bar.stage(stage) as progress:
        RUNS[stage](StageContext(settings, folder, stage, progress, bar.warn, offered))
    folder.ledger(stage).end()

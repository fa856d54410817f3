"""What every study has: a finished run, a request, shards over actors, parts that add up, tables, a summary.

    with open_study("dissect", asked, request) as study:
        images = study.choose_images(split="validation")
        histograms = Phase("histograms", images, passes=1, part_bytes=units * 2**18)
        if study.begin(histograms):
            counts = study.map_parts(histograms, HistogramWorker, layers=names).sum(UnitHistograms)
            study.write_table("units", rows_of(counts))
    return study.summary()

A worker is built once an actor, with the settings, the plan and the folder of the run and what ``map_parts`` is given,
and takes an ``ImageShard``; what it returns, a record of sums or named arrays, is written as one file before the ledger
says so, and is never computed twice. The driver adds the parts up in their order, so no bit depends on who worked on
what.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from workflows.asking.registry import STUDIES
from workflows.asking.study_context import Asked, StudyContext
from workflows.errors import RunFolderError, SettingsError
from workflows.networks.loading import is_downloaded
from workflows.pipeline import STAGES, stages_left, stages_until
from workflows.plan.run_inputs import refuse_changed_inputs
from workflows.plan.run_plan import plan_path
from workflows.run import Run
from workflows.runtime.progress import StageBar
from workflows.settings import Settings
from workflows.storage.run_log import RunLog
from workflows.storage.study_folder import Basis, Study, StudyFolder, StudyRecord, basis_of, changes, unlike
from workflows.watching import Watching

__all__ = ["Asked", "StudyContext", "open_study", "refuse_without_outputs"]


@contextmanager
def open_study(
    name: str,
    asked: Asked,
    request: Mapping[str, Any],
    *,
    after: str = "words",
    reads: Sequence[str | Path] = (),
) -> Iterator[StudyContext]:
    """Ask a finished run; the folder is held for the length of the block, at whose end the study is answered.

    The same command goes on where it was. Another request replaces an answered one, and never an unfinished one.

    Args:
        name: of the study, in the registry.
        asked: how.
        request: JSON values or paths; what the answer depends on, beside ``asked.images``.
        after: the last stage that the study needs.
        reads: what else it stands on: names of tables, files and folders.

    Raises:
        RunFolderError: the run is unfinished, in use, or changed since the study began; another request is unfinished.
    """
    run = asked.run()
    folder, study = run.folder, STUDIES[name]
    with folder.lock(), ExitStack() as opened:
        folder.remove_leftovers([name, folder.figures.name])
        refuse_changed_inputs(run.settings.network.name, run.plan, folder)
        refuse_unfinished(run, name, after)
        own = StudyFolder(folder, study)
        plain = json.loads(json.dumps({**request, "images": asked.images}, default=str))
        done, claim = _claim(own, StudyRecord(plain, _basis(run, study, after, reads)), asked)
        bar = StageBar(asked.console)
        watch = Watching(run.settings.name, opened.enter_context(RunLog(folder.root)), bar.warn).of(name)
        progress = opened.enter_context(bar.stage(name))
        context = StudyContext(
            run, run.settings, folder, run.plan, own, plain, asked, done, progress, watch.warn, opened, claim
        )
        context.watch = watch
        yield context
        if context.begun:
            context.finish()


def refuse_unfinished(run: Run, study: str, after: str) -> None:
    """Raises RunFolderError: a stage up to ``after`` is not done, or has to be done again."""
    left = stages_left(run.folder, run.settings, stages_until(after, run.settings))
    if left:
        until = "" if run.settings.network.has_outputs else f" with --until {after}"
        raise RunFolderError(
            f"{study}: must have a run that is done up to its stage {after!r}, got {str(run.folder.root)!r}, whose "
            f"stage {left[0].name!r} is not; give the command of the run again{until}"
        )


def refuse_without_outputs(settings: Settings, asked_by: str, why: str) -> None:
    """Raises SettingsError: the network decides nothing. ``why``: what is asked of its outputs."""
    if not settings.network.has_outputs:
        raise SettingsError(
            f"{asked_by}: must be asked of a network with outputs, got network.outputs = 'none', and it {why}; name a "
            "network with a classifier"
        )


def _basis(run: Run, study: Study, after: str, reads: Sequence[str | Path]) -> Basis:
    files = [plan_path(run.folder), run.folder.images_table]
    if not is_downloaded(run.plan.weights):
        files.append(Path(run.plan.weights))
    files += [run.folder.table(one) if isinstance(one, str) else one for one in reads]
    fitted = list(STAGES).index(after) >= list(STAGES).index("fit")
    return basis_of(run.folder, study.version, files, ["fit"] if fitted else [])


def _claim(own: StudyFolder, record: StudyRecord, asked: Asked) -> tuple[bool, Callable[[], None] | None]:
    """Whether the request is answered already, and what has to be done before its first shard."""
    name, earlier, content = own.study.name, own.record(), own.ledger.content()
    if asked.anew or earlier is None:
        return False, partial(_begin_anew, own, record, forget=asked.anew)
    same = earlier.request == record.request
    changed = changes(own.run, earlier.basis, own.study.version)
    if same and not changed:  # another request may well stand on other files
        changed = unlike(earlier.basis, record.basis)
    if changed:
        raise RunFolderError(
            f"{name}: must be asked of the run that it was begun with, but {', '.join(changed)} changed since; --anew "
            "removes what the study has written, and nothing else, and asks again"
        )
    if same:
        whole = all(path.exists() for path in own.tables().values())
        lost = content.done and not whole
        return content.done and whole, partial(_begin_anew, own, record) if lost else None
    told = _differences(earlier.request, record.request)
    if content.items and not content.done:
        raise RunFolderError(
            f"{name}: must be asked as before, for {len(content.items)} of {content.total} shards are done, got "
            f"{told}; give the arguments as before to finish it, or --anew to drop it"
        )
    words = f"{name} was asked otherwise before ({told}): it begins anew"
    asked.console.print(escape(words), highlight=False, soft_wrap=True)
    return False, partial(_begin_anew, own, record)


def _begin_anew(own: StudyFolder, record: StudyRecord, forget: bool = False) -> None:
    if forget:
        own.forget()
    own.ask(record)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    keys = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {other.get(key)!r} instead of {one.get(key)!r}" for key in sorted(keys))

"""The stages of a run as one registry, and how they run: skip what is done, resume what was interrupted.

A new stage is one entry of ``STAGES`` and one file ``workflows/stages/<name>.py``.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from workflows.context import Stage, StageContext
from workflows.errors import RunFolderError, SettingsError
from workflows.plan.expected import Lost, Made, find_lost
from workflows.plan.run_inputs import refuse_changed_inputs
from workflows.plan.run_plan import Plan, plan_path
from workflows.report.numbers import duration
from workflows.settings import Settings
from workflows.settings.graph_settings import ALL_FIGURES
from workflows.storage.run_folder import RunFolder, size_of
from workflows.storage.run_log import RunLog
from workflows.versions import versions

if TYPE_CHECKING:
    from workflows.runtime.cluster import Resources
    from workflows.runtime.progress import StageBar
    from workflows.watching import Watching

_OF_SCOPES = ("scopes", "lists", "loss", "min_confusions", "max_neighbours", "min_images")
"""Fields of ``[fit]`` that the extract stage checks once it knows the confusion matrix."""


def _checked_scopes(settings: Settings) -> str:
    return json.dumps(settings.fit.model_dump(mode="json", include=set(_OF_SCOPES)), sort_keys=True)


def _class_scopes(settings: Settings) -> str:
    """More classes in ``mine.classes`` may mean more class scopes."""
    return json.dumps(sorted(set(settings.mine.classes))) if "class" in settings.fit.scopes else ""


def _of_effects(settings: Settings) -> str:
    """Empty where no graph is chosen by effect."""
    return f"effect{_class_scopes(settings)}" if "effect" in settings.mine.criteria else ""


def _figures(settings: Settings) -> str:
    """Empty for all, as in the ledgers of runs from before there was a choice."""
    return "" if settings.draw.figures == (ALL_FIGURES,) else json.dumps(sorted(set(settings.draw.figures)))


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("index", ("images.parquet", "plan.json", "objects.csv", "fetched"), needs_ray=False),
        Stage("train", ("weights.pt", "checkpoints", "decoder.pt"), needs_ray=False),
        Stage("extract", ("activations", "predictions"), items=_checked_scopes),
        Stage("fit", ("scopes.json", "mixtures", "history.parquet"), items=_class_scopes, of_scopes=True),
        Stage(
            "errors",
            ("decisions", "decisions.parquet", "errors.parquet"),
            items=_class_scopes,
            decision="holds what words decide against what the network decides",
        ),
        Stage("words", ("words", "path_parts"), items=_class_scopes),
        Stage(
            "paths",
            ("paths.parquet", "transitions.parquet", "triage.parquet", "junctions.parquet"),
            reads=("triage",),
            decision="follows images to what the network decides",
        ),
        Stage(
            "count",
            ("cooccurrence", "words.parquet", "exemplars.parquet", "layers.parquet"),
            reads=("draw.exemplars", "count.intervals", "count.folds"),
            items=_class_scopes,
            of_scopes=True,
            layout=2,  # Parquet and npz files; before, Zarr groups of a dozen files each
            decision="counts words together with what the network decides",
        ),
        Stage(
            "effects",
            ("effects",),
            items=_of_effects,
            decision="takes words out of what the network decides",
        ),
        Stage(
            "mine",
            ("nodes.parquet", "edges.parquet", "heatmaps.parquet", "pairs.parquet"),
            reads=("mine", "count.pairs"),
            layout=2,  # with pairs.parquet
            decision="explains what the network decides",
        ),
        Stage(
            "draw",
            ("figures", "pictures"),
            reads=("count.intervals", "count.folds", "mine", "draw", "triage"),
            items=_figures,
            decision="draws graphs of what the network decides",
        ),
    )
}
"""In order. Each artefact has one writer, but images.parquet: the index stage writes what is known before a picture is
read, the extract stage completes it with predictions."""


COLUMNS = ("activations", "predictions")
"""What ``clean --columns`` frees: the columns, and predictions that are in images.parquet as well."""


def run_pipeline(
    settings: Settings,
    root: Path,
    console: Console,
    until: str | None = None,
    address: str | None = None,
    restore_columns: bool = False,
    verify: bool = False,
    accept_versions: bool = False,
    offered: Resources | None = None,
) -> RunFolder:
    """Run every stage that is not done, up to ``until``; the same call resumes an interrupted run.

    Args:
        settings: of the run; a folder that holds another run is refused.
        root: the run folder.
        console: where the bars go.
        until: last stage to run; None runs all, of a network without outputs up to ``last_without_outputs``.
        address: of a Ray cluster; None starts a local Ray when a stage needs one.
        restore_columns: extract again what ``free_columns`` freed; otherwise a stage that needs it is refused.
        verify: look into every artefact that is there, and make again what is damaged.
        accept_versions: go on with a run that was begun with other code or libraries; otherwise that is refused.
        offered: what the stages run on, such as this process alone; None connects to Ray when a stage needs it.

    Raises:
        RunError: whatever stops the run; what is finished stays finished.
    """
    wanted = stages_until(until, settings)
    with RunFolder.claimed(root).lock():
        folder = RunFolder.create_or_open(root, settings)
        _void_lost(folder, settings, console, verify)
        extracted = folder.ledger("extract")
        if restore_columns and extracted.content().cleaned:
            folder.claim_versions(accept_versions)  # refused before the ledger says that anything is to be done
            extracted.restore()
        left = stages_left(folder, settings, wanted)
        if left:
            refuse_freed(folder, [stage.name for stage in left if stage.name in _readers(settings)])
            folder.claim_versions(accept_versions)
            _run_stages(left, folder, settings, console, address, offered)
    return folder


def _void_lost(folder: RunFolder, settings: Settings, console: Console, verify: bool) -> None:
    """Artefacts that the ledgers have and the folder has not (any more) are to be made again.

    Raises:
        RunFolderError: the weights or the network are other ones now.
    """
    if not plan_path(folder).exists():
        # Nothing that is there is known to belong to the plan that is made next.
        for stage in STAGES.values():
            if folder.ledger(stage.name).content().items:
                folder.ledger(stage.name).restore()
        return
    plan = Plan.read(folder)
    refuse_changed_inputs(settings.network.name, plan, folder)
    for stage in stages_of(settings):
        ledger = folder.ledger(stage.name)
        lost = find_lost(stage.name, Made(folder, settings, plan, ledger.content()), _damage if verify else None)
        if lost.paths:
            ledger.void(sorted(lost.items, key=str))
            console.print(escape(_lost_words(stage.name, lost, folder)), highlight=False, soft_wrap=True)


def _damage(path: Path) -> Collection[int] | None:
    from workflows.storage.verifying import damage  # late: it reads arrays and tables

    return damage(path)


def _lost_words(stage: str, lost: Lost, folder: RunFolder) -> str:
    names = [str(path.relative_to(folder.root)) for path in lost.paths]
    again = "1 item is" if len(lost.items) == 1 else f"{len(lost.items)} items are"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{stage}: {', '.join(names[:3])}{more} missing or damaged, {again} done again"


def stages_until(until: str | None, settings: Settings) -> list[Stage]:
    """The stages of a run up to and including the one of a name; none: all, or up to ``last_without_outputs``.

    Raises:
        SettingsError: there is no such stage, or not for a network without outputs.
    """
    names = list(STAGES)
    if until is not None and until not in names:
        raise SettingsError(f"--until {until!r} is no stage; the stages are {', '.join(names)}")
    if until is None and not settings.network.has_outputs:
        until = last_without_outputs(settings)
    known = stages_of(settings)
    if until is not None and STAGES[until] not in known:
        raise SettingsError(
            f"--until: must be of {', '.join(stage.name for stage in known)} with network.outputs = 'none', got "
            f"{until!r}, which {STAGES[until].decision}; leave it out, or name a network with a classifier"
        )
    last = len(names) if until is None else names.index(until) + 1
    return [stage for stage in known if names.index(stage.name) < last]


def last_without_outputs(settings: Settings) -> str:
    """The stage that ends a run of a network without outputs where none is named."""
    return "train" if settings.network.weights == "train" else "index"


def stages_of(settings: Settings) -> list[Stage]:
    """The stages that a run can have."""
    return [stage for stage in STAGES.values() if stage.applies(settings)]


def without_outputs(settings: Settings) -> str:
    """What a run of a network without outputs has, for people; empty where it has outputs."""
    if settings.network.has_outputs:
        return ""
    last = last_without_outputs(settings)
    more = [stage.name for stage in stages_of(settings)][2:]
    others = [stage.name for stage in STAGES.values() if not stage.applies(settings)]
    return (
        f"network.outputs = 'none': the run ends after {last}; {_listed(more)} run with --until; {_listed(others)} do "
        "not apply to a network that decides nothing"
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def stages_left(folder: RunFolder, settings: Settings, wanted: Sequence[Stage]) -> list[Stage]:
    """Stages that are not done with these settings, and every stage behind the first of them.

    What comes back after a clean-up is what it was, so stages behind it that are done stay done.
    """
    for place, stage in enumerate(wanted):
        if not stage.is_done(folder, settings):
            behind = wanted[place + 1 :]
            returns = folder.ledger(stage.name).content().cleaned
            return [stage, *(stages_left(folder, settings, behind) if returns else behind)]
    return []


def _readers(settings: Settings) -> tuple[str, ...]:
    """Stages that read stored columns; figures of junctions do in a run with a hidden Markov model."""
    return ("fit", "errors", "words", *(("draw",) if settings.hmm is not None else ()))


def columns_sizes(folder: RunFolder) -> dict[str, int]:
    """Bytes by artefact of what ``free_columns`` would free."""
    return {name: size for name in COLUMNS if (size := size_of(folder.root / name))}


def free_columns(folder: RunFolder) -> None:
    """Remove the stored columns of a finished run, held by the caller; graphs, tables and word maps stay.

    The ledger says so first: the extract stage is as done as it was, and nothing is extracted again unless it is asked
    for (``run_pipeline(restore_columns=True)``).

    Raises:
        RunFolderError: a stage that reads columns is not done.
    """
    settings = folder.settings()
    left = [stage.name for stage in stages_left(folder, settings, stages_of(settings))]
    waiting = [name for name in ("extract", *_readers(settings)) if name in left]
    if waiting:
        raise RunFolderError(
            f"clean --columns: must be a run whose columns nothing waits for, got {str(folder.root)!r}, whose stage "
            f"{waiting[0]!r} is not done; finish the run first"
        )
    ledger = folder.ledger("extract")
    if not ledger.content().cleaned:
        ledger.clean()
    for name in COLUMNS:
        shutil.rmtree(folder.root / name, ignore_errors=True)


def refuse_freed(folder: RunFolder, readers: Sequence[str]) -> None:
    """Raises RunFolderError: there are readers of columns, and ``free_columns`` has freed them."""
    content = folder.ledger("extract").content()
    if readers and content.done and content.cleaned:
        raise RunFolderError(
            f"{str(folder.root)!r}: must have its columns for {', '.join(readers)}, but `clean --columns` freed them; "
            f"give the command of the run with --restore-columns (the extraction took {duration(content.seconds)})"
        )


def _run_stages(
    left: Sequence[Stage],
    folder: RunFolder,
    settings: Settings,
    console: Console,
    address: str | None,
    given: Resources | None,
) -> None:
    from workflows.runtime.progress import StageBar
    from workflows.watching import Watching

    bar = StageBar(console)
    with RunLog(folder.root) as log, bar.run(len(left)):
        log.tell("run begins", run=settings.name, stages=[stage.name for stage in left], versions=versions())
        watching = Watching(settings.name, log, bar.warn)
        for stage in left:
            if not stage.needs_ray:
                with _forgotten_if_begun_in_vain(folder, stage):
                    _run_stage(stage, folder, settings, bar, watching, None)
        on_cluster = [stage for stage in left if stage.needs_ray]
        if on_cluster:
            with _connected(address, folder, watching, given) as offered:
                for stage in on_cluster:
                    _run_stage(stage, folder, settings, bar, watching, offered)
        log.tell("run ends", run=settings.name)


def _connected(
    address: str | None, folder: RunFolder, watching: Watching, given: Resources | None
) -> AbstractContextManager[Resources]:
    from workflows.runtime.cluster import connect

    if given is not None:
        return nullcontext(given)
    return connect(address, seen=folder.run_file, warn=watching.warn)


@contextmanager
def _forgotten_if_begun_in_vain(folder: RunFolder, stage: Stage) -> Iterator[None]:
    """An index that fails, whatever stops it, leaves no run behind: the folder is free for a corrected command.

    Unless there is more than a plan: an index that was lost is made again beside what the later stages have written.
    """
    try:
        yield
    except BaseException:
        written = [name for other in STAGES.values() for name in other.writes if other != stage]
        if stage.name == "index" and not any((folder.root / name).exists() for name in written):
            with suppress(OSError):  # what stopped the index is what must be told
                for name in stage.writes:
                    if (folder.root / name).is_dir():
                        shutil.rmtree(folder.root / name)
                    (folder.root / name).unlink(missing_ok=True)
                folder.forget()
        raise


def _run_stage(
    stage: Stage,
    folder: RunFolder,
    settings: Settings,
    bar: StageBar,
    watching: Watching,
    offered: Resources | None,
) -> None:
    watch, processor = watching.of(stage.name), time.process_time()
    with bar.stage(stage.name) as progress, watch.at_work():
        stage.run(StageContext(settings, folder, stage, progress, watch.warn, offered, watch))
    # The one walk over its files, when they are new: a look at a run of a thousand scopes must not take another.
    sizes = {name: folder.remove_leftovers([name]) for name in stage.writes}
    folder.ledger(stage.name).end(bytes=sizes, driver_cpu=round(time.process_time() - processor, 4))

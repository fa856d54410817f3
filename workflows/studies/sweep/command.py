"""How many words, by which loss: the extraction once, then every layer with several numbers of words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from workflows.asking.registry import STUDIES
from workflows.context import Stage, StageContext
from workflows.errors import SettingsError
from workflows.networks.loading import is_downloaded
from workflows.pipeline import refuse_freed, run_pipeline
from workflows.plan.run_plan import Plan, plan_path
from workflows.report.numbers import duration
from workflows.report.sweep_figure import draw_sweep_figure
from workflows.report.sweep_verdicts import sweep_table, sweep_verdicts, verdict_lines
from workflows.runtime.cluster import connect
from workflows.runtime.progress import StageBar
from workflows.settings import Settings, parse_settings
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder, StudyRecord, basis_of
from workflows.storage.tables import read_table
from workflows.studies.sweep import cells as sweep
from workflows.studies.sweep.cells import SWEEP, Losses, SweepRequest

STAGE = Stage(SWEEP, ("sweep.parquet", "sweep"))
"""What it has in common with a stage: a ledger, actors, a bar."""


def sweep_request(words: str, losses: str = "both") -> SweepRequest:
    """From the command line: ``10,25,50`` and ``both`` or ``generative``.

    Raises:
        SettingsError: no whole numbers above 0, or another word for the losses.
    """
    try:
        numbers = sorted({int(part) for part in words.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise SettingsError(f"--words {words!r}: give whole numbers above 0 with commas between, such as 10,25,50")
    known: dict[str, Losses] = {"both": "both", "generative": "generative"}
    if losses not in known:
        raise SettingsError(f"--losses {losses!r}: give both, or generative for likelihoods without labels")
    return SweepRequest(tuple(numbers), known[losses])


def sweep_settings(settings: Settings, layers: Sequence[str], losses: Losses) -> Settings:
    """The same run with other modelled layers, as they are without any; of likelihoods alone if so asked.

    Raises:
        SettingsError: the run has one hidden Markov model, not a dictionary a layer; words are sliced; there are
            other scopes than joint; or a setting contradicts.
    """
    if settings.hmm is not None:
        raise SettingsError("sweep compares dictionaries of single layers: give a preset without an [hmm] section")
    if settings.fit.word_slices > 1:
        raise SettingsError("sweep fits every dictionary whole: set fit.word_slices = 1")
    if settings.data.labels == "none" and losses == "both":
        raise SettingsError(
            "sweep --losses: must be generative with data.labels = 'none', got both; errors need labels"
        )
    if not settings.network.has_outputs and losses == "both":
        raise SettingsError(
            "sweep --losses: must be generative with network.outputs = 'none', got both; errors need outputs"
        )
    if settings.fit.scopes != (JOINT,):
        raise SettingsError("sweep fits dictionaries of all classes: set fit.scopes = ['joint'] and fit.lists = []")
    raw = settings.model_dump(mode="json")
    if losses == "generative":
        raw["fit"]["loss"] = losses
    if layers:
        raw["network"]["layers"] = list(layers)
        raw["fit"]["words"] = [max(settings.fit.words)]
    return parse_settings(raw)


def run_sweep(
    settings: Settings,
    request: SweepRequest,
    root: Path,
    console: Console,
    address: str | None = None,
    accept_versions: bool = False,
) -> RunFolder:
    """Extract what is not extracted, fit the cells that are not fitted, write the table, the plot and the verdicts.

    Args:
        settings: of the run, see ``sweep_settings``.
        request: numbers of words and losses.
        root: the run folder; a folder of ``run`` with the same settings will do.
        console: where the bars and the verdicts go.
        address: of a Ray cluster; None starts a local Ray.
        accept_versions: go on with a run that was begun with other code or libraries.

    Raises:
        RunError: whatever stops it; the same call goes on where it was, cell by cell.
    """
    begun = time.monotonic()
    folder = run_pipeline(settings, root, console, "index", address, accept_versions=accept_versions)
    sweep.refuse_impossible(folder, settings, request)
    refuse_freed(folder, [SWEEP])
    run_pipeline(settings, root, console, "extract", address, accept_versions=accept_versions)
    bar = StageBar(console)
    connected = connect(address, seen=folder.run_file, warn=bar.warn)
    with folder.lock(), connected as offered, bar.stage(SWEEP) as progress:
        folder.remove_leftovers([SWEEP, folder.figures.name])
        sweep.run(StageContext(settings, folder, STAGE, progress, bar.warn, offered), request)
        _note_answer(folder, request)
    show_sweep(folder, settings.name, console)
    console.print(f"this command took {duration(time.monotonic() - begun)}", highlight=False)
    return folder


def _note_answer(folder: RunFolder, request: SweepRequest) -> None:
    """What the table stands on, so that ``status`` can tell whether it still does."""
    own, plan = StudyFolder(folder, STUDIES[SWEEP]), Plan.read(folder)
    files = [plan_path(folder), folder.images_table]
    files += [] if is_downloaded(plan.weights) else [Path(plan.weights)]
    told = {"words": list(request.words), "losses": request.losses}
    own.note(StudyRecord(told, basis_of(folder, own.study.version, files, ())))


def show_sweep(folder: RunFolder, network: str, console: Console) -> None:
    """Draw sweep.png and sweep.svg from sweep.parquet; print the table and the verdicts."""
    rows = read_table(folder.table(SWEEP))
    png, svg = folder.figure(SWEEP, "png"), folder.figure(SWEEP, "svg")
    draw_sweep_figure(rows, png, svg, network=network)
    console.print(sweep_table(rows))
    for line in verdict_lines(sweep_verdicts(rows)):
        console.print(line, soft_wrap=True)
    console.print(Text(f"table {folder.table(SWEEP)}\nplot {png}"), soft_wrap=True)

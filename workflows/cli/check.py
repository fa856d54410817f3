"""``inference-graphs check``: whether every node of a cluster has what a run needs, before there is a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workflows.cli.options import (
    Address,
    AllowCode,
    AsJson,
    Out,
    Preset,
    Set,
    console,
    default_out,
    find_preset,
    print_json,
)
from workflows.errors import REFUSED, DataError
from workflows.report.numbers import size

if TYPE_CHECKING:
    from workflows.forecast.forecasts import Forecast
    from workflows.runtime.preflight import NodeReport
    from workflows.settings import Settings

MARKED = ("code", "folder", "images", "network")
"""Checks whose column says yes or no; the others stand at their amounts."""

SAMPLES = 20
"""Pictures of an image folder that every node must read; all Parquet files, but so many of each split at most."""


def check(
    preset: Preset,
    set_: Set = None,
    out: Out = None,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """Ask every node of a cluster what the run will need: code, folders, images, disk, memory, GPUs, links.

    Nothing is run, and nothing stays behind. Disk and memory are held against the kept plan of the run, if there is
    one. The exit code is 0 where nothing is wrong, else 2, with one line a problem.

    Examples:

        inference-graphs check digits

        inference-graphs check mine.toml --out /shared/runs/mine --address auto
    """
    from workflows.forecast.forecasts import kept_forecast
    from workflows.runtime.cluster import connect
    from workflows.runtime.handshake import Terms
    from workflows.runtime.preflight import Wanted, preflight, probe
    from workflows.settings import load_settings
    from workflows.storage.object_store import size_when_read
    from workflows.storage.run_folder import RunFolder

    settings = load_settings(find_preset(preset), set_ or ()).allowing(allow_code or ())
    root = RunFolder.claimed(out or default_out(settings.name)).root
    inputs, planned = _inputs(settings), kept_forecast(root, settings)
    seen = probe(root)
    try:
        with connect(address, greet=False):
            needs = (0, 0) if planned is None else (planned.disk_at_most, planned.memory)
            runtime = settings.runtime
            wanted = Wanted(Terms.of(seen), inputs, size_when_read, *needs, runtime.threads, runtime.device == "cuda")
            reports = preflight(wanted)
    finally:
        seen.unlink(missing_ok=True)
    wrong = any(report.problems for report in reports) or not any(report.cores for report in reports)
    if as_json:
        print_json({"run": str(root), "nodes": [asdict(report) for report in reports], "fit": not wrong})
    else:
        print_reports(reports, planned, console())
    if wrong:
        raise typer.Exit(REFUSED)


def print_reports(reports: Sequence[NodeReport], planned: Forecast | None, console: Console) -> None:
    """A row a node, a line a problem, and what it comes to."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("node", overflow="fold", min_width=12)
    for name in ("cores", "GPUs", "memory", "disk"):
        table.add_column(name, justify="right")
    for name in MARKED:
        table.add_column(name, no_wrap=True)
    for report in reports:
        memory, disk = ("–" if given is None else size(given) for given in (report.memory, report.disk))
        amounts = {"cores": str(report.cores), "GPUs": str(report.gpus), "memory": memory, "disk": disk}
        marks = (_mark(report, check, amounts.get(check, "")) for check in (*amounts, *MARKED))
        table.add_row(Text(report.name.removeprefix("node ")), *marks)
    console.print(table)
    for line in _lines(reports, planned):
        console.print(Text(line), highlight=False, soft_wrap=True)


def _mark(report: NodeReport, check: str, amount: str) -> Text:
    """An amount that is too little says so; a check without an amount says ``ok``, ``no``, or that nobody knows."""
    if check in report.problems:
        return Text(f"{amount} no".strip(), style="bold red")
    if amount:
        return Text(amount)
    return Text("–", style="dim") if check in report.unanswered else Text("ok", style="green")


def _lines(reports: Sequence[NodeReport], planned: Forecast | None) -> Iterator[str]:
    for report in reports:
        for check, problems in report.problems.items():
            yield from (f"{report.name}: {check}: {words}" for words in problems)
    if not any(report.cores for report in reports):
        yield "the cluster must have a node with cores, got none; start Ray on one without --num-cpus 0"
    if planned is None:
        yield "disk and memory were held against no plan; `inference-graphs plan` with the same settings makes one"
    wrong = sum(bool(report.problems) for report in reports)
    found = f"{len(reports)} node{'s' * (len(reports) != 1)} asked"
    rest = "a run has only the others" if wrong < len(reports) else "a run has none"
    yield f"{found}, {wrong} with problems; {rest}" if wrong else f"{found}, nothing is wrong"


def _inputs(settings: Settings) -> tuple[tuple[str, int], ...]:
    """Files that actors read, as absolute paths with their bytes: Parquet files, some pictures, weights.

    Raises:
        DataError: there are none where the settings say, on this machine.
    """
    from workflows.networks.loading import is_downloaded
    from workflows.storage.object_store import is_uri

    data, weights = settings.data, settings.network.weights
    files = list(_image_files(settings))
    files += [data.boxes] if data.boxes else []
    files += [] if weights == "train" or is_downloaded(weights) else [weights]
    return tuple((file if is_uri(file) else os.path.realpath(file), _bytes(file)) for file in files)


def _bytes(file: str) -> int:
    from workflows.storage.object_store import size_when_read

    try:
        return size_when_read(file)
    except OSError as error:
        raise DataError(
            f"{file!r} must be readable here before nodes are asked for it, got {error.strerror}; correct the setting"
        ) from error


def _image_files(settings: Settings) -> Iterator[str]:
    from workflows.data.parquet_index import files_of_patterns
    from workflows.storage.object_store import files_below, is_uri

    data = settings.data
    if data.source in ("parquet", "tar"):
        for field in ("train", "validation"):
            files = files_of_patterns(getattr(data, field), field, "tar" if data.source == "tar" else "Parquet")
            yield from files[:: -(-len(files) // SAMPLES)]
    rooted = data.source in ("cifar10", "imagenet")
    folders = (data.root,) if rooted else (*data.folders, *data.validation)
    for folder in folders if rooted or data.source in ("folders", "crops") else ():
        if is_uri(folder):
            yield from (one.uri for one in islice(files_below(folder), SAMPLES))
            continue
        found = list(islice(_first_of_each(Path(folder)), SAMPLES))
        if not found:
            raise DataError(f"{folder!r} must be a folder with images here, got none; correct the setting")
        yield from found


def _first_of_each(folder: Path) -> Iterator[str]:
    """A file of every folder below one, without walking over all of them."""
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in sorted(_visible(names))[:1])


def _visible(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if not name.startswith("."))

"""``inference-graphs sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from workflows.cli.options import (
    AcceptVersions,
    Address,
    AllowCode,
    AsJson,
    Preset,
    Set,
    console,
    default_out,
    find_preset,
    print_json,
)


def sweep(
    preset: Preset,
    words: Annotated[str, typer.Option(help="Numbers of words K, with commas between.")] = "10,25,50,100,200",
    layers: Annotated[
        str | None, typer.Option(help="Layers, with commas between, lowest first; default: the preset's.")
    ] = None,
    losses: Annotated[str, typer.Option(help="both, or generative: likelihoods alone, which need no labels.")] = "both",
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name of the preset>-sweep.")] = None,
    address: Address = None,
    allow_code: AllowCode = None,
    accept_versions: AcceptVersions = False,
    as_json: AsJson = False,
) -> None:
    """How many words: every layer with several K, by likelihood and by the labels (IG Fig. 4 right).

    Dictionaries are those of all classes (scope joint). One extraction; then sweep.parquet, figures/sweep.png and what
    became of the paper's expectations. The same command goes on where it was, cell by cell. Other --words add to the
    table and the plot what they fit; another --out starts anew.

    Examples:

        inference-graphs sweep digits --words 5,10,20

        inference-graphs sweep cifar10_resnet20 --layers add8,add9 --set discriminative.epochs=10
    """
    from workflows.asking.registry import STUDIES
    from workflows.settings import load_settings
    from workflows.storage.study_folder import StudyFolder
    from workflows.studies.sweep.command import run_sweep, sweep_request, sweep_settings

    request = sweep_request(words, losses)
    names = [name.strip() for name in layers.split(",") if name.strip()] if layers else []
    told = load_settings(find_preset(preset), set_ or ()).allowing(allow_code or ())
    settings = sweep_settings(told, names, request.losses)
    out_console = console(stderr=as_json)
    root = out or default_out(f"{settings.name}-sweep")
    folder = run_sweep(settings, request, root, out_console, address, accept_versions)
    out_console.print(f"run folder {escape(str(folder.root))}", highlight=False, soft_wrap=True)
    if as_json:
        print_json(StudyFolder(folder, STUDIES["sweep"]).summary())

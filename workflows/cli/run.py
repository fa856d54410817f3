"""``inference-graphs run``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from workflows.cli.options import (
    AcceptVersions,
    Address,
    AllowCode,
    Out,
    Preset,
    Set,
    Until,
    console,
    default_out,
    find_preset,
)


def run(
    preset: Preset,
    set_: Set = None,
    out: Out = None,
    until: Until = None,
    address: Address = None,
    allow_code: AllowCode = None,
    restore_columns: Annotated[
        bool, typer.Option("--restore-columns", help="Extract again what clean --columns freed.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Look into every artefact, and make again what is damaged.")
    ] = False,
    accept_versions: AcceptVersions = False,
) -> None:
    """Run a preset: what is finished is skipped, what was interrupted goes on.

    Examples:

        inference-graphs run digits

        inference-graphs run infra/presets/cifar10_resnet20.toml --set fit.words=50 --out runs/fifty

        inference-graphs run animals_resnet50 --until fit --address auto
    """
    from workflows.pipeline import run_pipeline, without_outputs
    from workflows.settings import load_settings

    settings = load_settings(find_preset(preset), set_ or ()).allowing(allow_code or ())
    out_console = console()
    root = out or default_out(settings.name)
    folder = run_pipeline(settings, root, out_console, until, address, restore_columns, verify, accept_versions)
    told = without_outputs(settings)
    if told:
        out_console.print(escape(told), highlight=False, soft_wrap=True)
    out_console.print(f"run folder {escape(str(folder.root))}", highlight=False, soft_wrap=True)

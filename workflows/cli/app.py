"""The command line: ``inference-graphs``, one file a command."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from gmm_ops.errors import RefusedInput
from workflows.cli.ablate import ablate
from workflows.cli.boxes import boxes, parts
from workflows.cli.clean import clean
from workflows.cli.demo import demo
from workflows.cli.dissect import dissect
from workflows.cli.layers import layers
from workflows.cli.locate import locate
from workflows.cli.options import console
from workflows.cli.patterns import patterns
from workflows.cli.publish import publish
from workflows.cli.relevance import relevance
from workflows.cli.resample import resample
from workflows.cli.run import run
from workflows.cli.show import show
from workflows.cli.status import status
from workflows.cli.sweep import sweep
from workflows.errors import RunError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="How a convolutional network decides: visual words, what feeds what, and the [bold]inference graph[/bold] "
    "of a class or an image.\n\nStart with [bold]inference-graphs demo[/bold], then "
    "[bold]inference-graphs run PRESET.toml[/bold].",
)

INTERRUPTED = 130

ASKING = (sweep, boxes, dissect, relevance, ablate, resample, patterns, locate)

for command in (run, layers, status, show, publish, clean, demo, *ASKING):
    app.command()(command)
app.command(hidden=True)(parts)


def main() -> None:
    """Entry point: errors of a run are one clear message, not a traceback."""
    errors = console(stderr=True)
    try:
        app()
    except (RunError, RefusedInput) as error:
        errors.print(f"[bold red]error[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has turned the Ctrl-C into an exit
            errors.print("stopped; the same command goes on where it was", highlight=False)
        raise

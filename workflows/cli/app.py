"""The command line: ``inference-graphs``, one file a command."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from gmm_ops.errors import RefusedInput
from workflows.cli.ablate import ablate
from workflows.cli.boxes import boxes, parts
from workflows.cli.check import check
from workflows.cli.clean import clean
from workflows.cli.demo import demo
from workflows.cli.dissect import dissect
from workflows.cli.export import export
from workflows.cli.layers import layers
from workflows.cli.locate import locate
from workflows.cli.options import console
from workflows.cli.patterns import patterns
from workflows.cli.plan import plan
from workflows.cli.publish import publish
from workflows.cli.query import query
from workflows.cli.relevance import relevance
from workflows.cli.report import report
from workflows.cli.resample import resample
from workflows.cli.run import run
from workflows.cli.serve import serve
from workflows.cli.show import show
from workflows.cli.status import status
from workflows.cli.sweep import sweep
from workflows.cli.trust import trust
from workflows.errors import FAILED, REFUSED, CodeEnded, RunError, system_words

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="How a convolutional network decides: visual words, what feeds what, and the [bold]inference graph[/bold] "
    "of a class or an image.\n\nStart with [bold]inference-graphs demo[/bold], then "
    "[bold]inference-graphs run PRESET.toml[/bold].",
    epilog="Exit codes: 0 done; 1 failed, another try may help; 2 refused, the same command would be refused again; "
    "130 interrupted (Ctrl-C); 143 ended by SIGTERM. Whatever was finished stays finished.",
)

INTERRUPTED = 130
TERMINATED = 143

ASKING = (sweep, boxes, dissect, relevance, ablate, resample, patterns, locate, trust)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command in which ``sys.exit`` is a failure: it can only be foreign code, such as a network's module, that ends.

    Raises:
        CodeEnded: names the line.
    """

    @functools.wraps(command)
    def guard(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except SystemExit as ended:
            place = traceback.extract_tb(ended.__traceback__)[-1]
            line = f"{os.path.basename(place.filename)}:{place.lineno}"
            raise CodeEnded(
                f"{line} ended the program by sys.exit({ended.code!r}), which code that is only loaded or run by a "
                "command must not; take that out, or name another network"
            ) from ended

    return guard


OFTEN = (plan, check, run, layers, status, show, report, query, serve, export, publish, clean, demo)

for command in (*OFTEN, *ASKING):
    app.command()(guarded(command))
app.command(hidden=True)(guarded(parts))


_told_to_end = {"by": INTERRUPTED}


def _end_as_if_interrupted(number: int, frame: Any) -> None:
    """SIGTERM, as schedulers send it: what Ctrl-C does, once; a second one must not disturb the tidying up."""
    signal.signal(number, signal.SIG_IGN)
    _told_to_end["by"] = TERMINATED
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: errors of a run are one clear message, not a traceback.

    Exit statuses: 0 done, 2 refused (the same command would be refused again), 130 and 143 stopped by Ctrl-C or SIGTERM
    (the same command goes on), 1 anything else.
    """
    errors = console(stderr=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end_as_if_interrupted)
    try:
        app()
    except (RunError, RefusedInput) as error:
        _end(errors, str(error), getattr(error, "status", REFUSED))
    except OSError as error:
        _end(errors, system_words(error), FAILED)
    except MemoryError:
        _end(errors, "the memory is used up: lower runtime.actors or extract.batch, or free some", FAILED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has turned the Ctrl-C into an exit
            errors.print("stopped; the same command goes on where it was", highlight=False)
            sys.exit(_told_to_end["by"])
        raise
    except Exception as error:
        errors.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        _end(errors, f"{type(error).__name__}: a fault of this program; please report the lines above", FAILED)


def _end(errors: Console, words: str, status: int) -> NoReturn:
    errors.print(f"[bold red]error[/bold red] {escape(words)}", highlight=False, soft_wrap=True)
    sys.exit(status)

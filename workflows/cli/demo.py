"""``inference-graphs demo``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.markup import escape

from workflows.cli.options import AcceptVersions, Out, console, default_out, find_preset
from workflows.cli.show import show_graph


def demo(out: Out = None, accept_versions: AcceptVersions = False) -> None:
    """The whole main job on scikit-learn's handwritten digits: no download, no configuration, about two minutes.

    Example:

        inference-graphs demo --out runs/digits
    """
    from workflows.pipeline import run_pipeline
    from workflows.run import open_run
    from workflows.settings import load_settings

    settings = load_settings(find_preset("digits"))
    out_console = console()
    folder = run_pipeline(settings, out or default_out(settings.name), out_console, accept_versions=accept_versions)
    show_graph(open_run(folder.root), "class:3", out_console)
    command, shown = _command(), escape(str(out or default_out(settings.name)))
    out_console.print(
        f"\nEvery figure is in [bold]{shown}/figures[/bold]. Try next:\n"
        f"  {command} status {shown}\n"
        f"  {command} show {shown} --class 8\n"
        f"  {command} run digits --set fit.words=50 --out {escape(str(Path('runs') / 'fifty'))}",
        highlight=False,
        soft_wrap=True,
    )


def _command() -> str:
    """How this command line was called, so that its hints work where no environment is active."""
    called = Path(sys.argv[0])
    return escape(str(called)) if called.name == "inference-graphs" and called.exists() else "inference-graphs"

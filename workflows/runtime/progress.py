"""One progress bar a stage, plain lines where there is no terminal; and what is told to who asks meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Heartbeat:
    """What a pool of actors, or the groups of a fit, are doing."""

    actors: int
    """At work, or idle."""
    starting: int
    waiting: int
    """Items."""
    oldest: str
    """The item that has been at work longest, and where; empty while there is none."""
    seconds: float
    """For how long."""


class StageBar:
    """Draws the bars of a run on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self.console.print(f"[yellow]warning[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageProgress]:
        """A bar for the length of a stage, replaced by one line when it ends well."""
        started = time.perf_counter()
        columns = (
            TextColumn("[bold]{task.description:<8}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        live = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=not live) as bar:
            progress = StageProgress(bar, bar.add_task(name, total=None, note=""))
            yield progress
        seconds = time.perf_counter() - started
        note = f"  [dim]{escape(progress.text)}[/dim]" if progress.text else ""
        items = f"{progress.done}/{progress.total}"
        self.console.print(
            f"[green]done[/green] {name:<8} {items:>9} {seconds:7.1f} s{note}", highlight=False, soft_wrap=True
        )


class StageProgress:
    """The bar of one stage; see ``workflows.context.Progress``."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self.total, self.done, self.text = 0, 0, ""

    def start(self, total: int, done: int = 0) -> None:
        """Show a bar of ``total`` items, ``done`` of them finished by an earlier run."""
        self.total, self.done = total, done
        self._bar.reset(self._task, total=total, completed=done)

    def advance(self, items: int = 1) -> None:
        """So many more items are done."""
        self.done += items
        self._bar.advance(self._task, items)

    def note(self, text: str) -> None:
        """Show a short text beside the bar."""
        self.text = text
        self._bar.update(self._task, note=escape(text))

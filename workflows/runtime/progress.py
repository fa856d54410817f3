"""One display a run: its stages, and of the one at work items, rates and time left; and what is told to who asks.

Where there is no terminal, plain lines: one when a stage ends, and one a minute meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta

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

LINE_S = 60.0
"""Between two lines of a stage at work where there is no terminal."""


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
        self._display: Progress | None = None
        self._run: TaskID | None = None

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self.console.print(f"[yellow]warning[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    @contextmanager
    def run(self, stages: int) -> Iterator[None]:
        """One display for so many stages, with a bar of its own above theirs."""
        with self._new_display() as self._display:
            self._run = self._display.add_task("run", total=stages, note="stages")
            try:
                yield
            finally:
                self._display = self._run = None

    def _new_display(self) -> Progress:
        columns = (
            TextColumn("[bold]{task.description:<8}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageProgress]:
        """A bar for the length of a stage, replaced by one line when it ends well."""
        started = time.perf_counter()
        with self._new_display() if self._display is None else nullcontext(self._display) as display:
            progress = StageProgress(display, display.add_task(name, total=None, note=""), self.console, name)
            try:
                yield progress
            finally:
                display.remove_task(progress.task)
        if self._display is not None and self._run is not None:
            self._display.advance(self._run)
        seconds = time.perf_counter() - started
        words = "  ".join(part for part in (progress.rates.words(seconds), progress.text) if part)
        note = f"  [dim]{escape(words)}[/dim]" if words else ""
        items = f"{progress.done}/{progress.total}"
        self.console.print(
            f"[green]done[/green] {name:<8} {items:>9} {seconds:7.1f} s{note}", highlight=False, soft_wrap=True
        )


@dataclass
class Rates:
    """What a stage has got through since this command began it."""

    images: int = 0
    columns: int = 0
    begun: float = field(default_factory=lambda: time.perf_counter())

    def words(self, seconds: float) -> str:
        """``812 images/s, 208,000 columns/s``; empty where nothing was counted."""
        counted = {"images": self.images, "columns": self.columns}
        return ", ".join(f"{_rounded(count / max(seconds, 1e-3))} {name}/s" for name, count in counted.items() if count)


def _rounded(rate: float) -> str:
    return f"{float(f'{rate:.3g}'):,.0f}" if rate >= 10 else f"{rate:.2g}"


class StageProgress:
    """The bar of one stage; see ``workflows.context.Progress``."""

    def __init__(self, bar: Progress, task: TaskID, console: Console, name: str) -> None:
        self._bar, self.task, self._console, self._name = bar, task, console, name
        self.total, self.done, self.text, self.rates = 0, 0, "", Rates()
        self._shares: dict[str, float] = {}
        self._before, self._said = 0, time.perf_counter()

    def start(self, total: int, done: int = 0) -> None:
        """Show a bar of ``total`` items, ``done`` of them finished by an earlier run."""
        self.total, self.done, self._before = total, done, done
        self._bar.reset(self.task, total=total, completed=done)

    def advance(self, items: int = 1, images: int = 0, columns: int = 0) -> None:
        """So many more items are done, with what they were of."""
        self.done += items
        self.rates.images += images
        self.rates.columns += columns
        self._show()

    def at_work(self, item: str, share: float, columns: int = 0) -> None:
        """So much of an item is done; so many columns more were seen. A share of 1 leaves it to ``advance``."""
        self._shares[item] = share
        if share >= 1:
            self._shares.pop(item)
        self.rates.columns += columns
        self._show()

    def note(self, text: str) -> None:
        """Show a short text beside the bar."""
        self.text = text
        self._show()

    def _show(self) -> None:
        now = time.perf_counter()
        completed = self.done + sum(self._shares.values())
        rates = self.rates.words(now - self.rates.begun)
        note = "  ".join(part for part in (rates, self.text) if part)
        self._bar.update(self.task, completed=completed, note=escape(note))
        if self._bar.disable and now - self._said > LINE_S and not self._console.quiet:
            self._said = now
            left = (self.total - completed) / max(completed - self._before, 1e-9) * (now - self.rates.begun)
            told = f", {timedelta(seconds=round(left))} left" if completed > self._before else ""
            line = f"at work {self._name} {self.done}/{self.total}{told}  {note}".rstrip()
            self._console.print(escape(line), highlight=False, soft_wrap=True)

"""What is told of a run while it works: a log in its folder, and metrics of Ray for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workflows.context import Watch
from workflows.storage.ledger import Item
from workflows.storage.run_log import RunLog

if TYPE_CHECKING:
    from workflows.runtime.metrics import RunMetrics

LOGGED = ("images", "columns", "seconds", "profile", "peak_memory", "attempts")
"""Fields of an item's record that its line in the log has."""


class Watching:
    """Of one run: its log, its metrics, and where warnings are printed."""

    def __init__(self, run: str, log: RunLog, warn: Callable[[str], None]) -> None:
        from workflows.runtime.metrics import RunMetrics

        self._log, self._warn, self._metrics = log, warn, RunMetrics(run)

    def of(self, name: str) -> WorkWatch:
        """For a stage or a study."""
        return WorkWatch(name, self._log, self._metrics, self._warn)

    def warn(self, words: str) -> None:
        """A warning of the run as a whole."""
        self._log.tell("warning", words=words)
        self._warn(words)


class WorkWatch(Watch):
    """Of one stage or study.

    Args:
        name: of the stage or study.
        log: of the run.
        metrics: of the run.
        warn: prints.
    """

    def __init__(self, name: str, log: RunLog, metrics: RunMetrics, warn: Callable[[str], None]) -> None:
        self._name, self._log, self._metrics, self._warn = name, log, metrics, warn

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For its length; that it begins and ends is told, and what ended it."""
        self._log.tell("stage begins", stage=self._name)
        self._metrics.stage(self._name, True)
        ended = "stage stopped"
        try:
            yield
            ended = "stage done"
        except BaseException as error:
            self._log.tell("error", stage=self._name, kind=type(error).__name__, words=str(error))
            raise
        finally:
            self._metrics.stage(self._name, False)
            self._log.tell(ended, stage=self._name)

    def warn(self, words: str) -> None:
        """A warning, printed and in the log."""
        self._log.tell("warning", stage=self._name, words=words)
        self._warn(words)

    def beat(self, told: Any) -> None:
        """See ``Watch``; not in the log."""
        self._metrics.beat(self._name, told)

    def tell(self, event: str, *, place: str = "", **fields: Any) -> None:
        """See ``Watch``."""
        self._log.tell(event, place=place, stage=self._name, **fields)

    def done(self, item: Item, record: dict[str, Any]) -> None:
        """See ``Watch``."""
        self._metrics.done(self._name, record)
        told = {name: record[name] for name in LOGGED if name in record}
        self._log.tell("done", place=record.get("place", ""), stage=self._name, item=item, **told)

    def failed(self, item: Item, reason: str, last: bool) -> None:
        """See ``Watch``; the actor's own words are in the log already."""
        self._metrics.failed(self._name, last)
        if last:
            self._log.tell("given up", stage=self._name, item=item, words=reason)

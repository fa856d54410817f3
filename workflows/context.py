"""What every stage is given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from workflows.data.shards import Shard, plan_shards
from workflows.plan.run_plan import Plan
from workflows.runtime.cluster import Resources, plan_actors
from workflows.runtime.dispatcher import DispatchReport, PoolSettings, map_shards
from workflows.runtime.reductions import tree_reduce
from workflows.settings import Settings
from workflows.storage.ledger import Item, Ledger
from workflows.storage.run_folder import RunFolder

T = TypeVar("T")
S = TypeVar("S")

LAYOUT = "1"
"""Version of what the stages write."""

READS: dict[str, tuple[str, ...]] = {
    "paths": ("triage",),
    "count": ("draw.exemplars",),
    "mine": ("mine",),
    "draw": ("mine", "draw", "triage"),
}
"""Settings that may change in a finished run, by the first stages that read them; those stages then run again."""


OF_SCOPES = ("fit", "errors", "words", "count")
"""Stages whose items are those of the scopes: more classes in ``mine.classes`` may mean more class scopes."""

_SCOPES = ("scopes", "lists", "loss", "min_confusions", "max_neighbours", "min_images")
"""Fields of ``[fit]`` that the extract stage checks once it knows the confusion matrix."""


class Progress(Protocol):
    """A progress bar of one stage."""

    def start(self, total: int, done: int = 0) -> None:
        """Show a bar of ``total`` items, ``done`` of them finished by an earlier run."""

    def advance(self, items: int = 1) -> None:
        """So many more items are done."""

    def note(self, text: str) -> None:
        """Show a short text beside the bar."""


def fingerprint(stage: str, settings: Settings) -> str:
    """Of the changeable settings that a stage reads; a ledger with another one is void."""
    values = settings.model_dump(mode="json")
    read = {}
    for path in READS.get(stage, ()):
        section, _, field = path.partition(".")
        read[path] = values[section][field] if field else values[section]
    return f"{LAYOUT}:{hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]}"


def asked_items(stage: str, settings: Settings) -> str:
    """Settings that say which items a stage has; with another answer it runs again, and keeps what it has."""
    if stage == "extract":
        return json.dumps(settings.fit.model_dump(mode="json", include=set(_SCOPES)), sort_keys=True)
    if stage in OF_SCOPES and "class" in settings.fit.scopes:
        return json.dumps(sorted(set(settings.mine.classes)))
    return ""


@dataclass(frozen=True)
class StageContext:
    """Settings, folder and progress of one stage of one run."""

    settings: Settings
    folder: RunFolder
    stage: str
    progress: Progress
    warn: Callable[[str], None]
    offered: Resources | None = None
    """What the connected Ray offers; None in the stages that need no actors."""

    @property
    def scheduler(self) -> Literal["ray", "threads"]:
        """Who runs Dask reductions: ``ray`` or ``threads``."""
        wanted = self.settings.count.scheduler
        joined = self.offered is not None and self.offered.joined
        return wanted if wanted != "auto" else "ray" if joined else "threads"

    def pool(self, items: int, name: str = "shard") -> PoolSettings:
        """How wide and how patient the actors of this stage are."""
        assert self.offered is not None, "stages with actors run connected"
        actors = plan_actors(self.settings.runtime, self.offered, items)
        attempts = self.settings.runtime.max_attempts
        return PoolSettings(
            actors.n_actors,
            actors.num_cpus,
            actors.num_gpus,
            actors.threads,
            attempts,
            item_timeout_s=self.settings.runtime.item_timeout_s,
            name=name,
        )

    def worker_settings(self) -> Settings:
        """The settings as actors need them: the device that Ray gives them, and paths that hold in any folder."""
        assert self.offered is not None, "stages with actors run connected"
        device = plan_actors(self.settings.runtime, self.offered).device
        runtime = self.settings.runtime.model_copy(update={"device": device})
        root = self.settings.data.root
        data = self.settings.data.model_copy(update={"root": str(Path(root).resolve()) if root else ""})
        return self.settings.model_copy(update={"runtime": runtime, "data": data})

    @property
    def ledger(self) -> Ledger:
        """What this stage has finished."""
        return self.folder.ledger(self.stage)

    def reduce(self, items: Sequence[T], map_fn: Callable[[T], S], merge_fn: Callable[[S, S], S]) -> S:
        """One Dask reduction over small work items; the result does not depend on who runs it."""
        workers = self.offered.cpus if self.offered is not None else 1
        return tree_reduce(items, map_fn, merge_fn, scheduler=self.scheduler, n_workers=workers)

    def plan(self) -> Plan:
        """The plan that the index stage wrote."""
        return Plan.read(self.folder)

    def map_shards_left(
        self, worker: Callable[..., Any], plan: Plan, check: Callable[[dict[str, Any]], None] | None = None
    ) -> DispatchReport:
        """Give the shards that the ledger does not have to actors, each of which builds ``worker`` once.

        ``check`` sees every new record after it is in the ledger, and may stop the run.
        """
        shards = plan_shards(plan.images, self.settings.extract.images_per_shard)
        done = self.begin(len(shards))
        left = [shard for shard in shards if shard.index not in done]

        def fail(shard: Shard, reason: str, last: bool) -> None:
            self.failed(shard.index, reason, last)

        def finish(shard: Shard, record: dict[str, Any]) -> None:
            self.finished(shard.index, record)
            if check is not None:
                check(record)

        inputs = {"settings": self.worker_settings(), "plan": plan, "folder": self.folder}
        return map_shards(worker, inputs, left, self.pool(len(left)), on_done=finish, on_failure=fail)

    def begin(self, total: int, wanted: Collection[Item] | None = None) -> dict[Item, dict[str, Any]]:
        """Start, or return to, this stage's ``total`` items; gives the finished ones, with the bar set to them.

        ``wanted``: the items, where the ledger may hold others that an earlier command asked for; None: all it holds.
        """
        self.ledger.begin(fingerprint(self.stage, self.settings), total, asked_items(self.stage, self.settings))
        done = {item: record for item, record in self.ledger.items().items() if wanted is None or item in wanted}
        self.progress.start(total, len(done))
        return done

    def failed(self, item: Item, reason: str, last: bool) -> None:
        """Write to the ledger that an item is given up, once its last try has failed."""
        if last:
            self.ledger.record_failure(item, reason)

    def finished(self, item: Item, record: dict[str, Any]) -> None:
        """Write an item's record to the ledger and move the bar."""
        self.ledger.record(item, **record)
        self.progress.advance()

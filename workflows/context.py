"""What a stage is, and what it is given."""

from __future__ import annotations

import hashlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from workflows.settings import Settings
from workflows.storage.ledger import Item, Ledger
from workflows.storage.object_store import absolute
from workflows.storage.run_folder import RunFolder

if TYPE_CHECKING:
    # Imported where they are used: whether a run is finished must be told without torch, Ray and Dask.
    from workflows.data.shards import Shard
    from workflows.plan.run_plan import Plan
    from workflows.runtime.cluster import Resources
    from workflows.runtime.pool_settings import DispatchReport, PoolSettings

T = TypeVar("T")
S = TypeVar("S")

_OF_ITEMS = ("figures",)
"""Fields of sections that only choose items (see ``Stage.items``): what is done stays done when they change."""

LAYOUT = "1"
"""Version of what all stages write; see ``Stage.layout`` for one of a single stage."""


def _no_choice(settings: Settings) -> str:
    return ""


@dataclass(frozen=True)
class Stage:
    """One entry of the registry ``workflows.pipeline.STAGES``: ``workflows/stages/<name>.py`` with ``run(context)``.

    Attributes:
        name: of its module, its ledger and its bar.
        writes: artefacts, relative to the run folder.
        reads: settings that may change in a finished run, as ``section`` or ``section.field``, where this stage is the
            first to read them; it runs again when they do.
        items: settings that say which items it has; with another answer it runs again, and keeps what it has.
        of_scopes: its items are named ``<scope>/<name>``.
        needs_ray: False runs it in the driver, before Ray is started.
        layout: version of what it writes; a finished run of another one is asked for this stage's work again, alone.
        decision: why it does not apply to a network without outputs, in a few words; empty: it does.
    """

    name: str
    writes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    items: Callable[[Settings], str] = _no_choice
    of_scopes: bool = False
    needs_ray: bool = True
    layout: int = 1
    decision: str = ""

    def applies(self, settings: Settings) -> bool:
        """Whether a run with these settings has such a stage."""
        return settings.network.has_outputs or not self.decision

    def run(self, context: StageContext) -> None:
        """Do the work; the stage's module is imported now."""
        importlib.import_module(f"workflows.stages.{self.name}").run(context)

    def fingerprint(self, settings: Settings) -> str:
        """Of the changeable settings that it reads; a ledger with another one is void."""
        values = settings.model_dump(mode="json")
        read = {}
        for path in self.reads:
            section, _, field = path.partition(".")
            whole = {name: value for name, value in values[section].items() if name not in _OF_ITEMS}
            read[path] = whole[field] if field else whole
        version = LAYOUT if self.layout == 1 else f"{LAYOUT}.{self.layout}"
        return f"{version}:{hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]}"

    def is_done(self, folder: RunFolder, settings: Settings) -> bool:
        """Whether it came to its end with these settings."""
        return folder.ledger(self.name).stage_done(self.fingerprint(settings), self.items(settings))


class Progress(Protocol):
    """A progress bar of one stage."""

    def start(self, total: int, done: int = 0) -> None:
        """Show a bar of ``total`` items, ``done`` of them finished by an earlier run."""

    def advance(self, items: int = 1, images: int = 0, columns: int = 0) -> None:
        """So many more items are done, with what they were of."""

    def at_work(self, item: str, share: float, columns: int = 0) -> None:
        """So much of an item is done; so many columns more were seen."""

    def note(self, text: str) -> None:
        """Show a short text beside the bar."""


class Watch:
    """Who is told of what happens to work items: nobody, unless overridden (see ``workflows.watching``)."""

    def beat(self, told: Any) -> None:
        """What is at work, a ``workflows.runtime.progress.Heartbeat``; None: nothing."""

    def tell(self, event: str, *, place: str = "", **fields: Any) -> None:
        """Something happened; see ``workflows.storage.run_log.RunLog.tell``."""

    def done(self, item: Item, record: dict[str, Any]) -> None:
        """An item is in the ledger."""

    def failed(self, item: Item, reason: str, last: bool) -> None:
        """A try of an item failed."""


class WorkContext(ABC):
    """What stages and studies have: settings, a run folder, a ledger, actors, a bar."""

    settings: Settings
    folder: RunFolder
    progress: Progress
    warn: Callable[[str], None]
    watch: Watch

    @property
    @abstractmethod
    def offered(self) -> Resources | None:
        """What the connected Ray offers; None in what needs no actors."""

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """What this work has finished."""

    def pool(self, items: int, name: str = "shard") -> PoolSettings:
        """How wide and how patient the actors of this work are."""
        from workflows.runtime.cluster import actors_now, plan_actors, resources
        from workflows.runtime.pool_settings import PoolSettings

        assert self.offered is not None, "work with actors runs connected"
        runtime = self.settings.runtime
        offered = resources() if self.offered.joined else self.offered
        actors = plan_actors(runtime, offered, items)
        return PoolSettings(
            actors.n_actors,
            actors.num_cpus,
            actors.num_gpus,
            actors.threads,
            runtime.max_attempts,
            item_timeout_s=runtime.item_timeout_s,
            retry_wait_s=runtime.retry_wait_s,
            hang_floor_s=runtime.hang_floor_s,
            width=partial(actors_now, runtime, actors) if offered.joined else None,
            beat=self.beat,
            tell=self.watch.tell,
            name=name,
            alone=self.offered.alone,
        )

    def worker_settings(self) -> Settings:
        """The settings as actors need them: the device that Ray gives them, paths and code that hold in any folder.

        Raises:
            NetworkError: the network's code is not allowed; see ``refuse_foreign_code``.
        """
        from workflows.networks.foreign_code import refuse_foreign_code
        from workflows.runtime.cluster import plan_actors

        assert self.offered is not None, "work with actors runs connected"
        device = plan_actors(self.settings.runtime, self.offered).device
        runtime = self.settings.runtime.model_copy(update={"device": device})
        root = self.settings.data.root
        data = self.settings.data.model_copy(update={"root": absolute(root) if root else ""})
        network = refuse_foreign_code(self.settings.network)
        return self.settings.model_copy(update={"runtime": runtime, "data": data, "network": network})

    def failed(self, item: Item, reason: str, last: bool) -> None:
        """Write to the ledger that an item is given up, once its last try has failed."""
        self.watch.failed(item, reason, last)
        if last:
            self.ledger.record_failure(item, reason)

    def finished(self, item: Item, record: dict[str, Any]) -> None:
        """Write an item's record to the ledger and move the bar."""
        self.ledger.record(item, **record)
        self.watch.done(item, record)
        self.progress.advance(images=record.get("images", 0), columns=record.get("columns", 0))

    def beat(self, told: Any) -> None:
        """Tell who asks for the status, and who watches, what is at work; None: nothing."""
        self.folder.beat(told)
        self.watch.beat(told)


@dataclass(frozen=True)
class StageContext(WorkContext):
    """Settings, folder and progress of one stage of one run."""

    settings: Settings
    folder: RunFolder
    stage: Stage
    progress: Progress
    warn: Callable[[str], None]
    offered: Resources | None = None
    """What the connected Ray offers; None in the stages that need no actors."""
    watch: Watch = field(default_factory=Watch)
    """Who is told of what happens."""

    @property
    def scheduler(self) -> Literal["ray", "threads"]:
        """Who runs Dask reductions: ``ray`` or ``threads``."""
        wanted = self.settings.count.scheduler
        joined = self.offered is not None and self.offered.joined
        return wanted if wanted != "auto" else "ray" if joined else "threads"

    @property
    def reduction_device(self) -> Literal["cuda", "cpu"]:
        """Where a reduction's tasks compute that can on a GPU: on this process's, if they are threads of it.

        Tasks on Ray claim a core and no GPU; they would take one from the actors that claimed it.
        """
        from workflows.runtime.devices import choose_device

        here = self.scheduler == "threads" and self.settings.runtime.device != "cpu"
        return "cuda" if here and choose_device("auto").type == "cuda" else "cpu"

    @property
    def ledger(self) -> Ledger:
        """What this stage has finished."""
        return self.folder.ledger(self.stage.name)

    def reduce(self, items: Sequence[T], map_fn: Callable[[T], S], merge_fn: Callable[[S, S], S]) -> S:
        """One Dask reduction over small work items; the result does not depend on who runs it."""
        from workflows.runtime.reductions import tree_reduce

        workers = 1 if self.offered is None else None if self.offered.joined else self.offered.cpus
        runtime = self.settings.runtime
        return tree_reduce(
            items,
            map_fn,
            merge_fn,
            scheduler=self.scheduler,
            n_workers=workers,
            hang_floor_s=runtime.hang_floor_s,
            retry_wait_s=runtime.retry_wait_s,
        )

    def plan(self) -> Plan:
        """The plan that the index stage wrote."""
        from workflows.plan.run_plan import Plan

        return Plan.read(self.folder)

    def map_shards_left(
        self, worker: Callable[..., Any], plan: Plan, check: Callable[[dict[str, Any]], None] | None = None
    ) -> DispatchReport:
        """Give the shards that the ledger does not have to actors, each of which builds ``worker`` once.

        ``check`` sees every new record after it is in the ledger, and may stop the run.
        """
        from workflows.data.shards import plan_shards
        from workflows.runtime.dispatcher import map_shards

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
        self.ledger.begin(self.stage.fingerprint(self.settings), total, self.stage.items(self.settings))
        done = {item: record for item, record in self.ledger.items().items() if wanted is None or item in wanted}
        self.progress.start(total, len(done))
        return done

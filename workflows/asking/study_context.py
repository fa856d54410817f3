"""A study at work: what it has of the run that it asks, and how its shards, tables and words come about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.markup import escape

from workflows.asking.image_parts import ImageShard, Parts, PartWorker, Phase, cut_images, item_of
from workflows.context import LAYOUT, Progress, Watch, WorkContext
from workflows.data.image_index import balanced_rows
from workflows.errors import SettingsError
from workflows.fits.needs import planned_actors
from workflows.plan.run_plan import Plan
from workflows.report.numbers import duration
from workflows.run import Run, open_run
from workflows.runtime.budget import check_disk
from workflows.runtime.cluster import Resources, connect
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.ledger import Ledger
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder
from workflows.storage.tables import Records, write_table


@dataclass(frozen=True)
class Asked:
    """How a study is asked, whatever its question.

    Attributes:
        root: the run folder.
        console: where bars and words go; the standard error stream where an answer in JSON goes to standard output.
        images: at most so many, spread evenly over the classes; None: all.
        anew: drop what the study has, and begin again.
        address: of a Ray cluster; None starts a local Ray.
        allow_code: packages whose code the run's network may be made of, beside those that always may.
    """

    root: Path
    console: Console
    images: int | None = None
    anew: bool = False
    address: str | None = None
    allow_code: tuple[str, ...] = ()

    def run(self) -> Run:
        """The run that is asked, open for reading; see ``open_run``."""
        run = open_run(self.root)
        return replace(run, settings=run.settings.allowing(self.allow_code))


@dataclass
class StudyContext(WorkContext):
    """A study at work: the run it asks, and what it needs for an answer; see the module.

    Attributes:
        run: its tables, graphs and images.
        settings, folder, plan: of the run.
        own: what the study keeps.
        request: JSON values.
        asked: how.
        done: the same was asked of the same run before, and answered.
        progress, warn: a bar, and a line above it.
        begun: whether there is something to finish.
        watch: who is told of its shards.
    """

    run: Run
    settings: Settings
    folder: RunFolder
    plan: Plan
    own: StudyFolder
    request: dict[str, Any]
    asked: Asked
    done: bool
    progress: Progress
    warn: Callable[[str], None]
    _opened: ExitStack
    _claim: Callable[[], None] | None
    """What makes room for a new request; None goes on with an earlier one."""
    begun: bool = False
    watch: Watch = field(default_factory=Watch)
    _told: dict[str, Any] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        """Which shards have given their parts."""
        return self.own.ledger

    @property
    def offered(self) -> Resources:
        """What Ray offers; it is started, or joined, when first asked for."""
        return self._connection

    @cached_property
    def _connection(self) -> Resources:
        return self._opened.enter_context(connect(self.asked.address, seen=self.folder.run_file, warn=self.warn))

    def say(self, text: str) -> None:
        """Print a line for people."""
        self.asked.console.print(escape(text), highlight=False, soft_wrap=True)

    def tell(self, **found: Any) -> None:
        """Add JSON values to the summary."""
        self._told.update(found)

    def choose_images(
        self,
        split: Literal["train", "validation"] | None = None,
        among: Int[np.ndarray, " m"] | None = None,
        limit: int | None = None,
        classes: Sequence[int] = (),
    ) -> Int[np.ndarray, " n"]:
        """Ids of readable images, ascending; with ``--images N`` a seeded draw, as equal for every class as there are.

        A smaller N takes some of what a larger one takes. Classes are the true ones, or the predicted where images have
        no labels.

        Args:
            split: None: both.
            among: ids to choose from; None: all.
            limit: instead of ``--images``.
            classes: ids of those of which an image must be chosen.

        Raises:
            SettingsError: there is none, or of one of ``classes``.
        """
        images = ImageColumns.read(self.folder, 0, self.plan.images)
        readable = np.flatnonzero(images.readable)
        if split is not None:
            readable = readable[(readable >= self.plan.train_images) == (split == "validation")]
        if among is not None:
            readable = readable[np.isin(readable, among)]
        if not len(readable):
            raise SettingsError(f"{self.own.study.name}: must have an image to look at, got none; ask for other images")
        labels = images.classes[readable]
        chosen = readable[balanced_rows(labels, limit or self.asked.images, self.settings.seed)]
        present = len(np.unique(labels))
        bare = [self.plan.class_names[one] for one in classes if one not in images.classes[chosen]]
        if bare:
            raise SettingsError(
                f"--images: must be at least {present}, got {len(chosen)}: images are spread evenly over {present} "
                f"classes, and {len(bare)} of those asked for have none, such as {bare[0]!r}"
            )
        if len(chosen) < len(readable):
            self.say(f"{len(chosen):,} of {len(readable):,} images, spread evenly over {present:,} classes")
        return chosen

    def begin(self, *phases: Phase, items: int = 0) -> bool:
        """Say what the phases will take, refuse what the disk does not hold, and begin; False: it is all done.

        Nothing is written before, so what a study refuses by itself leaves no trace.

        Args:
            phases: of the study.
            items: work items that are no shards of images, and that the study itself gives to actors.

        Raises:
            BudgetError: too little disk.
        """
        if self.done:
            self.say(f"{self.own.study.name} has answered this before; --anew asks again")
            self.progress.start(1, 1)
            return False
        shards = {phase: self.shards(phase) for phase in phases}
        key = json.dumps([[phase.name, [shard.images for shard in some]] for phase, some in shards.items()])
        total = sum(map(len, shards.values())) + items or 1
        self._announce({phase: self.shards(phase) if self._claim else self._left(phase) for phase in phases})
        if self._claim is not None:
            self._claim()
        self.begun = True
        self.ledger.begin(f"{LAYOUT}:{hashlib.sha256(key.encode()).hexdigest()[:16]}", total)
        self.progress.start(total, total - items - sum(len(self._left(phase)) for phase in phases) if phases else 0)
        return True

    def shards(self, phase: Phase) -> list[ImageShard]:
        """Work items of a phase."""
        extract = self.settings.extract
        return cut_images(phase.images, self.plan.batch(extract), extract.images_per_shard)

    def map_parts(self, phase: Phase, worker: Callable[..., Any], **inputs: Any) -> Parts:
        """Give the shards of a phase that have no part yet to actors, each of which builds its worker once.

        It is built by ``worker(settings, plan, folder, **inputs)``, the settings being those for actors, takes an
        ``ImageShard`` and returns a ``gmm_ops.records.Record`` or named arrays.

        Raises:
            ShardError: a shard kept failing; what is done stays done.
        """
        left = self._left(phase)
        if left:
            paths = {shard.index: self.own.part(phase.name, shard.index) for shard in left}
            map_shards(
                PartWorker,
                {"worker": worker, "inputs": self._inputs() | inputs, "paths": paths},
                left,
                self.pool(len(left)),
                on_done=lambda shard, record: self.finished(item_of(phase, shard), record),
                on_failure=lambda shard, reason, last: self.failed(item_of(phase, shard), reason, last),
            )
        return Parts(tuple(self.own.part(phase.name, shard.index) for shard in self.shards(phase)))

    def write_table(self, name: str, rows: Records) -> None:
        """Write a table of the study, whole or not at all.

        Args:
            name: of ``Study.tables``.
            rows: as ``workflows.storage.tables.write_table``; `network` is filled in.
        """
        write_table(self.folder.table(name), rows, name, network=self.settings.name)

    def figure(self, ending: str, name: str = "", scope: str = "joint") -> Path:
        """Where a figure of the study belongs: ``figures/[<scope>/]<study>[-<name>].<ending>``."""
        return self.folder.figure(f"{self.own.study.name}-{name}" if name else self.own.study.name, ending, scope)

    def summary(self) -> dict[str, Any]:
        """The answer for programs, once the block of ``open_study`` has ended."""
        return self.own.summary()

    def finish(self) -> None:
        """Note that it is answered, and drop the parts; ``open_study`` does so at the end of its block."""
        if not self.ledger.items():
            self.finished("answer", {})
        self.ledger.end(**self._told)
        self.own.drop_parts()
        for path in (*self.own.tables().values(), *self.own.figures()):
            self.say(str(path))

    def _inputs(self) -> dict[str, Any]:
        return {"settings": self.worker_settings(), "plan": self.plan, "folder": self.folder}

    def _left(self, phase: Phase) -> list[ImageShard]:
        """Shards without a part. A line in the ledger is no proof of one where somebody has removed it."""
        finished = self.ledger.items()
        return [
            shard
            for shard in self.shards(phase)
            if not (item_of(phase, shard) in finished and self.own.part(phase.name, shard.index).exists())
        ]

    def _announce(self, left: Mapping[Phase, Sequence[ImageShard]]) -> None:
        """One line: images, time and disk. The time is that of the extract stage's forward passes."""
        if not any(left.values()):
            return
        actors = min(planned_actors(self.settings.runtime), max(map(len, left.values())))
        passes = sum(phase.passes * sum(map(len, shards)) for phase, shards in left.items())
        needed = sum(phase.part_bytes * len(shards) for phase, shards in left.items())
        budget = check_disk(
            self.folder.root,
            {"parts": needed},
            margin=self.settings.runtime.disk_margin,
            change="ask for fewer images with --images",
        )
        each = seconds_per_pass(self.folder)
        told = f"about {duration(passes * each / actors)} on {actors} actors" if each * passes else "time unknown"
        shards = sum(map(len, left.values()))
        self.say(f"{self.own.study.name}: {passes:,.0f} passes in {shards} shards, {told}; disk {budget}")


def seconds_per_pass(folder: RunFolder) -> float:
    """Of one image and forward pass in one actor, decoding included, as the extract stage took; 0: it did not say."""
    records = [one for one in folder.ledger("extract").items().values() if "seconds" in one]
    images = sum(one["images"] for one in records)
    return sum(one["seconds"] for one in records) / images if images else 0.0

"""Work that a shard of images does for many at once, scopes or dictionaries: who still waits for which shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflows.context import StageContext
from workflows.data.shards import Shard, plan_shards
from workflows.plan.run_plan import Plan
from workflows.runtime.dispatcher import map_shards
from workflows.storage.ledger import Item

Records = Mapping[Item, Mapping[str, Any]]


@dataclass(frozen=True)
class ShardNames:
    """One work item: a shard of images, and the names of those that have yet to be served from it."""

    shard: Shard
    names: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.shard)


def item_of_shard(index: int) -> Item:
    """Key of a shard in the ledger of a stage that has shards alone."""
    return index


def names_left(
    wanted: Mapping[int, Sequence[str]], done: Records, key: Callable[[int], Item] = item_of_shard
) -> dict[int, tuple[str, ...]]:
    """Names that each shard has yet to serve, of those that want it; shards that are done are left out.

    Args:
        wanted: index of a shard -> who wants it.
        done: records of a ledger, whose ``names`` were served.
        key: of a shard in that ledger.
    """
    left = {}
    for index, names in wanted.items():
        served = set(done.get(key(index), {}).get("names", ()))
        missing = tuple(name for name in names if name not in served)
        if missing:
            left[index] = missing
    return left


def map_names_left(
    context: StageContext,
    plan: Plan,
    worker: Callable[..., Any],
    inputs: Mapping[str, Any],
    wanted: Mapping[int, Sequence[str]],
    key: Callable[[int], Item] = item_of_shard,
) -> None:
    """Give every shard to an actor once, with all names that it has yet to serve.

    Args:
        context: whose ledger knows what was served.
        plan: of the run.
        worker, inputs: see ``map_shards``; a record is a dictionary, to which the names are added.
        wanted, key: as in ``names_left``.
    """
    done = context.ledger.items()
    missing = names_left(wanted, done, key)
    shards = plan_shards(plan.images, context.settings.extract.images_per_shard)
    left = [ShardNames(shard, missing[shard.index]) for shard in shards if shard.index in missing]

    def finish(item: ShardNames, record: dict[str, Any]) -> None:
        name = key(item.shard.index)
        context.finished(name, record | {"names": [*done.get(name, {}).get("names", ()), *item.names]})

    map_shards(
        worker,
        dict(inputs),
        left,
        context.pool(len(left)),
        on_done=finish,
        on_failure=lambda item, reason, last: context.failed(key(item.shard.index), reason, last),
    )

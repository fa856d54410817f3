"""What the ledgers say is there, held against the run folder: who deletes an artefact and runs again gets it again."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workflows.errors import StorageFault
from workflows.plan.run_inputs import fetched_path
from workflows.plan.run_plan import Plan, plan_path
from workflows.settings import Settings
from workflows.storage.ledger import Item, LedgerContent
from workflows.storage.names import CHAIN, JOINT, item_name, split_item
from workflows.storage.object_store import is_uri
from workflows.storage.run_folder import RunFolder

Items = Collection[Item]
Expected = Iterator[tuple[Items, Path]]
"""Artefacts, each with the items that write it; none of a file that a stage writes at its end."""


@dataclass(frozen=True)
class Made:
    """A run, and what the ledger of one of its stages says.

    Attributes:
        folder, settings, plan: of the run.
        content: of the ledger; of items of scopes that are no longer asked for nothing is expected.
    """

    folder: RunFolder
    settings: Settings
    plan: Plan
    content: LedgerContent

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """Scopes that have dictionaries; where the file of scopes was lost, those that the ledger of the fits knows."""
        if self.settings.hmm is not None:
            return (JOINT,)
        fitted = dict.fromkeys(split_item(str(item))[0] for item in self.folder.ledger("fit").items())
        return self.folder.scope_names() or tuple(fitted) or (JOINT,)

    def layers(self) -> Iterator[tuple[str, str]]:
        """Every scope and layer."""
        return ((scope, layer.name) for scope in self.scopes for layer in self.plan.layers)

    def done(self, item: Item, *paths: Path) -> Expected:
        """What an item writes, if the ledger has it."""
        if item in self.content.items:
            yield from (((item,), path) for path in paths)

    def tables(self, *names: str) -> Expected:
        """What a stage that is done writes at its end."""
        if self.content.done:
            yield from (((), self.folder.table(name)) for name in names)


def _index(made: Made) -> Expected:
    paths = [made.folder.images_table, plan_path(made.folder)]
    given = made.settings.network.weights
    if is_uri(given):
        paths.append(fetched_path(given, "network.weights", made.folder))
    if made.settings.data.source == "scenes":
        paths.append(made.folder.root / "objects.csv")
    return made.done("images", *paths)


def _train(made: Made) -> Expected:
    folder, training = made.folder, made.settings.training
    yield from made.done("network", folder.weights)
    if made.settings.learns_pictures:
        yield from made.done(
            "network", folder.decoder, *(folder.figure("rebuilt", ending) for ending in ("png", "svg"))
        )
    if training is not None:
        kept = (folder.checkpoint(epoch) for epoch in range(1, training.epochs + 1) if training.keeps(epoch))
        yield from made.done("network", *kept)


def _extract(made: Made) -> Expected:
    if made.content.cleaned:
        return
    items, folder = made.content.items, made.folder
    yield from ((items, folder.activations(layer.name)) for layer in made.plan.layers if items)
    for item in items:
        yield from made.done(item, folder.predictions_dir / f"{item:06d}.parquet")


def _fit(made: Made) -> Expected:
    folder = made.folder
    yield from made.tables("history")
    if made.settings.hmm is not None:
        if made.content.done:
            yield (), folder.mixture(JOINT, CHAIN)
        for restart in range(made.settings.hmm.restarts):
            yield from made.done(f"restart {restart}", *_fitted(folder, JOINT, f"{CHAIN}-{restart}", ("",)))
        return
    if made.content.items:
        yield (), folder.scopes_file
    kinds = ("", ".generative", ".classifier") if made.settings.fit.loss == "discriminative" else ("",)
    for scope, layer in made.layers():
        yield from made.done(item_name(scope, layer), *_fitted(folder, scope, layer, kinds))


def _fitted(folder: RunFolder, scope: str, name: str, kinds: Collection[str]) -> list[Path]:
    path = folder.mixture(scope, name)
    return [*(path.with_suffix(f"{kind}.npz") for kind in kinds), path.with_suffix(".history.parquet")]


def _errors(made: Made) -> Expected:
    if not made.content.items:
        return
    yield from made.tables("decisions", "errors")
    for item in made.content.items:
        yield from made.done(item, made.folder.decisions / f"{item:06d}.parquet")


def _words(made: Made) -> Expected:
    items, folder = made.content.items, made.folder
    served: dict[str, list[Item]] = {scope: [] for scope in made.scopes}
    for item, record in items.items():
        for scope in record.get("names", (JOINT,)):
            served.get(scope, []).append(item)
        if made.settings.hmm is not None:
            yield from made.done(item, folder.path_parts / f"{item:06d}.parquet")
    for scope in (scope for scope in made.scopes if served[scope]):
        layers = [layer.name for layer in made.plan.layers]
        if _has_few_maps(made, scope):
            yield served[scope], folder.words_index(scope)
            yield from (
                ((item,), folder.words_shard(scope, layer, int(item))) for layer in layers for item in served[scope]
            )
        else:
            parts = (None, "posterior", "log_joint")
            yield from ((served[scope], folder.words(scope, layer, part)) for layer in layers for part in parts)


def _has_few_maps(made: Made, scope: str) -> bool:
    """Whether the word maps of a scope are files of shards: not of one of all images, nor of earlier versions."""
    if made.folder.words_index(scope).exists():
        return True
    return scope != JOINT and not any(made.folder.words(scope, layer.name).exists() for layer in made.plan.layers)


def _paths(made: Made) -> Expected:
    folder = made.folder
    yield from made.done("paths", folder.table("paths"))
    yield from made.done("branches", folder.path_parts / "branches.npz")
    yield from made.done("transitions", folder.table("transitions"))
    yield from made.done("triage", folder.table("triage"), folder.table("junctions"))


def _count(made: Made) -> Expected:
    yield from made.tables("words", "exemplars", "layers")
    for scope in made.scopes:
        for pair in made.plan.pairs():
            item, key = item_name(scope, pair.name), (scope, pair.lower, pair.upper)
            record = made.content.items.get(item, {})
            paths = [made.folder.cooccurrence(*key)]
            # What the item wrote, whatever is asked for now: other settings void the ledger.
            paths += [made.folder.fold_counts(*key)] if record.get("folds") else []
            paths += [made.folder.pair_moments(*key)] if record.get("intervals") else []
            yield from made.done(item, *paths)
        for layer in made.plan.layers:
            yield from made.done(item_name(scope, layer.name), made.folder.word_summary(scope, layer.name))


def _effects(made: Made) -> Expected:
    for item, record in made.content.items.items():
        names = [name for name in record.get("names", ()) if name in made.scopes]
        yield from made.done(item, *(made.folder.effect_part(name, int(item)) for name in names))


def _mine(made: Made) -> Expected:
    return made.tables("nodes", "edges", "heatmaps", *(["pairs"] if made.settings.count.pairs != "none" else []))


def _draw(made: Made) -> Expected:
    for item in made.content.items:
        scope, name = split_item(str(item))
        if scope in made.scopes:
            yield from made.done(item, *(made.folder.figure(name, ending, scope) for ending in ("png", "svg")))


_OF_STAGE: dict[str, Callable[[Made], Expected]] = {
    "index": _index,
    "train": _train,
    "extract": _extract,
    "fit": _fit,
    "errors": _errors,
    "words": _words,
    "paths": _paths,
    "count": _count,
    "effects": _effects,
    "mine": _mine,
    "draw": _draw,
}


@dataclass(frozen=True)
class Lost:
    """What of a stage is not there: the items that have to be done again, and the artefacts."""

    items: frozenset[Item]
    paths: tuple[Path, ...]


def find_lost(stage: str, made: Made, damage: Callable[[Path], Items | None] | None = None) -> Lost:
    """Hold a stage's ledger against the folder: one listing a folder of artefacts, no look at the files.

    Args:
        stage: its name.
        made: the run, and the ledger.
        damage: also look into what is there: the items that have to be done again, all of them if it gives none, and
            None of what is whole.

    Raises:
        StorageFault: a folder cannot be listed.
    """
    listed: dict[Path, frozenset[str]] = {}
    items, paths = set[Item](), list[Path]()
    for writers, path in _OF_STAGE[stage](made):
        if path.parent not in listed:
            listed[path.parent] = _names(path.parent)
        if path.name not in listed[path.parent]:
            items.update(writers)
        else:
            damaged = None if damage is None else damage(path)
            if damaged is None:
                continue
            items.update(set(damaged) & set(writers) or writers)
        paths.append(path)
    return Lost(frozenset(items), tuple(paths))


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise StorageFault(
            f"{str(folder)!r} must be readable, got {error.strerror}; see to it, then run the same command again"
        ) from None

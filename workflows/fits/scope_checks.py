"""What can be refused or warned of once the predictions are known, before a fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workflows.context import StageContext
from workflows.fits.needs import dictionary_bytes, memory_needs, planned_actors, words_bytes
from workflows.plan.graph_requests import requested_graphs
from workflows.plan.run_plan import Plan
from workflows.plan.scope_sizes import scope_sizes, thin_dictionaries
from workflows.plan.scopes import Scope, item_name, known_scopes
from workflows.runtime.budget import check_disk, check_memory
from workflows.storage.images_table import ImageColumns
from workflows.words.scope_images import ScopeImages, names_by_shard
from workflows.words.shard_names import names_left


def check_scopes(context: StageContext, plan: Plan, scopes: Sequence[Scope], images: ImageColumns) -> list[str]:
    """What can be refused or warned of once the predictions are known, before a fit.

    The index stage looked at the scopes that need no predictions, and others may have been asked for since.

    Args:
        context: of the extract or the fit stage.
        plan: of the run.
        scopes: all that are asked for.
        images: labels and predictions of all images.

    Returns:
        Warnings: class scopes and graphs that are left out, and thin dictionaries that the index stage did not tell.

    Raises:
        DataError: a class or an image that was asked for cannot be explained by any scope.
        BudgetError: what is left to write does not fit on the disk, or fits and readers not into memory.
    """
    settings, runtime, folder = context.settings, context.settings.runtime, context.folder
    asked = requested_graphs(settings, plan, images, scopes)
    left, fitted = _images_left(context, plan, scopes, images), folder.ledger("fit").items()
    unfitted = [
        dictionary_bytes(settings, layer, scope.n_labels)
        for scope in scopes
        for layer in plan.layers
        if item_name(scope.name, layer.name) not in fitted
    ]
    fewer = "ask for fewer scopes (mine.classes, fit.lists)"
    needed = {"words": words_bytes(plan, sum(left)), "mixtures": sum(unfitted)}
    check_disk(folder.root, needed, margin=runtime.disk_margin, change=fewer)
    held = memory_needs(settings, plan, planned_actors(runtime), len(scopes), max(left, default=0))
    check_memory(held, limit_gb=runtime.memory_gb, change=f"lower runtime.actors, or {fewer}")
    silent = asked.silent if "class" in settings.fit.scopes else ()
    return [*silent, *_thin_dictionaries(context, plan, scopes, images)]


def _images_left(context: StageContext, plan: Plan, scopes: Sequence[Scope], images: ImageColumns) -> list[int]:
    """Of every shard that the words stage has yet to read: images that get words, summed over scopes."""
    size, members = context.settings.extract.images_per_shard, ScopeImages(images)
    counts = {scope.name: np.bincount(members.assigned(scope) // size) for scope in scopes}
    wanted = names_by_shard((name, np.flatnonzero(count).tolist()) for name, count in counts.items())
    left = names_left(wanted, context.folder.ledger("words").items())
    return [sum(int(counts[name][shard]) for name in names) for shard, names in left.items()]


def _thin_dictionaries(context: StageContext, plan: Plan, scopes: Sequence[Scope], images: ImageColumns) -> list[str]:
    """Warnings that the index stage did not tell."""
    settings, train = context.settings, slice(0, plan.train_images)
    labels, readable = images.label[train], images.readable[train]
    known = known_scopes(settings, plan)
    of_classes = [scope for scope in scopes if scope not in known]
    # Broken images are counted as there, where nothing had been read: what is the same is told in the same words.
    sizes = scope_sizes(settings, plan, known, labels), scope_sizes(settings, plan, of_classes, labels[readable])
    told = context.folder.ledger("index").items().get("images", {}).get("warnings", ())
    return [words for some in sizes for words in thin_dictionaries(settings, plan, some) if words not in told]

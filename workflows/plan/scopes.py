"""The scopes of a run: planned from the settings and the confusion matrix, written to scopes.json, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from workflows.errors import DataError, RunFolderError
from workflows.networks.naming import shortened
from workflows.plan.requests import ALL, requested_classes
from workflows.plan.run_plan import Plan
from workflows.plan.scope import REST, Scope, joint_scope, list_scope
from workflows.plan.scope_sizes import lack_of, refuse_small_scopes, scope_sizes
from workflows.settings import FitSettings, Settings
from workflows.storage.atomic import write_bytes
from workflows.storage.damage import undamaged
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT, item_name, split_item
from workflows.storage.run_folder import REDO_FIT, RunFolder

__all__ = [
    "JOINT",
    "REST",
    "Confusions",
    "Scope",
    "class_scope",
    "class_scopes",
    "item_name",
    "joint_scope",
    "known_scopes",
    "list_scope",
    "plan_scopes",
    "read_scopes",
    "scopes_path",
    "split_item",
    "write_scopes",
]


@dataclass(frozen=True)
class Confusions:
    """The confusion matrix of the validation images, its non-zero cells only, row by row.

    Attributes:
        label, predicted: (n,) class ids of each cell, ascending.
        count: (n,) readable validation images in it.
    """

    label: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    count: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, plan: Plan, images: ImageColumns) -> Confusions:
        """Count the validation images; broken ones take no part."""
        label, predicted = images.classes[plan.train_images :], images.predicted[plan.train_images :]
        classes, kept = len(plan.class_names), predicted >= 0
        cells, count = np.unique(label[kept] * classes + predicted[kept], return_counts=True)
        return cls(*np.divmod(cells, classes), count)

    def neighbours(self, label: int, min_confusions: int = 1, most: int | None = None) -> list[int]:
        """Classes that images of a class are predicted as, the most frequent first (ties: lowest id)."""
        first, stop = np.searchsorted(self.label, [label, label + 1])
        row = zip(self.count[first:stop].tolist(), self.predicted[first:stop].tolist(), strict=True)
        found = sorted((-count, other) for count, other in row if other != label and count >= min_confusions)
        return [other for _, other in found[:most]]

    def omega(self, scope: Scope, predicted: int) -> int:
        """Images of the scope's S_V that are predicted as a class."""
        here = self.predicted == predicted
        return int(self.count[here][scope.contains(self.label[here])].sum())


def class_scope(label: int, confusions: Confusions, fit: FitSettings) -> Scope:
    """A class and its neighbours, the classes that its validation images are predicted as (IG section 3.2)."""
    neighbours = confusions.neighbours(label, fit.min_confusions, fit.max_neighbours)
    return Scope(f"class-{label}", tuple(sorted([label, *neighbours])), False, (label,))


def known_scopes(settings: Settings, plan: Plan) -> list[Scope]:
    """The scopes that need no predictions: joint, then the lists.

    Raises:
        DataError, SettingsError: see ``list_scope``.
    """
    joint = [joint_scope(plan)] if "joint" in settings.fit.scopes else []
    lists = [list_scope(wanted, plan) for wanted in settings.fit.lists] if "list" in settings.fit.scopes else []
    return [*joint, *lists]


def plan_scopes(settings: Settings, plan: Plan, images: ImageColumns) -> tuple[Scope, ...]:
    """Every scope of a run: joint, then the classes by id, then the lists.

    Args:
        settings: of the run.
        plan: of the run.
        images: labels and predictions of all images.

    Raises:
        DataError: a class that was asked for by name does not exist, is never predicted, or has too few training
            images; or none of the classes that ``all`` stands for has a scope, and no other scope is asked for.
        SettingsError: a list leaves nothing for its `rest`, or a scope has fewer columns than words.
    """
    known = known_scopes(settings, plan)
    classes, left_out = class_scopes(settings, plan, images)
    joint = [scope for scope in known if scope.name == JOINT]
    scopes = (*joint, *classes, *known[len(joint) :])
    if not scopes:
        _refuse_without_scopes(left_out)
    refuse_small_scopes(settings, plan, scope_sizes(settings, plan, scopes, _training_labels(plan, images)))
    for scope in known[len(joint) :]:
        if not scope.contains(images.label[plan.train_images :]).any():
            raise DataError(f"scope {scope.name}: no validation image has one of its labels: index some of its classes")
    return scopes


def class_scopes(settings: Settings, plan: Plan, images: ImageColumns) -> tuple[list[Scope], dict[str, list[str]]]:
    """Scopes of the classes of ``mine.classes`` that some image of their scope is predicted as.

    Of the classes that ``all`` stands for, those whose scope cannot be fitted are left out.

    Returns:
        Scopes by class id; and the names of the classes that are left out, by what they lack.

    Raises:
        DataError: a class that was asked for by name does not exist or is never predicted.
    """
    kept: list[Scope] = []
    left_out: dict[str, list[str]] = {}
    if "class" not in settings.fit.scopes:
        return kept, left_out
    confusions, every = Confusions.of(plan, images), ALL in settings.mine.classes
    labels = requested_classes(settings.mine.classes, plan, images)[0]
    scopes = [class_scope(label, confusions, settings.fit) for label in labels]
    for size in scope_sizes(settings, plan, scopes, _training_labels(plan, images)):
        scope, (label,) = size.scope, size.scope.explains
        silent = not confusions.omega(scope, label)
        if silent and not every:
            _refuse_silent(scope, plan.class_names[label])
        lack = _SILENT if silent else lack_of(settings, plan, size)
        if lack is None or not every:
            kept.append(scope)  # what was asked for by name is refused by ``refuse_small_scopes``, with the remedies
        else:
            left_out.setdefault(lack, []).append(plan.class_names[label])
    return kept, left_out


_SILENT = "no validation image of it or of its neighbours is predicted as it"


def _refuse_silent(scope: Scope, name: str) -> None:
    raise DataError(
        f"mine.classes: no validation image of {name!r} or of its neighbours is predicted as it, so scope {scope.name} "
        "has nothing to explain: add 'joint' to fit.scopes and take 'class' out, or add validation images"
    )


def _training_labels(plan: Plan, images: ImageColumns) -> Int[np.ndarray, " N"]:
    """Class ids of the training images that could be read."""
    train = slice(0, plan.train_images)
    return images.label[train][images.readable[train]]


def _refuse_without_scopes(left_out: dict[str, list[str]]) -> None:
    reasons = "; ".join(f"{shortened(names)}: {lack}" for lack, names in left_out.items())
    raise DataError(
        f"mine.classes = 'all': no class can have a scope of its own ({reasons}); add 'joint' to fit.scopes, or set "
        "fit.scopes = ['list'] and name classes in [[fit.lists]] with rest = true"
    )


def scopes_path(folder: RunFolder) -> Path:
    """``scopes.json`` of a run."""
    return folder.scopes_file


def write_scopes(folder: RunFolder, scopes: Sequence[Scope]) -> None:
    """Write scopes.json, whole or not at all."""
    write_bytes(scopes_path(folder), json.dumps([asdict(scope) for scope in scopes], indent=1).encode())


def read_scopes(folder: RunFolder) -> tuple[Scope, ...]:
    """The scopes of a run, in order.

    Raises:
        RunFolderError: the fit stage has not written them, or they are damaged.
    """
    try:
        with undamaged(scopes_path(folder), REDO_FIT):
            raw = json.loads(scopes_path(folder).read_text(encoding="utf-8"))
            return tuple(Scope(one["name"], tuple(one["labels"]), one["rest"], tuple(one["explains"])) for one in raw)
    except FileNotFoundError:
        raise RunFolderError(f"{str(scopes_path(folder))!r} is missing: run the fit stage") from None

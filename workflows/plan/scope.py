"""A scope: the classes that one dictionary a layer explains (IG section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from workflows.errors import SettingsError
from workflows.plan.requests import class_id
from workflows.plan.run_plan import Plan
from workflows.settings import ListScope
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT

REST = "rest"
"""Label of a list for the classes that it does not name."""

REST_CLASS, OUTSIDE_CLASS = -1, -2
"""What tables write for a label that is no class."""


@dataclass(frozen=True)
class Scope:
    """The classes of one dictionary a layer.

    Its training and validation images, S_T and S_V, are those whose true class it contains.

    Attributes:
        name: ``joint``, ``class-<id>`` or ``list-<name>``; the `scope` of tables and the folder of artefacts.
        labels: class ids, ascending; the place of a class is its label.
        rest: one more label, the last, for every other class.
        explains: classes whose graphs can be mined, ascending: all of `joint`, m of `class-m`, those of a list.
    """

    name: str
    labels: tuple[int, ...]
    rest: bool
    explains: tuple[int, ...]

    @property
    def n_labels(self) -> int:
        """Labels, `rest` included."""
        return len(self.labels) + self.rest

    @property
    def holds_all(self) -> bool:
        """Whether every image of the run belongs to it."""
        return self.rest or self.name == JOINT

    def label_names(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Readable name of every label."""
        return (*(class_names[label] for label in self.labels), *([REST] if self.rest else []))

    def scope_label(self, classes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Label of every class id, int64; -1 outside the scope, and of a negative id."""
        labels = np.array(self.labels, np.int64)
        place = np.searchsorted(labels, classes).clip(max=len(labels) - 1)
        other = np.where((np.asarray(classes) >= 0) & self.rest, len(labels), -1)
        return np.where(labels[place] == classes, place, other).astype(np.int64)

    def label_classes(self, labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Class id of every label, for tables: -1 of `rest`, -2 of what ``scope_label`` calls outside."""
        classes = np.array([*self.labels, REST_CLASS], np.int64)
        return np.where(labels < 0, OUTSIDE_CLASS, classes[labels])

    def contains(self, classes: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Which class ids have a label; of all classes, images without one belong as well."""
        return self.scope_label(classes) >= 0 if self.name != JOINT else np.full(len(classes), True)

    def assigns(self, images: ImageColumns) -> Bool[np.ndarray, " N"]:
        """Which images get words: S_T and S_V, and images outside whose prediction the scope explains."""
        return self.contains(images.label) | np.isin(images.predicted, self.explains)


def joint_scope(plan: Plan) -> Scope:
    """All classes."""
    every = tuple(range(len(plan.class_names)))
    return Scope(JOINT, every, False, every)


def list_scope(wanted: ListScope, plan: Plan) -> Scope:
    """Named classes.

    Raises:
        DataError: a class does not exist.
        SettingsError: a class is named twice, or the list leaves no class for its label `rest`.
    """
    asked_by = f"fit.lists, list {wanted.name!r}"
    found: dict[int, str] = {}
    for name in wanted.classes:
        label = class_id(name, plan.class_names, asked_by)
        if label in found:
            raise SettingsError(
                f"{asked_by} names class {plan.class_names[label]!r} twice, as {found[label]!r} and {name!r}: "
                "leave one out, every label is one class"
            )
        found[label] = name
    labels = tuple(sorted(found))
    if wanted.rest and len(labels) == len(plan.class_names):
        raise SettingsError(f"{asked_by} names all {len(labels)} classes, so `rest` has none: set rest = false")
    return Scope(f"list-{wanted.name}", labels, wanted.rest, labels)

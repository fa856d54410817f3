"""Which graphs a run is asked for, and whether it can give them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int

from workflows.errors import DataError
from workflows.plan.run_plan import Plan
from workflows.storage.images_table import ImageColumns

MISCLASSIFIED, ALL = "misclassified", "all"


def class_id(request: str, names: Sequence[str], asked_by: str = "mine.classes") -> int:
    """Id of a class given by its name or its id.

    Raises:
        DataError: there is no such class, and the nearest names are offered; or several have that name.
    """
    ids = [label for label, name in enumerate(names) if name == request]
    if len(ids) > 1:
        shown = " and ".join(map(str, ids))
        raise DataError(f"{asked_by}: several classes are called {request!r}, with the ids {shown}; give one of them")
    if ids:
        return ids[0]
    if request.isdecimal() and int(request) < len(names):
        return int(request)
    near = difflib.get_close_matches(request, names, n=3)
    offer = f"did you mean {', '.join(near)}?" if near else f"ids run from 0 to {len(names) - 1}"
    raise DataError(f"{asked_by}: there is no class {request!r}; {offer}")


def requested_classes(requests: Sequence[str], plan: Plan, images: ImageColumns) -> tuple[list[int], list[str]]:
    """Ids of the requested classes, ascending, and the names of those that ``all`` leaves out.

    Raises:
        DataError: a class asked for by name is predicted for no validation image.
    """
    predicted = images.predicted[plan.train_images :]
    try:
        return chosen_classes(requests, plan.class_names, predicted, "mine.classes")
    except SilentClass as silent:
        raise DataError(
            f"mine.classes: no validation image is predicted as {silent.name!r}, so its graph "
            f"has nothing to explain; ask for another class, or add validation images"
        ) from None


class SilentClass(DataError):
    """A class that no image carries, asked for by name."""

    def __init__(self, asked_by: str, name: str) -> None:
        super().__init__(f"{asked_by}: must be a class that some image has, got {name!r}; ask for another, or for all")
        self.name = name


def chosen_classes(
    requests: Sequence[str], names: Sequence[str], labels: Int[np.ndarray, " N"], asked_by: str = "--class"
) -> tuple[list[int], list[str]]:
    """Ids of the classes asked for by name, id or ``all``, ascending, and the names of those that ``all`` leaves out.

    Args:
        requests: names and ids.
        names: of every class.
        labels: class of every image that could be looked at, negative where it has none.
        asked_by: the option, for messages.

    Raises:
        DataError: there is no such class. SilentClass: no image has it.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    if ALL in requests:
        return np.flatnonzero(counts).tolist(), [name for name, count in zip(names, counts, strict=True) if not count]
    chosen = sorted({class_id(request, names, asked_by) for request in requests})
    for label in chosen:
        if not counts[label]:
            raise SilentClass(asked_by, names[label])
    return chosen, []


def requested_images(
    requests: Sequence[str],
    plan: Plan,
    images: ImageColumns,
    asked_by: str = "mine.images",
    explained: Collection[int] | None = None,
) -> list[int]:
    """Ids of the requested images, ascending.

    ``misclassified`` are the validation images predicted wrongly, ``misclassified:N`` the first N of them.
    ``explained``: classes with a dictionary that explains them; of the misclassified images only those predicted as
    one of these are taken. None: all are.

    Raises:
        DataError: an id is no image of the run, its picture was broken, or no dictionary explains its prediction.
    """
    wrong = (images.predicted != images.label) & (images.predicted >= 0) & (images.label >= 0)
    if explained is not None:
        wrong &= np.isin(images.predicted, list(explained))
    misclassified = np.flatnonzero(wrong[plan.train_images :]) + plan.train_images
    chosen: set[int] = set()
    for request in requests:
        check_image_request(request, plan.images, asked_by)
        word, colon, number = request.partition(":")
        if word == MISCLASSIFIED:
            chosen.update(misclassified[: int(number) if colon else None].tolist())
        elif not images.readable[int(request)]:
            raise DataError(f"{asked_by}: the picture of image {request} is broken; images.parquet says why")
        elif explained is not None and int(images.predicted[int(request)]) not in explained:
            raise DataError(
                f"{asked_by}: image {request} is predicted as {plan.class_names[images.predicted[int(request)]]!r}, "
                f"which no scope of the run explains (they explain {_names(explained, plan)}): ask for another image, "
                "or for a scope with that class"
            )
        else:
            chosen.add(int(request))
    return sorted(chosen)


def check_image_request(request: str, images: int, asked_by: str = "mine.images") -> None:
    """Refuse what can be no image, before anything is computed.

    Raises:
        DataError: neither ``misclassified``, ``misclassified:N`` with N of 1 or more, nor an id below ``images``.
    """
    word, colon, number = request.partition(":")
    if word == MISCLASSIFIED and (not colon or (number.isdecimal() and int(number) > 0)):
        return
    if not (request.isdecimal() and int(request) < images):
        raise DataError(
            f"{asked_by}: {request!r} is no image; give ids from 0 to {images - 1} (the rows of images.parquet), "
            f"{MISCLASSIFIED}, or {MISCLASSIFIED}:N for the first N of them"
        )


def _names(classes: Collection[int], plan: Plan) -> str:
    some = [plan.class_names[label] for label in sorted(classes)[:10]]
    return ", ".join(some) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")

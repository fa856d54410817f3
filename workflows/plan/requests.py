"""Which graphs a run is asked for, and whether it can give them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

import numpy as np

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
    counts = np.bincount(images.predicted[plan.train_images :].clip(min=0), minlength=len(plan.class_names))
    counts[0] -= (images.predicted[plan.train_images :] < 0).sum()
    if ALL in requests:
        silent = [name for name, count in zip(plan.class_names, counts, strict=True) if not count]
        return [int(label) for label in np.flatnonzero(counts)], silent
    chosen = sorted({class_id(request, plan.class_names) for request in requests})
    for label in chosen:
        if not counts[label]:
            raise DataError(
                f"mine.classes: no validation image is predicted as {plan.class_names[label]!r}, so its graph "
                f"has nothing to explain; ask for another class, or add validation images"
            )
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
    wrong = (images.predicted != images.label) & (images.predicted >= 0)
    if explained is not None:
        wrong &= np.isin(images.predicted, list(explained))
    misclassified = np.flatnonzero(wrong[plan.train_images :]) + plan.train_images
    chosen: set[int] = set()
    for request in requests:
        check_image_request(request, plan.images, asked_by)
        word, colon, number = request.partition(":")
        if word == MISCLASSIFIED:
            chosen.update(misclassified[: int(number) if colon else None].tolist())
        elif images.predicted[int(request)] < 0:
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

"""The names of the classes in the order of the network's output, and whether the images' labels follow it."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from workflows.errors import DataError

_PREFIX = "torchvision:"
_LISTED = 10
"""Classes that a message lists before it counts the others."""

_MOST_CLASSES = 5000
"""Above, the confusion matrix of ``order_warning`` would take more than 100 MB."""


@dataclass(frozen=True)
class Pairing:
    """The label of every class of a source, the names in output order, and what the user should know of it."""

    labels: tuple[int, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def named_classes(setting: str) -> tuple[str, ...] | None:
    """The names that ``data.class_names`` gives; None when the setting is empty.

    Raises:
        DataError: the file is missing, no JSON list of names, or torchvision has no such weights.
    """
    if not setting:
        return None
    return _from_torchvision(setting) if setting.startswith(_PREFIX) else _from_json(Path(setting))


def refuse_unnamed_labels(
    names: tuple[str, ...], labels: Int[np.ndarray, "N"], paths: Sequence[str], whose: str = "data.class_names"
) -> None:
    """Labels that are numbers must be positions in ``names``.

    Raises:
        DataError: a label has no name.
    """
    outside = np.flatnonzero(labels >= len(names))
    if len(outside):
        first = outside[0]
        raise DataError(
            f"image {paths[first]!r} has label {labels[first]}, outside {whose}, whose {len(names)} names are "
            f"labels 0 to {len(names) - 1}; give a name for every label ({len(outside)} images are outside)"
        )


def pair_classes(
    names: tuple[str, ...] | None, own: Sequence[str], what: str = "class folders", in_order: bool = False
) -> Pairing:
    """Match the classes of a source, which have names of their own, with the names in output order.

    Classes that are all called like a name, up to case, punctuation and a number in front, are matched by name.
    Where not one is, they stand for the names in order (``n01440764`` for ``tench``) and must be as many.

    Args:
        names: in output order; None: the source's own names, in their order.
        own: names of the source, sorted as texts.
        what: the classes are called in messages.
        in_order: ``own`` is in label order, as the source gives it.

    Raises:
        DataError: some classes are called like a name and some are not, a name that occurs twice is meant, the
            numbers differ, or the order contradicts names that are nearly equal.
    """
    if names is None:
        ordered, notes = (list(own), ()) if in_order else _in_order(own, what)
        return Pairing(tuple(ordered.index(name) for name in own), tuple(ordered), notes)
    found = _by_name(names, own)
    strangers = [name for name in own if name not in found]
    if not strangers:
        return Pairing(tuple(_only(found[name], name, names) for name in own), names)
    if found:
        raise DataError(_partly_named(names, own, strangers, what))
    if len(own) != len(names):
        raise DataError(
            f"data.class_names has {len(names)} names for {len(own)} {what} ({own[0]}, ...): "
            f"the {what} must be called like the names, or be as many, in the order of the names"
        )
    ordered, notes = (list(own), ()) if in_order else _in_order(own, what)
    _refuse_contradiction(names, ordered, what)
    return Pairing(tuple(ordered.index(name) for name in own), names, notes)


def _by_name(names: Sequence[str], own: Sequence[str]) -> dict[str, list[int]]:
    """Positions in ``names`` of every class that is called like a name; exactly, or if none is, loosely."""
    exact: dict[str, list[int]] = {}
    loose: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        exact.setdefault(name, []).append(position)
        loose.setdefault(_bare(name), []).append(position)
    keys = Counter(_bare(name) for name in own)
    found = {}
    for name in own:
        key = _bare(name)
        positions = exact.get(name) or (loose.get(key) if keys[key] == 1 else None)
        if positions:
            found[name] = positions
    return found


def _bare(name: str) -> str:
    """Small letters and digits alone, without a number or WordNet id in front: ``001.Black_footed`` -> blackfooted."""
    bare = re.sub(r"[\W_]+", "", re.sub(r"^n?\d+[\W_]+(?=.*[^\W\d_])", "", name).casefold())
    return bare or name


def _only(positions: list[int], name: str, names: Sequence[str]) -> int:
    if len(positions) > 1:
        shown = " and ".join(f"{position} ({names[position]!r})" for position in positions)
        raise DataError(
            f"data.class_names: class {name!r} fits the outputs {shown}; make their names differ, as do those of the "
            "class folders"
        )
    return positions[0]


def listed(names: Sequence[str]) -> str:
    """The first ten names, quoted, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more


def _partly_named(names: Sequence[str], own: Sequence[str], strangers: Sequence[str], what: str) -> str:
    listed = []
    for name in strangers[:_LISTED]:
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        near = near or [other for other in names if _contains(_bare(name), _bare(other))][:2]
        listed.append(f"{name!r}" + (f" (nearest: {', '.join(near)})" if near else ""))
    more = f" and {len(strangers) - _LISTED} more" if len(strangers) > _LISTED else ""
    return (
        f"data.class_names: {len(own) - len(strangers)} of {len(own)} {what} are called like a name, but not "
        f"{', '.join(listed)}{more}; rename these, or change the names: {what} must all be called like "
        "names, or none of them"
    )


def _contains(one: str, other: str) -> bool:
    """Whether one bare name holds the other, as ``cats`` holds ``cat``; two letters are in too many words."""
    return (len(one) > 2 and one in other) or (len(other) > 2 and other in one)


def _refuse_contradiction(names: Sequence[str], ordered: Sequence[str], what: str) -> None:
    """Pairing by position must not give ``cats`` the name ``dog`` where ``cat`` is among the names."""
    bare = [_bare(name) for name in names]
    for position, name in enumerate(ordered):
        own = _bare(name)
        alike = [names[other] for other, known in enumerate(bare) if _contains(own, known)]
        if alike and not _contains(own, bare[position]):
            raise DataError(
                f"data.class_names: in the order of the {what}, {name!r} would be {names[position]!r}, but it is "
                f"nearly {alike[0]!r}; call the {what} like the names"
            )


def _in_order(own: Sequence[str], what: str) -> tuple[list[str], tuple[str, ...]]:
    """Texts in their order; numbers 0 to n - 1 or 1 to n in that of numbers; a note where the two differ."""
    stems = {re.sub(r"[0-9]+$", "", name) for name in own}
    endings = [re.search(r"[0-9]+$", name) for name in own]
    if len(stems) != 1 or not all(endings):
        return list(own), ()
    numbers = {name: int(ending.group()) for name, ending in zip(own, endings, strict=True) if ending}
    numeric = sorted(own, key=lambda name: (numbers[name], name))
    if numeric == list(own):
        return numeric, ()
    counted = sorted(numbers.values()) in ([*range(len(own))], [*range(1, len(own) + 1)])
    as_numbers = stems == {""} and counted
    taken, left = (numeric, own) if as_numbers else (own, numeric)
    kinds = ("numbers", "texts") if as_numbers else ("texts", "numbers")
    note = (
        f"the {what} are labels in the order of {kinds[0]} ({', '.join(taken[:4])}, ...), not of {kinds[1]} "
        f"({', '.join(left[:4])}, ...; {'as' if as_numbers else 'unlike'} torchvision's ImageFolder); if the network "
        "has the other order, list them in it in data.class_names"
    )
    return list(taken), (note,)


def order_warning(labels: Int[np.ndarray, "N"], predicted: Int[np.ndarray, "N"], names: Sequence[str]) -> str | None:
    """What to tell where labels and outputs look permuted: the accuracy now, after the permutation, and which it is.

    The permutation is the assignment of labels to outputs with most images (Kuhn 1955). Only pairs count in which
    most images of the label and most of the output meet, for on few images an assignment always gains something;
    and the images that it would gain must exceed those that it would lose by three standard errors (McNemar's test).

    Args:
        labels: of the images.
        predicted: output of every image; negative where its picture was broken.
        names: of the outputs.
    """
    whole = predicted >= 0
    labels, predicted = labels[whole], predicted[whole]
    present = np.union1d(labels, predicted)
    if not 1 < len(present) <= _MOST_CLASSES:
        return None
    size = len(present)
    cells = np.searchsorted(present, labels) * size + np.searchsorted(present, predicted)
    confusion = np.bincount(cells, minlength=size * size).reshape(size, size)
    moves = _moves(confusion)
    now, best = _accuracies(confusion, moves)
    if not _is_clear(confusion, moves, now, best):
        return None
    shown = [f"{names[present[label]]!r} looks like output {names[present[output]]!r}" for label, output in moves]
    more = f", and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return (
        f"{now:.1%} of {len(labels)} images are predicted as they are labelled, but {best:.1%} would be with the "
        f"classes in another order: label {', '.join(shown[:_LISTED])}{more}; see whether data.class_names and the "
        "labels are in the order of the network's outputs"
    )


def _moves(confusion: Int[np.ndarray, "C C"]) -> list[tuple[int, int]]:
    """Labels that another output fits, with that output."""
    # Late, because scipy costs half a second.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(confusion, maximize=True)
    meet = 2 * confusion[rows, columns] > np.maximum(confusion.sum(1)[rows], confusion.sum(0)[columns])
    return [(int(row), int(column)) for row, column in zip(rows[meet], columns[meet], strict=True) if row != column]


def _accuracies(confusion: Int[np.ndarray, "C C"], moves: Sequence[tuple[int, int]]) -> tuple[float, float]:
    touched = {one for move in moves for one in move}
    right = int(np.trace(confusion))
    lost = sum(int(confusion[one, one]) for one in touched)
    gained = sum(int(confusion[move]) for move in moves)
    images = int(confusion.sum())
    return right / images, (right - lost + gained) / images


def _is_clear(confusion: Int[np.ndarray, "C C"], moves: Sequence[tuple[int, int]], now: float, best: float) -> bool:
    touched = {one for move in moves for one in move}
    gained = sum(int(confusion[move]) for move in moves)
    lost = sum(int(confusion[one, one]) for one in touched)
    # A lone pair is what a network that knows one class gives.
    if len(moves) < 2 or gained - lost <= 3 * (gained + lost) ** 0.5:
        return False
    # One image a class says little of that class: then most of the data must speak.
    several = all(confusion[move] >= 3 for move in moves)
    return several or (best >= 0.6 and now < best / 2)


def _from_json(path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(
            f"data.class_names {str(path)!r} does not exist; give a JSON list of names or {_PREFIX}<WEIGHTS>"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"data.class_names {str(path)!r} is not a JSON list of names: {error}") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(
            f'data.class_names {str(path)!r} must hold a JSON list of names, such as ["cat", "dog"], in output order'
        )
    return tuple(names)


def _from_torchvision(setting: str) -> tuple[str, ...]:
    # Late, because torchvision costs seconds and most presets name their classes in a file.
    from workflows.networks.compiled_ops import torchvision

    try:
        names = torchvision.models.get_weight(setting.removeprefix(_PREFIX)).meta["categories"]
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"data.class_names {setting!r}: torchvision has no such weights with class names ({error}); "
            "write it like torchvision:ResNet50_Weights.IMAGENET1K_V2"
        ) from None
    return tuple(str(name) for name in names)

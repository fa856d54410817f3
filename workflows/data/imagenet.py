"""ImageNet as it is published: a folder a class in train/, all pictures in val/, and a file that tells their classes.

That file exists in four forms. Kaggle's ``LOC_val_solution.csv`` and lists like it tell name and class a line; others
the class alone, for the pictures in the order of their names. A class is a WordNet id, called as its folder in train/,
or a number. Beside a name that is the place among these folders, as Caffe counts. Alone it is the id of the development
kit, which has an order of its own: its ``meta.mat`` translates.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from workflows.data.folders import scan_pictures
from workflows.errors import DataError
from workflows.storage.object_store import read_file

_FIELD = "data.ground_truth"
_META = "meta.mat"


@dataclass(frozen=True)
class ValidationImages:
    """Pictures of val/, the place of the class of each among the folders of train/, and what was left out."""

    paths: list[str]
    classes: Int[np.ndarray, "N"]
    notes: tuple[str, ...]


def validation_classes(folder: str, ground_truth: str, classes: Sequence[str]) -> ValidationImages:
    """The pictures of ``val/`` with their classes.

    Args:
        folder: path or URI of val/.
        ground_truth: path or URI of the file that tells the classes.
        classes: names of the folders of train/, sorted.

    Raises:
        DataError: the file tells no class of a picture, or one that is no folder of train/.
        OSError: something cannot be read.
    """
    paths, notes = scan_pictures([folder], "data.root")
    lines = [line.strip() for line in read_file(ground_truth).decode("utf-8-sig").splitlines()]
    lines = [line for line in lines if line and not line.startswith("ImageId,")]
    told = [re.split(r"[,\s]+", line) for line in lines]
    if not told:
        raise DataError(f"{_FIELD} {ground_truth!r}: must have a line a picture of {folder!r}, got none")
    if len(told[0]) > 1:
        given = _by_name(paths, told, ground_truth)
        places = {name: place for place, name in enumerate(classes)} | {str(n): n for n in range(len(classes))}
    else:
        given = _in_order(paths, [line[0] for line in told], ground_truth, folder)
        places = _alone(given, classes, ground_truth)
    for path, name in zip(paths, given, strict=True):
        if name not in places:
            raise DataError(
                f"{_FIELD} {ground_truth!r}: the class of {path!r} must be one of the {len(classes)} folders of "
                f"train/, got {name!r}; add that folder, or leave the picture out of both"
            )
    return ValidationImages(paths, np.array([places[name] for name in given], np.int64), notes)


def _by_name(paths: Sequence[str], told: Sequence[Sequence[str]], ground_truth: str) -> list[str]:
    """Classes of the pictures by their names, with or without folder and ending."""
    short = next((line for line in told if len(line) < 2), None)
    if short is not None:
        raise DataError(f"{_FIELD} {ground_truth!r}: every line must have a name and a class, got {short[0]!r}")
    by_name = {_bare(line[0]): line[1] for line in told}
    missing = [path for path in paths if _bare(path) not in by_name]
    if missing:
        raise DataError(
            f"{_FIELD} {ground_truth!r}: must tell the class of every picture in val/, got none of {len(missing)}, "
            f"such as {missing[0]!r}; add lines, or remove the pictures"
        )
    return [by_name[_bare(path)] for path in paths]


def _bare(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _in_order(paths: Sequence[str], given: list[str], ground_truth: str, folder: str) -> list[str]:
    if len(given) != len(paths):
        raise DataError(
            f"{_FIELD} {ground_truth!r}: must have a line a picture of {folder!r}, got {len(given)} lines and "
            f"{len(paths)} pictures; restore what is missing, or tell name and class a line"
        )
    return given


def _alone(given: Sequence[str], classes: Sequence[str], ground_truth: str) -> dict[str, int]:
    """Places of classes by what stands alone in a line: names, or ids of the development kit."""
    places = {name: place for place, name in enumerate(classes)}
    if not given[0].isdecimal():
        return places
    meta = os.path.join(posixpath.dirname(ground_truth), _META)
    try:
        content = read_file(meta)
    except FileNotFoundError:
        raise DataError(
            f"{_FIELD} {ground_truth!r}: its numbers are ids of the development kit, which are not in the order of the "
            f"class folders: must have the kit's {_META} beside it, got none at {meta!r}; copy it from the folder data/"
        ) from None
    return {number: places[name] for number, name in _kit_ids(content, meta).items() if name in places}


def _kit_ids(content: bytes, meta: str) -> dict[str, str]:
    """WordNet id by the kit's id."""
    from scipy.io import loadmat  # late, for it costs half a second

    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
        return {
            str(int(number)): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        }
    except Exception as error:  # a damaged file fails in any way
        raise DataError(f"{meta!r} is not the {_META} of ImageNet's development kit ({error}); copy it anew") from None

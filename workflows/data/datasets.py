"""Image sources to one class-ordered index, before any picture is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from workflows.data.class_names import Pairing, listed, named_classes, pair_classes, refuse_unnamed_labels
from workflows.data.crops import BACKGROUND, photo_crops
from workflows.data.folders import FolderListing, joined_classes, scan_folders, scan_pictures
from workflows.data.image_index import TRAIN, UNLABELLED, VALIDATION, ImageIndex, build_index
from workflows.data.packaged import PackagedImages, load_cifar10, load_digits
from workflows.data.parquet_index import LabelledRows, labelled_rows, parquet_files
from workflows.data.scenes import load_scenes
from workflows.errors import DataError
from workflows.settings import DataSettings, FolderLabel

__all__ = ["TRAIN", "VALIDATION", "ImageIndex", "index_images"]

_Labels = Int[np.ndarray, "N"]


@dataclass(frozen=True)
class _Listed:
    """Paths and labels by split; no names where labels are numbers that the network's outputs will name."""

    paths: dict[str, Sequence[str]]
    labels: dict[str, _Labels]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def index_images(settings: DataSettings, seed: int) -> ImageIndex:
    """List the images of a run with label and split, class-ordered.

    Parquet and CIFAR-10 come with their own training and validation images, and folders do where ``data.validation``
    names some. Other folders, digits and scenes are split by a seeded, stratified draw of ``validation_fraction``; a
    class with one image trains. Afterwards ``max_train`` and ``max_validation`` keep a seeded, class-balanced subset.
    The same settings and seed give the same index.

    Raises:
        DataError: images, columns, labels or class names are missing or contradict each other.
    """
    listed = _SOURCES[settings.source](settings, seed)
    paths, labels = listed.paths, listed.labels
    limits = {TRAIN: settings.max_train, VALIDATION: settings.max_validation}
    for split, limit in limits.items():
        kept = balanced_rows(labels[split], limit, seed)
        if len(kept) < len(labels[split]):
            paths[split], labels[split] = [paths[split][row] for row in kept], labels[split][kept]
    if settings.labels == "none":
        labels = {split: np.full_like(of_split, UNLABELLED) for split, of_split in labels.items()}
    return build_index(paths, labels, listed.names, listed.notes)


def _parquet(settings: DataSettings, seed: int) -> _Listed:
    names = named_classes(settings.class_names)
    files = {split: parquet_files(getattr(settings, split), split) for split in (TRAIN, VALIDATION)}
    shared = sorted(set(files[TRAIN]) & set(files[VALIDATION]))
    if shared:
        raise DataError(f"data.train and data.validation both name {shared[0]!r}; an image belongs to one split")
    every = labelled_rows([*files[TRAIN], *files[VALIDATION]], settings.image_column, settings.label_column)
    pairing = _pair_labels(names, every)
    labels = every.labels if pairing is None else np.array(pairing.labels)[every.labels]
    first = every.paths.index(f"{files[VALIDATION][0]}#0")
    return _Listed(
        {TRAIN: every.paths[:first], VALIDATION: every.paths[first:]},
        {TRAIN: labels[:first], VALIDATION: labels[first:]},
        () if pairing is None else pairing.names,
        () if pairing is None else pairing.notes,
    )


def _pair_labels(names: tuple[str, ...] | None, rows: LabelledRows) -> Pairing | None:
    """None where labels are numbers that nothing names."""
    if rows.names is None:
        if names is None:
            return None
        refuse_unnamed_labels(names, rows.labels, rows.paths)
        return Pairing(tuple(range(len(names))), names)
    if rows.as_texts:
        return pair_classes(names, rows.names, "text labels")
    refuse_unnamed_labels(rows.names, rows.labels, rows.paths, "the names in the metadata of the Parquet files")
    return pair_classes(names, rows.names, "classes in the metadata", in_order=True)


def _folders(settings: DataSettings, seed: int) -> _Listed:
    names = named_classes(settings.class_names)
    if settings.labels == "none":
        return _unlabelled(settings, names or (), seed)
    trained = _scanned(settings, settings.folders)
    labels = settings.joined_labels
    pairing = _of_labels(labels) if labels else pair_classes(names, list(trained.classes))
    pairing = replace(pairing, notes=(*pairing.notes, *trained.notes))
    if not settings.validation:
        return _drawn(*_of_folders(trained, pairing), pairing, settings, seed)
    counted = _scanned(settings, settings.validation, "data.validation")
    _refuse_shared_folders(settings)
    _refuse_other_classes(trained.classes, counted.classes)
    images = {TRAIN: _of_folders(trained, pairing), VALIDATION: _of_folders(counted, pairing)}
    paths: dict[str, Sequence[str]] = {split: found for split, (found, _) in images.items()}
    of_split = {split: found for split, (_, found) in images.items()}
    return _Listed(paths, of_split, pairing.names, (*pairing.notes, *counted.notes))


def _scanned(settings: DataSettings, folders: Sequence[str], field: str = "data.folders") -> FolderListing:
    found = scan_folders(folders, field)
    return joined_classes(found, settings.joined_labels, field) if settings.joined_labels else found


def _of_labels(labels: Sequence[FolderLabel]) -> Pairing:
    return Pairing(tuple(range(len(labels))), tuple(label.name for label in labels))


def _unlabelled(settings: DataSettings, names: tuple[str, ...], seed: int) -> _Listed:
    paths, notes = scan_pictures(settings.folders, endings=settings.endings)
    if settings.validation:
        _refuse_shared_folders(settings)
        counted, more = scan_pictures(settings.validation, "data.validation", settings.endings)
        found = {TRAIN: paths, VALIDATION: counted}
        labels = {split: np.zeros(len(of_split), np.int64) for split, of_split in found.items()}
        return _Listed(dict(found), labels, names, (*notes, *more))
    # For the draws, all are of one class.
    return _drawn(paths, np.zeros(len(paths), np.int64), Pairing((), names, notes), settings, seed)


def _of_folders(listing: FolderListing, pairing: Pairing) -> tuple[list[str], _Labels]:
    """Paths and labels of the images of all classes, which are in one order in both."""
    sizes = [len(files) for files in listing.classes.values()]
    paths = [path for files in listing.classes.values() for path in files]
    return paths, np.repeat(np.array(pairing.labels, dtype=np.int64), sizes)


def _refuse_shared_folders(settings: DataSettings) -> None:
    trained, counted = ([os.path.realpath(root) for root in roots] for roots in (settings.folders, settings.validation))
    for one in trained:
        for other in counted:
            if os.path.commonpath([one, other]) in (one, other):
                raise DataError(
                    f"data.validation {other!r} and data.folders {one!r} are the same folder or lie in each other; "
                    "an image belongs to one split"
                )


def _refuse_other_classes(trained: Collection[str], counted: Collection[str]) -> None:
    lacking, more = (sorted(set(a) - set(b)) for a, b in ((trained, counted), (counted, trained)))
    if lacking or more:
        told = [f"data.validation lacks {listed(lacking)}"] if lacking else []
        told += [f"data.folders lacks {listed(more)}"] if more else []
        raise DataError(f"{' and '.join(told)}: both must have the same class folders; add these, or remove the others")


def _digits(settings: DataSettings, seed: int) -> _Listed:
    return _packaged(load_digits(), settings, seed)


def _scenes(settings: DataSettings, seed: int) -> _Listed:
    return _packaged(load_scenes().images, settings, seed)


def _packaged(images: PackagedImages, settings: DataSettings, seed: int) -> _Listed:
    names = named_classes(settings.class_names)
    pairing = pair_classes(names, images.class_names, "classes of the source", in_order=True)
    labels = np.array(pairing.labels)[images.labels]
    return _drawn([f"{settings.source}#{i}" for i in range(len(labels))], labels, pairing, settings, seed)


def _cifar10(settings: DataSettings, seed: int) -> _Listed:
    names = named_classes(settings.class_names)
    paths: dict[str, Sequence[str]] = {}
    labels: dict[str, _Labels] = {}
    for split, folder in ((TRAIN, "train"), (VALIDATION, "test")):
        images = load_cifar10(settings.root, split == TRAIN, settings.download)
        pairing = pair_classes(names, images.class_names, "classes of the source", in_order=True)
        paths[split] = [f"cifar10/{folder}#{i}" for i in range(len(images.labels))]
        labels[split] = np.array(pairing.labels)[images.labels]
    return _Listed(paths, labels, pairing.names)


def _drawn(paths: Sequence[str], labels: _Labels, pairing: Pairing, settings: DataSettings, seed: int) -> _Listed:
    validation = validation_mask(labels, settings.validation_fraction, seed)
    if not validation.any():
        raise DataError("every class has a single image, so none is left for validation; add images to data.folders")
    rows = {TRAIN: np.flatnonzero(~validation), VALIDATION: np.flatnonzero(validation)}
    return _Listed(
        {split: [paths[row] for row in of_split.tolist()] for split, of_split in rows.items()},
        {split: labels[of_split] for split, of_split in rows.items()},
        pairing.names,
        pairing.notes,
    )


def _crops(settings: DataSettings, seed: int) -> _Listed:
    """Photos are drawn, by what they show, and their crops go with them."""
    listing = scan_folders(settings.folders)
    photos, names = photo_crops(listing.classes, Path(settings.boxes), seed)
    pairing = pair_classes(
        named_classes(settings.class_names),
        [*names, BACKGROUND],
        "classes of the objects, and background",
        in_order=True,
    )
    counted = validation_mask(np.array([photo.label for photo in photos]), settings.validation_fraction, seed)
    paths: dict[str, Sequence[str]] = {}
    labels: dict[str, _Labels] = {}
    for split, chosen in ((TRAIN, ~counted), (VALIDATION, counted)):
        of_split = [photos[place] for place in np.flatnonzero(chosen)]
        paths[split] = [path for photo in of_split for path in photo.paths()]
        own = [label for photo in of_split for label in photo.labels(len(names))]
        labels[split] = np.array(pairing.labels)[np.array(own, np.int64)]
    return _Listed(paths, labels, pairing.names, (*pairing.notes, *listing.notes))


_SOURCES: dict[str, Callable[[DataSettings, int], _Listed]] = {
    "parquet": _parquet,
    "folders": _folders,
    "crops": _crops,
    "cifar10": _cifar10,
    "digits": _digits,
    "scenes": _scenes,
}


_VALIDATION_STREAM, _LIMIT_STREAM, _REMAINDER_STREAM = 1, 2, 3


def validation_mask(labels: Int[np.ndarray, "N"], fraction: float, seed: int) -> Bool[np.ndarray, "N"]:
    """True for the images that become S_V: about ``fraction`` of every class, drawn by image.

    A class of two or more images keeps at least one on either side; a class of one image trains.
    The draw of a class depends on its label and size alone, never on the other classes.
    """
    mask = np.zeros(len(labels), dtype=bool)
    for label, rows in _rows_of_classes(labels):
        if len(rows) > 1:
            n_validation = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            mask[_shuffled(rows, seed, _VALIDATION_STREAM, label)[:n_validation]] = True
    return mask


def balanced_rows(labels: Int[np.ndarray, "N"], limit: int | None, seed: int) -> Int[np.ndarray, "n"]:
    """At most ``limit`` rows, as equal in number for every class as the classes allow, in ascending order.

    Small classes are taken whole and the others share what they leave. A smaller limit takes a subset of
    what a larger one takes, except for the remainder that does not divide among the classes.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    classes = _rows_of_classes(labels)
    quotas = _quotas(np.array([len(rows) for _, rows in classes]), limit, seed)
    chosen = [
        _shuffled(rows, seed, _LIMIT_STREAM, label)[:quota]
        for (label, rows), quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _quotas(sizes: Int[np.ndarray, "M"], limit: int, seed: int) -> Int[np.ndarray, "M"]:
    quotas = np.zeros_like(sizes)
    while (left := limit - int(quotas.sum())) > 0:
        open_classes = np.flatnonzero(quotas < sizes)
        share = left // len(open_classes)
        if share == 0:
            # Fewer images left than classes: a seeded draw, so that no class is always the loser.
            quotas[_shuffled(open_classes, seed, _REMAINDER_STREAM, 0)[:left]] += 1
            break
        quotas[open_classes] = np.minimum(quotas[open_classes] + share, sizes[open_classes])
    return quotas


def _rows_of_classes(labels: Int[np.ndarray, "N"]) -> list[tuple[int, Int[np.ndarray, "n"]]]:
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return [(int(value), rows) for value, rows in zip(values, np.split(order, starts[1:]), strict=True)]


def _shuffled(rows: Int[np.ndarray, "n"], seed: int, stream: int, label: int) -> Int[np.ndarray, "n"]:
    # Seed sequences take no negative numbers; the modulus keeps distinct 64-bit seeds distinct.
    return np.random.default_rng([seed % 2**64, stream, label]).permutation(rows)

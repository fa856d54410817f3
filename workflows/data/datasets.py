"""Image sources to one class-ordered index, before any picture is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from workflows.data.class_names import Pairing, listed, named_classes, pair_classes, refuse_unnamed_labels
from workflows.data.crops import BACKGROUND, photo_crops
from workflows.data.file_states import fault
from workflows.data.folders import FolderListing, joined_classes, scan_folders, scan_pictures
from workflows.data.image_index import (
    TRAIN,
    UNLABELLED,
    VALIDATION,
    ImageIndex,
    balanced_rows,
    build_index,
    validation_mask,
)
from workflows.data.imagenet import validation_classes
from workflows.data.packaged import PackagedImages, load_cifar10, load_digits
from workflows.data.parquet_index import LabelledRows, files_of_patterns, labelled_rows
from workflows.data.scenes import load_scenes
from workflows.data.tar_shards import labelled_samples
from workflows.errors import DataError
from workflows.runtime.patience import Patience
from workflows.settings import DataSettings, FolderLabel
from workflows.storage.object_store import absolute, is_uri

__all__ = ["TRAIN", "VALIDATION", "ImageIndex", "index_images"]

_Labels = Int[np.ndarray, "N"]


@dataclass(frozen=True)
class _Listed:
    """Paths and labels by split; no names where labels are numbers that the network's outputs will name."""

    paths: dict[str, Sequence[str]]
    labels: dict[str, _Labels]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def index_images(settings: DataSettings, seed: int, patience: Patience = (1, 0.0)) -> ImageIndex:
    """List the images of a run with label and split, class-ordered.

    Parquet and CIFAR-10 come with their own training and validation images, and folders do where ``data.validation``
    names some. Other folders, digits and scenes are split by a seeded, stratified draw of ``validation_fraction``; a
    class with one image trains. Afterwards ``max_train`` and ``max_validation`` keep a seeded, class-balanced subset.
    The same settings and seed give the same index. ``patience``: with storage that does not give a photo whose size
    is asked for (crops), see ``patiently``.

    Raises:
        DataError: images, columns, labels or class names are missing or contradict each other.
        StorageFault: an object store does not answer, or a photo cannot be read.
    """
    try:
        crops = settings.source == "crops"
        listed = _crops(settings, seed, patience) if crops else _SOURCES[settings.source](settings, seed)
    except OSError as error:
        place = os.fsdecode(error.filename or "")
        if isinstance(error, FileNotFoundError):
            raise DataError(f"data: {place!r} must be there, got {error.strerror}; correct the path or URI") from None
        if not is_uri(place):
            raise
        raise fault(place, error) from None
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
    def rows(files: Sequence[str]) -> LabelledRows:
        return labelled_rows(files, settings.image_column, settings.label_column)

    return _of_files(settings, "Parquet", rows)


def _tar(settings: DataSettings, seed: int) -> _Listed:
    return _of_files(settings, "tar", lambda files: labelled_samples(files, settings.label_column))


def _of_files(settings: DataSettings, kind: str, rows: Callable[[Sequence[str]], LabelledRows]) -> _Listed:
    names = named_classes(settings.class_names)
    files = {split: files_of_patterns(getattr(settings, split), split, kind) for split in (TRAIN, VALIDATION)}
    shared = sorted(set(files[TRAIN]) & set(files[VALIDATION]))
    if shared:
        raise DataError(f"data.train and data.validation both name {shared[0]!r}; an image belongs to one split")
    every = rows([*files[TRAIN], *files[VALIDATION]])
    pairing = _pair_labels(names, every)
    labels = every.labels if pairing is None else np.array(pairing.labels)[every.labels]
    begins = f"{files[VALIDATION][0]}#"
    first = next(place for place, path in enumerate(every.paths) if path.startswith(begins))
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
    trained, counted = (
        [absolute(root) if is_uri(root) else os.path.realpath(root) for root in roots]
        for roots in (settings.folders, settings.validation)
    )
    for one in trained:
        for other in counted:
            if one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/"):
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


def _imagenet(settings: DataSettings, seed: int) -> _Listed:
    root = absolute(settings.root)
    trained = _scanned(settings, [f"{root}/train"], "data.root")
    pairing = pair_classes(named_classes(settings.class_names), list(trained.classes))
    counted = validation_classes(f"{root}/val", absolute(settings.ground_truth), list(trained.classes))
    paths, labels = _of_folders(trained, pairing)
    return _Listed(
        {TRAIN: paths, VALIDATION: counted.paths},
        {TRAIN: labels, VALIDATION: np.array(pairing.labels)[counted.classes]},
        pairing.names,
        (*pairing.notes, *trained.notes, *counted.notes),
    )


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


def _crops(settings: DataSettings, seed: int, patience: Patience) -> _Listed:
    """Photos are drawn, by what they show, and their crops go with them."""
    stored = next(filter(is_uri, settings.folders), None)
    if stored is not None:
        raise DataError(f"data.folders: must be on a file system with source = 'crops', got {stored!r}; copy it there")
    listing = scan_folders(settings.folders)
    photos, names = photo_crops(listing.classes, Path(settings.boxes), seed, patience)
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
    "tar": _tar,
    "imagenet": _imagenet,
    "folders": _folders,
    "cifar10": _cifar10,
    "digits": _digits,
    "scenes": _scenes,
}

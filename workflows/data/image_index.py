"""The image index: one row per image, classes of a split lying together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from workflows.errors import DataError

TRAIN, VALIDATION = "train", "validation"
UNLABELLED = -1
"""Label of an image whose class nobody told; null in tables."""
_COLUMNS = ("image", "path", "label", "label_name", "split")


@dataclass(frozen=True)
class ImageIndex:
    """Columns of images.parquet that are known before any picture is read.

    Rows are sorted by split (train first), label, then the order of the source, so that the images of a
    class of a split are one contiguous range.

    Attributes:
        image: int64, the row number, the key of every table.
        path: text; a file or URI, ``file.parquet#row``, ``cifar10/train#i``, ``digits#i`` or ``scenes#i``; of a tar
            file, or of Parquet in an object store, ``file#name@offset+length``: the bytes of the picture.
        label: int32, position of the class in ``class_names``; -1 without labels.
        split: text, ``train`` (S_T) or ``validation`` (S_V).
        class_names: the names in output order; more than the labels in use is allowed. None where labels are numbers
            that nothing names, until the number of outputs is known (``for_outputs``).
        notes: what the user should know of how the images were found.
    """

    image: Int[np.ndarray, "N"]
    path: np.ndarray
    label: Int[np.ndarray, "N"]
    split: np.ndarray
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    @property
    def label_name(self) -> np.ndarray:
        """Text, the class name of every image; None without labels."""
        if not self.class_names:
            names = self.label.astype(str).astype(object)
        else:
            names = np.asarray(self.class_names, dtype=object)[self.label]
        names[self.label == UNLABELLED] = None
        return names

    @property
    def labels(self) -> int:
        """How many labels there are, in use or not."""
        return len(self.class_names) or int(self.label.max()) + 1

    def for_outputs(self, outputs: int) -> ImageIndex:
        """The index of a network with so many outputs; numbers name them where nothing else does.

        Raises:
            DataError: a label is no output, or there is another number of names.
        """
        outside = np.flatnonzero(self.label >= outputs)
        if not self.class_names and len(outside):
            first = outside[0]
            raise DataError(
                f"image {self.path[first]!r} has label {self.label[first]}, but the network has {outputs} outputs, "
                f"labels 0 to {outputs - 1}; correct the labels ({len(outside)} images are outside), or use a network "
                "made for these classes"
            )
        if self.class_names and len(self.class_names) != outputs:
            raise DataError(
                f"the network has {outputs} outputs, the data {len(self.class_names)} classes: name every output in "
                "order with data.class_names, or use a network made for these classes"
            )
        return replace(self, class_names=self.class_names or tuple(map(str, range(outputs))))

    def rows(self, split: str, label: int | None = None) -> range:
        """Row numbers of a split, or of one class of it; contiguous, empty if there are none.

        Raises:
            DataError: ``split`` is neither train nor validation.
        """
        if split not in (TRAIN, VALIDATION):
            raise DataError(f"split {split!r} does not exist; the splits are {TRAIN} and {VALIDATION}")
        n_train = int(np.count_nonzero(self.split == TRAIN))
        first, stop = (0, n_train) if split == TRAIN else (n_train, len(self))
        if label is None:
            return range(first, stop)
        low, high = np.searchsorted(self.label[first:stop], [label, label + 1])
        return range(first + int(low), first + int(high))

    def to_table(self) -> pa.Table:
        """The columns image, path, label, label_name, split as an Arrow table."""
        return pa.table(
            {
                "image": pa.array(self.image, pa.int64()),
                "path": pa.array(self.path, pa.string()),
                "label": pa.array(self.label, pa.int32(), mask=self.label == UNLABELLED),
                "label_name": pa.array(self.label_name, pa.string()),
                "split": pa.array(self.split, pa.string()),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table, class_names: Sequence[str]) -> ImageIndex:
        """The index back from images.parquet, where more columns may have been added.

        Raises:
            DataError: a column is missing.
        """
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing:
            raise DataError(f"the image table lacks the columns {', '.join(missing)}; run the index stage again")
        return cls(
            image=table["image"].to_numpy().astype(np.int64, copy=False),
            path=table["path"].to_numpy(zero_copy_only=False),
            label=table["label"].fill_null(UNLABELLED).to_numpy().astype(np.int32, copy=False),
            split=_interned(table["split"].to_numpy(zero_copy_only=False)),
            class_names=tuple(class_names),
        )


def build_index(
    paths: dict[str, Sequence[str]],
    labels: dict[str, np.ndarray],
    class_names: Sequence[str],
    notes: tuple[str, ...] = (),
) -> ImageIndex:
    """Order the images of both splits by label; equal labels keep the order of the source.

    Raises:
        DataError: a split has no image.
    """
    path_parts, label_parts, split_parts = [], [], []
    for split in (TRAIN, VALIDATION):
        if not len(labels[split]):
            raise DataError(f"the {split} split has no image; every run needs training and validation images")
        order = np.argsort(labels[split], kind="stable")
        path_parts.append(np.asarray(paths[split], dtype=object)[order])
        label_parts.append(np.asarray(labels[split], dtype=np.int32)[order])
        split_parts.append(np.full(len(order), split, dtype=object))
    path = np.concatenate(path_parts)
    return ImageIndex(
        image=np.arange(len(path), dtype=np.int64),
        path=path,
        label=np.concatenate(label_parts),
        split=np.concatenate(split_parts),
        class_names=tuple(class_names),
        notes=notes,
    )


def _interned(values: np.ndarray) -> np.ndarray:
    # Arrow makes a new text object per row; two shared ones are enough for a million images.
    result = np.full(len(values), VALIDATION, dtype=object)
    result[values == TRAIN] = TRAIN
    return result


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

"""The image index: one row per image, classes of a split lying together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Int

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
        path: text; ``file.parquet#row``, a file, ``cifar10/train#i``, ``digits#i`` or ``scenes#i``.
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

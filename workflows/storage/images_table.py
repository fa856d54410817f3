"""images.parquet: written by the index stage, completed with predictions by the extract stage, read in row ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workflows.errors import LostFile, RunFolderError
from workflows.storage.damage import undamaged
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table, write_table

PREDICTIONS = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("predicted", pa.int32()),
        pa.field("probability", pa.float32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One file a shard, before the extract stage joins them into images.parquet."""


def read_image_rows(path: Path, first: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Rows [first, stop) of images.parquet; reads only the row groups that hold them, so memory stays bounded.

    Raises:
        LostFile: the table is missing. RunFolderError: it is damaged or shorter.
    """
    try:
        with undamaged(path, "delete the run folder and run again"):
            return _image_rows(path, first, stop, columns)
    except FileNotFoundError:
        raise LostFile(f"table {str(path)!r} is missing: run the index stage") from None


def _image_rows(path: Path, first: int, stop: int, columns: Sequence[str]) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups: list[int] = []
        start, offset = 0, 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start + rows > first and start < stop:
                offset = start if not groups else offset
                groups.append(group)
            start += rows
        if stop > start:
            raise RunFolderError(f"{str(path)!r} has {start} images, rows up to {stop} are needed")
        return file.read_row_groups(groups, columns=list(columns)).slice(first - offset, stop - first)


@dataclass(frozen=True)
class ImageColumns:
    """Labels and predictions of consecutive images, as arrays; -1 where there is none: no label, a broken image.

    Without network outputs no image has a prediction. ``whole``: False where the picture is known to be broken; None:
    where there is no prediction.
    """

    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    whole: np.ndarray | None = None

    @property
    def readable(self) -> np.ndarray:
        """Which pictures can be read, as far as that is known."""
        return self.predicted >= 0 if self.whole is None else self.whole

    @property
    def classes(self) -> np.ndarray:
        """The label, or the predicted class of an image without one."""
        return np.where(self.label < 0, self.predicted, self.label)

    @classmethod
    def read(cls, folder: RunFolder, first: int, stop: int) -> ImageColumns:
        """Rows [first, stop) of images.parquet."""
        rows = read_image_rows(folder.images_table, first, stop, ["label", "predicted", "probability", "status"])
        predicted = rows["predicted"].fill_null(-1).to_numpy().astype(np.int64)
        probability = rows["probability"].fill_null(-1.0).to_numpy()
        whole = np.array(pc.not_equal(rows["status"], "broken").to_numpy(), bool)
        return cls(rows["label"].fill_null(-1).to_numpy().astype(np.int64), predicted, probability, whole)


def merge_predictions(images: Path, predictions: Sequence[Path], class_names: Sequence[str]) -> None:
    """Complete images.parquet with the shards' predictions; may be run twice.

    Args:
        images: images.parquet.
        predictions: one file a shard, in image order.
        class_names: name of every output.
    """
    table = read_table(images)
    found = pa.concat_tables([read_table(path) for path in predictions])
    if not np.array_equal(found["image"].to_numpy(), table["image"].to_numpy()):
        raise RunFolderError(f"the predictions do not cover {str(images)!r}: run the extract stage again")
    names = pa.array(
        [None if word is None else class_names[word] for word in found["predicted"].to_pylist()], pa.string()
    )
    for name in ("predicted", "probability", "status", "reason"):
        table = table.set_column(table.column_names.index(name), name, found[name])
    table = table.set_column(table.column_names.index("predicted_name"), "predicted_name", names)
    write_table(images, table, "images")

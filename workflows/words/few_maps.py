"""Word maps of a scope that holds few images of a run: a Parquet file for every layer and shard that holds some.

A Zarr array has a file and two folders for every shard, and each of the three fields is an array: of a class and its
neighbours, whose images lie in many shards, that are nine entries of the file system where there is now one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Shaped

from workflows.errors import LostFile, RunFolderError, StorageFault, system_words
from workflows.phases import phase
from workflows.storage.atomic import replacing, write_bytes
from workflows.storage.damage import undamaged
from workflows.storage.run_folder import RunFolder

FIELDS = {"word": "int32", "posterior": "float32", "log_joint": "float32"}
"""Arrays of a word map: hard word (-1: the picture was broken, or the scope does not assign the image),
P(word | column), log P(word, column)."""


def fill_value(field: str) -> int:
    """Of images that a scope does not assign."""
    return -1 if field == "word" else 0


@dataclass(frozen=True)
class FewMaps:
    """What is known of the maps of a scope before they are written; a file of it stands for all of them.

    Attributes:
        images: of the run.
        images_per_shard, images_per_chunk: of its arrays; so many images at most are one row group.
        shards: indices of the shards that hold images of the scope, ascending. The others have no file.
        shapes: height and width of the maps, by layer.
    """

    images: int
    images_per_shard: int
    images_per_chunk: int
    shards: tuple[int, ...]
    shapes: dict[str, tuple[int, int]]

    def write(self, folder: RunFolder, scope: str) -> None:
        """Write what is known, whole or not at all."""
        write_bytes(folder.words_index(scope), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: RunFolder, scope: str) -> FewMaps | None:
        """What ``write`` wrote; None: the scope has arrays, or nothing yet. Raises RunFolderError: it is damaged."""
        path = folder.words_index(scope)
        try:
            with undamaged(path):
                told = json.loads(path.read_text(encoding="utf-8"))
                shapes = {layer: (int(height), int(width)) for layer, (height, width) in told["shapes"].items()}
                return cls(**told | {"shards": tuple(told["shards"]), "shapes": shapes})
        except FileNotFoundError:
            return None

    @phase("write")
    def write_shard(
        self, path: Path, images: Int[np.ndarray, " n"], maps: Mapping[str, Shaped[np.ndarray, "n H W"]]
    ) -> None:
        """Write the maps of some images of a shard, ascending ids, by field; the file appears at once or not at all."""
        columns = {"image": pa.array(images, pa.int64())}
        for field, values in maps.items():
            content = np.ascontiguousarray(values, FIELDS[field])
            each = pa.binary(content.itemsize * math.prod(content.shape[1:]))
            columns[field] = pa.Array.from_buffers(each, len(content), [None, pa.py_buffer(content)])
        with replacing(path, synced=False) as temporary:
            pq.write_table(
                pa.table(columns),
                temporary,
                row_group_size=self.images_per_chunk,
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
                write_statistics=["image"],
                write_page_checksum=True,
            )

    @phase("read")
    def read_rows(
        self, folder: RunFolder, scope: str, layer: str, field: str, start: int, stop: int
    ) -> Shaped[np.ndarray, "n H W"]:
        """Maps of images [start, stop); of those that the scope does not assign the fill value.

        Raises:
            LostFile: a shard is missing. StorageFault: it cannot be read just now. RunFolderError: it is damaged.
        """
        stop = min(stop, self.images)
        shape = max(0, stop - start), *self.shapes[layer]
        found = np.full(shape, fill_value(field), FIELDS[field])
        for index in self._shards(start, stop):
            images, values = _read_images(folder.words_shard(scope, layer, index), field, start, stop)
            found[images - start] = values.reshape(-1, *shape[1:])
        return found

    def _shards(self, start: int, stop: int) -> Sequence[int]:
        size = self.images_per_shard
        return [index for index in self.shards if index * size < stop and (index + 1) * size > start]


def _read_images(path: Path, field: str, start: int, stop: int) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """Ids of a shard's images in [start, stop), and what lies there, flat."""
    try:
        with undamaged(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups = [group for group in range(file.num_row_groups) if _overlaps(file, group, start, stop)]
            if not groups:
                return np.empty(0, np.int64), np.empty(0, FIELDS[field])
            table = file.read_row_groups(groups, columns=["image", field]).combine_chunks()
            images = table["image"].to_numpy()
            values = np.frombuffer(table[field].chunk(0).buffers()[1], FIELDS[field]).reshape(len(images), -1)
    except FileNotFoundError:
        raise LostFile(
            f"{str(path)!r} is missing: see that its storage is there, then run again, which makes what is lost"
        ) from None
    except RunFolderError:
        raise
    except OSError as error:  # of the system, which says nothing of the content
        raise StorageFault(system_words(error)) from None
    inside = (images >= start) & (images < stop)
    return images[inside], values[inside]


def _overlaps(file: pq.ParquetFile, group: int, start: int, stop: int) -> bool:
    told = file.metadata.row_group(group).column(0).statistics
    return bool(told.min < stop and told.max >= start)

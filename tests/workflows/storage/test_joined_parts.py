"""A table joined from parts: the same file however the rows were cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflows.errors import RunFolderError
from workflows.storage.tables import ROW_GROUP, SCHEMAS, join_parts, read_table, write_table

ROWS = 2 * ROW_GROUP + 1_000


def path_table(first: int, stop: int) -> pa.Table:
    numbers = np.arange(first, stop)
    none = numbers % 7 == 0
    return pa.table(
        {
            "image": numbers // 5,
            "scope": pa.array(["joint"] * len(numbers)),
            "level": numbers % 5 + 1,
            "layer": pa.array([f"relu{number % 5}" for number in numbers]),
            "word": numbers % 11,
            "log_probability": -numbers / 3.0,
            "path_log_probability": -numbers / 7.0,
            "runner_up": pa.array(numbers % 3, mask=none),
            "runner_up_log_odds": pa.array(numbers / 9.0, mask=none),
            "network": pa.array(["made up"] * len(numbers)),
        }
    )


def written(root: Path, edges: list[int]) -> list[Path]:
    parts = []
    for index, (first, stop) in enumerate(pairwise(edges)):
        parts.append(root / f"{index:06d}.parquet")
        write_table(parts[-1], path_table(first, stop), "paths")
    return parts


def test_the_file_does_not_depend_on_the_parts(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    assert join_parts(whole, written(tmp_path / "one", [0, ROWS]), "paths") == ROWS
    groups = pq.ParquetFile(whole).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 1_000]
    assert read_table(whole).equals(path_table(0, ROWS).cast(SCHEMAS["paths"]))
    for name, edges in (
        ("many", [*range(0, ROWS, 2_500), ROWS]),
        ("ragged", [0, 1, 1, ROW_GROUP, ROW_GROUP + 5, ROWS]),
    ):
        joined = tmp_path / f"{name}.parquet"
        join_parts(joined, written(tmp_path / name, edges), "paths")
        assert joined.read_bytes() == whole.read_bytes()


def test_units_and_meanings_stay(tmp_path: Path) -> None:
    path = tmp_path / "paths.parquet"
    join_parts(path, written(tmp_path / "parts", [0, 10]), "paths")
    assert pq.read_schema(path).equals(SCHEMAS["paths"], check_metadata=True)


def test_no_parts_make_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "paths.parquet"
    assert join_parts(path, [], "paths") == 0
    assert len(read_table(path)) == 0


def test_a_missing_part_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "paths.parquet"
    parts = written(tmp_path / "parts", [0, 10, 20])
    join_parts(path, parts, "paths")
    before = path.read_bytes()
    parts[1].unlink()
    with pytest.raises(RunFolderError, match=r"000001\.parquet' is missing"):
        join_parts(path, parts, "paths")
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["parts", "paths.parquet"]

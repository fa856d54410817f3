"""A disk without room stops whatever writes, with the path in words. On a real small file system."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from workflows.errors import DiskFull
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.pool_settings import PoolSettings
from workflows.storage.arrays import create_array, write_arrays, write_shard
from workflows.storage.atomic import write_bytes
from workflows.storage.ledger import Ledger
from workflows.storage.states import save_state
from workflows.storage.tables import write_table

NOISE = np.random.default_rng(0).integers(0, 2**60, 200_000)
TABLE = pa.schema([pa.field("value", pa.int64(), nullable=False)])


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_disk(mounted: Path) -> Path:
    for left in mounted.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return mounted


def write_a_shard(folder: Path) -> None:
    array = create_array(folder / "a.zarr", (200_000, 1), "int64", chunk_rows=200_000, shard_rows=200_000, codec="none")
    write_shard(array, 0, NOISE[:, None])


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.json": lambda folder: write_bytes(folder / "plain.json", NOISE.tobytes()),
    "state.npz": lambda folder: save_state(folder / "state.npz", {"noise": NOISE}),
    "t.parquet": lambda folder: write_table(folder / "t.parquet", {"value": NOISE}, TABLE),
    "group.zarr": lambda folder: write_arrays(folder / "group.zarr", {"noise": NOISE}),
    "a.zarr/c/0/0": write_a_shard,
    "l.jsonl": lambda folder: Ledger(folder / "l.jsonl").record("a", noise=NOISE),
}


class Writer:
    def __init__(self, folder: Path, tried: Path) -> None:
        self.folder, self.tried = folder, tried

    def __call__(self, item: str) -> dict[str, Any]:
        with self.tried.open("a") as tries:
            tries.write("x")
        WRITERS[item](self.folder)
        return {}


@pytest.mark.parametrize("name", WRITERS)
def test_what_needs_room_is_said(small_disk: Path, name: str) -> None:
    with pytest.raises(DiskFull) as caught:
        WRITERS[name](small_disk)
    told = str(caught.value)
    assert f"'{small_disk / name}' must have room on its disk, got no space is left after " in told
    assert "bytes are free under " in told
    assert "free some space" in told
    assert "run the same command again" in told
    assert "\n" not in told
    assert not list(small_disk.rglob("*.tmp"))


def test_a_full_disk_is_no_attempt(small_disk: Path, tmp_path: Path, local_ray: object) -> None:
    failures: list[str] = []
    with pytest.raises(DiskFull, match=r"state.npz' must have room"):
        map_shards(
            Writer,
            {"folder": small_disk, "tried": tmp_path / "tries"},
            ["state.npz"],
            PoolSettings(1, threads=None),
            on_failure=lambda item, reason, last: failures.append(reason),
        )
    assert (tmp_path / "tries").read_text() == "x"
    assert not failures


def test_a_quota_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used_up(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", used_up)
    with pytest.raises(DiskFull, match=r"a.json' must have room on its disk, got the quota is used up after 3 bytes"):
        write_bytes(tmp_path / "a.json", b"abc")

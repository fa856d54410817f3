"""The same pictures in every layout that a run can read, on disk and in an object store."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

from tests.workflows.data.made_files import IMAGE_TYPE, encoded, noise
from workflows.settings import DataSettings
from workflows.storage.object_store import upload

CLASSES = ("n01440764", "n01443537", "n01484850")
TRAINED, COUNTED = 4, 2
"""Pictures of a class in either split."""


def picture(split: str, label: int, number: int) -> bytes:
    """Bytes of a picture that no other equals."""
    return encoded(noise(9, 8, (split == "val") * 1000 + label * 100 + number))


def pictures(split: str) -> list[tuple[int, int, bytes]]:
    """(label, number, bytes), class by class."""
    count = TRAINED if split == "train" else COUNTED
    return [(label, number, picture(split, label, number)) for label in range(3) for number in range(count)]


def write_tar(path: Path, members: dict[str, bytes], kind: str = "w") -> Path:
    """A tar file of such members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, kind) as tar:
        for name, content in members.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            tar.addfile(head, io.BytesIO(content))
    return path


def write_layouts(root: Path) -> Path:
    """ImageNet's own layout, tar files and Parquet files; scattered, so that a class lies in every file."""
    for split in ("train", "val"):
        rows = pictures(split)
        for label, number, content in rows:
            flat = root / split / f"ILSVRC2012_val_{number * 3 + label:08d}.JPEG"
            path = root / split / CLASSES[label] / f"{number}.JPEG" if split == "train" else flat
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for part in range(2):
            own = sorted(rows, key=lambda row: row[1])[part::2]
            members = {}
            for label, number, content in own:
                members |= {f"{label}-{number}.jpg": content, f"{label}-{number}.cls": str(label).encode()}
            write_tar(root / "tar" / f"{split}-{part:03d}.tar", members)
            _write_parquet(root / f"{split}-{part}.parquet", own)
    solution = [(number * 3 + label, CLASSES[label]) for label, number, _ in pictures("val")]
    lines = [f"ILSVRC2012_val_{place:08d},{name} 1 2 3 4" for place, name in solution]
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines[::-1]) + "\n")
    (root / "val.txt").write_text("".join(f"ILSVRC2012_val_{n:08d}.JPEG {CLASSES.index(c)}\n" for n, c in solution))
    in_order = [name for _, name in sorted(solution)]
    (root / "synsets.txt").write_text("\n".join(in_order))
    write_kit(root / "kit", in_order)
    return root


def write_kit(folder: Path, in_order: list[str]) -> None:
    """The two files of the development kit, whose ids are in another order than the names."""
    folder.mkdir()
    ids = {name: 3 - place for place, name in enumerate(CLASSES)}
    synsets = np.array([(ids[name], name) for name in CLASSES], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{ids[name]}\n" for name in in_order))


def _write_parquet(path: Path, rows: list[tuple[int, int, bytes]]) -> None:
    images = pa.array([{"bytes": content, "path": None} for _, _, content in rows], IMAGE_TYPE)
    labels = pa.array([label for label, _, _ in rows], pa.int64())
    # The second file must be read by row groups.
    compression = "none" if path.stem.endswith("0") else "zstd"
    pq.write_table(pa.table({"image": images, "label": labels}), path, compression=compression, row_group_size=2)


def upload_all(root: Path, uri: str) -> str:
    """Copy every file below a folder to below a URI."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            upload(path, f"{uri}/{path.relative_to(root).as_posix()}")
    return uri


def layouts(root: str) -> dict[str, DataSettings]:
    """Settings of every layout below a path or URI."""
    return {
        "tar": DataSettings(
            source="tar", train=(f"{root}/tar/train-{{000..001}}.tar",), validation=(f"{root}/tar/val*",)
        ),
        "parquet": DataSettings(source="parquet", train=(f"{root}/train-*",), validation=(f"{root}/**/val-?.parquet",)),
        "imagenet": DataSettings(source="imagenet", root=root, ground_truth=f"{root}/LOC_val_solution.csv"),
        "folders": DataSettings(source="folders", folders=(f"{root}/train",)),
    }

"""A run whose pictures and weights lie in an object store makes what the same run on a disk makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from tests.end_to_end.folder_runs import CLASSES, PRESET, save_weights
from tests.end_to_end.small_digits import activations, command
from tests.workflows.data.made_files import encoded, noise
from tests.workflows.data.made_layouts import upload_all, write_tar

IMAGES = 30
"""Of a class."""


def write_inputs(root: Path) -> None:
    """Tar files in which the classes are mixed, so that every shard of a run reads from all of them."""
    for split, files, first in (("train", 3, 0), ("val", 2, 1000)):
        members: list[dict[str, bytes]] = [{} for _ in range(files)]
        for number in range(IMAGES):
            for label, name in enumerate(CLASSES):
                key, own = f"{number:03d}-{name}", members[number % files]
                own |= {f"{key}.png": encoded(noise(32, 32, first + 100 * label + number)), f"{key}.cls": name.encode()}
        for part, content in enumerate(members):
            write_tar(root / f"{split}-{part:02d}.tar", content)
    save_file(save_weights(root / "w.pt"), root / "w.safetensors")


def run_extract(root: Path, place: str) -> int:
    preset = root.with_suffix(".toml")
    source = f'source = "tar"\ntrain = "{place}/train-{{00..02}}.tar"\nvalidation = "{place}/val-*.tar"'
    text = PRESET.format(images="", weights=f"{place}/w.safetensors").replace('folders = [""]\n', "")
    preset.write_text(text.replace('source = "folders"', source))
    return command(["run", str(preset), "--out", str(root), "--until", "extract", "--set", "runtime.actors=2"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_from_a_store_equals_one_from_a_disk(tmp_path: Path, bucket: str, local_ray: object) -> None:
    write_inputs(tmp_path / "inputs")
    uri = upload_all(tmp_path / "inputs", f"{bucket}/run")
    one, two = tmp_path / "disk", tmp_path / "store"
    assert run_extract(one, str(tmp_path / "inputs")) == 0
    assert run_extract(two, uri) == 0
    tables = [
        pq.read_table(root / "images.parquet").drop_columns(["path", "file_modified", "file_etag"])
        for root in (one, two)
    ]
    assert tables[0].equals(tables[1])
    assert set(tables[1]["status"].to_pylist()) == {"ok"}
    assert len(tables[1]) == 2 * IMAGES * len(CLASSES)
    expected, found = activations(one), activations(two)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[layer], found[layer]) for layer in expected)

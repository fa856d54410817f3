"""Pictures and activations that only the network's pass over the data can find wanting."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.end_to_end.folder_runs import CLASSES, FolderRun, save_weights, write_folder_run
from tests.end_to_end.killing import ledger
from tests.end_to_end.small_digits import SCOPE, activations, command, stored_maps
from tests.workflows.data.made_files import encoded, noise
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

pytestmark = pytest.mark.usefixtures("local_ray")
ONE_ACTOR = ("runtime.actors=1",)


def images_of(root: Path) -> list[dict[str, Any]]:
    return read_table(root / "images.parquet").to_pylist()


def kinds_of_pictures() -> dict[str, tuple[bytes, bytes]]:
    """By kind: a picture, and the RGB picture that it must be converted to."""
    gray = noise(32, 32, seed=70)[:, :, 0]
    as_rgb = encoded(np.repeat(gray[:, :, None], 3, axis=2))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    palette = Image.fromarray(noise(32, 32, seed=71)).quantize(60)
    cyan = Image.fromarray(noise(32, 32, seed=72)).convert("CMYK")
    stored = encoded(cyan, "JPEG")
    read_back = Image.open(io.BytesIO(stored)).convert("RGB")
    return {
        "grayscale": (encoded(Image.fromarray(gray)), as_rgb),
        "sixteen": (encoded(deep), as_rgb),
        "palette": (encoded(palette), encoded(palette.convert("RGB"))),
        "cmyk": (stored, encoded(read_back)),
    }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, local_ray: object) -> tuple[FolderRun, dict[int, str], str]:
    """A run with every kind of picture, one broken training and one broken validation image, and a silent class."""
    run = write_folder_run(tmp_path_factory.mktemp("mixed"), images_a_class=72)
    for kind, (picture, twin) in kinds_of_pictures().items():
        (run.images / "cat" / f"kind-{kind}.{'jpg' if kind == 'cmyk' else 'png'}").write_bytes(picture)
        (run.images / "cat" / f"twin-{kind}.png").write_bytes(twin)
    silence(run, "dog")
    assert command(run.arguments()) == 0
    images = images_of(run.out)
    chosen = [next(row for row in images[30:] if row["split"] == split) for split in ("train", "validation")]
    Path(chosen[0]["path"]).write_bytes(Path(chosen[0]["path"]).read_bytes()[:700])
    Path(chosen[1]["path"]).write_bytes(b"not a picture at all")
    shutil.rmtree(run.out)  # a picture that changes behind the index is refused
    broken = {chosen[0]["image"]: "broken or truncated", chosen[1]["image"]: "not a picture in a known format"}
    with pytest.MonkeyPatch.context() as patch:
        told = io.StringIO()
        patch.setattr("sys.stdout", told)
        assert command(run.arguments(ONE_ACTOR, until="mine")) == 0
    return run, broken, " ".join(told.getvalue().split())


def silence(run: FolderRun, name: str) -> None:
    """Weights with which no picture is predicted as this class."""
    state = save_weights(run.weights)
    state["linear.bias"][CLASSES.index(name)] = -1e4
    torch.save(state, run.weights)


@pytest.mark.slow
def test_broken_pictures_are_skipped_and_listed(mixed: tuple[FolderRun, dict[int, str], str]) -> None:
    run, broken, told = mixed
    images = images_of(run.out)
    assert len(images) == 3 * 72 + 8
    for row in images:
        if row["image"] in broken:
            assert row["status"] == "broken"
            assert broken[row["image"]] in row["reason"]
            assert row["predicted"] is row["predicted_name"] is row["probability"] is None
        else:
            assert (row["status"], row["reason"]) == ("ok", None)
            assert row["predicted_name"] in ("cat", "fox")
    assert "warning 2 broken images were skipped; images.parquet says which and why" in told


@pytest.mark.slow
def test_broken_pictures_take_no_part(mixed: tuple[FolderRun, dict[int, str], str]) -> None:
    run, broken, _ = mixed
    folder = RunFolder.open(run.out)
    for (_, field), maps in stored_maps(run.out).items():
        if field == "word":
            assert (maps[list(broken)] == -1).all()
            assert (np.delete(maps, list(broken), axis=0) >= 0).all()
    validation = [row for row in images_of(run.out) if row["split"] == "validation" and row["status"] == "ok"]
    counts = read_pair_counts(folder.cooccurrence(SCOPE, "layer3.0.add", "output"))
    assert int(counts.count.sum()) == 16 * len(validation)
    words = read_table(run.out / "words.parquet", filters=[("layer", "=", "layer3.0.add")])
    training = [row for row in images_of(run.out) if row["split"] == "train" and row["status"] == "ok"]
    assert sum(words["columns"].to_pylist()) == 16 * len(training)
    assert not set(broken) & set(read_table(run.out / "exemplars.parquet")["image"].to_pylist())


@pytest.mark.slow
def test_every_kind_of_picture_is_converted(mixed: tuple[FolderRun, dict[int, str], str]) -> None:
    run, _, _ = mixed
    number = {Path(row["path"]).stem: row["image"] for row in images_of(run.out)}
    for columns in activations(run.out).values():
        for kind in kinds_of_pictures():
            np.testing.assert_array_equal(columns[number[f"kind-{kind}"]], columns[number[f"twin-{kind}"]], kind)


@pytest.mark.slow
def test_a_class_that_nobody_predicts_has_no_graph(mixed: tuple[FolderRun, dict[int, str], str]) -> None:
    run, _, told = mixed
    predicted = {row["predicted"] for row in images_of(run.out) if row["split"] == "validation"} - {None}
    silent = [name for label, name in enumerate(CLASSES) if label not in predicted]
    assert "dog" in silent
    assert f"warning no validation image is predicted as {', '.join(silent)}: no class graph" in told
    graphs = set(read_table(run.out / "nodes.parquet")["graph"].to_pylist())
    assert graphs == {f"class:{label}" for label in predicted}


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert command(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error ")
    assert "Traceback" not in told
    return told


@pytest.mark.slow
def test_a_class_that_nobody_predicts_stops_before_the_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_folder_run(tmp_path, images_a_class=12)
    silence(run, "dog")
    told = refused(capsys, run.arguments([*ONE_ACTOR, "mine.classes=['dog']"], until="draw"))
    assert "mine.classes: no validation image is predicted as 'dog'" in told
    assert "ask for another class, or add validation images" in told
    assert not (run.out / "mixtures").exists()
    assert ledger(run.out, "fit").fingerprint is None


@pytest.mark.slow
def test_too_many_broken_pictures_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_folder_run(tmp_path)
    for number in range(4):
        (run.images / "fox" / f"image{10 + number}.png").write_bytes(b"lost")
    told = refused(capsys, run.arguments(ONE_ACTOR, until="words"))
    found = re.search(r"(\d+) of 120 images are broken, more than data.max_broken = 0.01 allows", told)
    assert found, told
    assert 2 <= int(found[1]) <= 4
    assert re.search(r"image \d+: not a picture in a known format", told)
    assert "raise data.max_broken" in told
    assert not (run.out / "mixtures").exists()
    # The remedy works in the same folder, and what was extracted is not extracted again.
    assert command(run.arguments([*ONE_ACTOR, "data.max_broken=0.1"], until="extract")) == 0
    assert sum(row["status"] == "broken" for row in images_of(run.out)) == 4


def test_infinite_activations_name_the_layer_and_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_folder_run(tmp_path, images_a_class=12)
    bright = run.images / "fox" / "image7.png"
    for picture in run.images.rglob("*.png"):
        if picture != bright:
            picture.write_bytes(encoded(np.zeros((32, 32, 3), np.uint8)))
    state = save_weights(run.weights)
    state["conv1.weight"].fill_(3e38)  # finite; black pictures pass, any other overflows
    torch.save(state, run.weights)
    fields = [*ONE_ACTOR, "preprocessing.mean=[0,0,0]", "preprocessing.std=[1,1,1]"]
    told = refused(capsys, run.arguments(fields, until="draw"))
    number = next(row["image"] for row in images_of(run.out) if row["path"] == str(bright))
    assert f"layer 'layer2.0.add' has NaN or infinite activations at image {number} ({bright})" in told
    assert "check network.weights and the [preprocessing] section" in told
    assert not (run.out / "mixtures").exists()


def test_activations_beyond_float16_name_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_folder_run(tmp_path, images_a_class=6)
    state = save_weights(run.weights)
    state["layer3.0.bn2.weight"].fill_(1e7)
    torch.save(state, run.weights)
    told = refused(capsys, run.arguments(ONE_ACTOR, until="extract"))
    assert re.search(r"layer 'layer3.0.add' reaches \S+ at image \d+ \(.*\.png\), beyond torch.float16", told)
    assert "set extract.dtype = 'float32'" in told

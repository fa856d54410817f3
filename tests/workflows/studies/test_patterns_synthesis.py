"""Objects as pictures again, on the small digits run: rows, weights and figures; trained once."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.explanatory.synthesis import Decoder, DecoderSettings
from tests.workflows.studies.test_patterns import digit_lines, write_boxes
from workflows.asking.pattern_files import PatternedLayer, PatternFiles
from workflows.asking.study import Asked, open_study
from workflows.errors import SettingsError
from workflows.storage.ledger import Ledger
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.studies.patterns import command, synthesis
from workflows.studies.patterns.command import run_patterns
from workflows.studies.patterns.request import PatternsRequest
from workflows.studies.patterns.subject import Subject

LAYERS = ("layer1.0.conv2:2", "layer2.0.conv2:3", "layer3.0.conv2:2")

pytestmark = pytest.mark.slow  # the whole study, and a training


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped behind the training of the decoder, and asked again."""
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("synthesis") / "run")
    boxes = write_boxes(root, digit_lines(root, 3, 30))
    request = PatternsRequest(
        boxes=boxes, classes=("3",), layers=LAYERS, iterations=2, parents=2, synthesis=True, tops=("anchored", "free")
    )

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def ask() -> None:
        run_patterns(Asked(root, Console(file=io.StringIO(), width=200)), request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "draw_figures", lambda *_: None)  # drawn in test_patterns.py
        patch.setattr(synthesis, "TRAINING", DecoderSettings(steps=150, batch=8))
        with patch.context() as first:
            first.setattr(synthesis, "_draw", stop)
            with pytest.raises(KeyboardInterrupt):
                ask()
        ask()
    return root


def test_the_table_holds_every_source_beside_its_controls(root: Path) -> None:
    rows = read_table(root / "pattern_synthesis.parquet").to_pylist()
    found = {(row["source"], row["top"]): row for row in rows}
    several = [(source, top) for source in ("patterns", "strongest", "random") for top in ("anchored", "free")]
    assert set(found) == {("mean", None), ("whole", None), *several}
    assert found["whole", None]["psnr"] > found["mean", None]["psnr"] + 1
    for row in rows:
        assert row["psnr_low"] < row["psnr"] < row["psnr_high"]
        assert row["layer"] == "layer1.0.conv2", "the lowest"
        assert 2 <= row["objects"] < 12
    for top in ("anchored", "free"):
        kept = found["patterns", top]["responses"]
        assert 0 < kept < found["whole", None]["responses"]
        assert found["random", top]["responses"] == found["strongest", top]["responses"] == kept


def test_the_weights_are_a_plain_state_dict(root: Path) -> None:
    layer = PatternFiles.of(RunFolder.open(root), 3).layers()[0]
    stored = torch.load(root / "patterns" / "synthesis.pt", weights_only=True)
    assert tuple(stored["deviations"].shape) == (layer.units,)
    doublings = (32 // layer.grid.height).bit_length() - 1
    decoder = Decoder(layer.units, doublings)
    decoder.load_state_dict(stored["decoder"])
    shown = decoder.eval()(torch.zeros(1, layer.units, layer.grid.height, layer.grid.width))
    assert tuple(shown.shape) == (1, 3, 32, 32)
    assert bool(torch.isfinite(shown).all())


def test_it_is_trained_once_and_drawn(root: Path) -> None:
    lines = Ledger(root / "patterns" / "ledger.jsonl").path.read_text().splitlines()
    assert sum('"item": "synthesis"' in line for line in lines) == 1
    assert any('"synthesis photos 0"' in line for line in lines)
    for top in ("anchored", "free"):
        for ending in ("png", "svg"):
            assert (root / "figures" / f"patterns-synthesis-{top}-3.{ending}").stat().st_size > 2_000


def test_no_photo_is_learned_from_and_held_out(root: Path) -> None:
    folder = RunFolder.open(root)
    objects, layers = PatternFiles.of(folder, 3).objects().objects, PatternFiles.of(folder, 3).layers()
    console = Console(file=io.StringIO())
    with open_study("patterns", Asked(root, console, anew=True), {}, after="train") as study:
        request = PatternsRequest(boxes=root / "boxes.csv", classes=("3",), synthesis=True)
        pictures = synthesis.Pictures(study, [Subject(study, request, layers, 3, objects)])
        learned, held = pictures.parted(pictures.subjects[0])
        photos = pictures.photos
        assert photos is not None
        assert not (set(objects.images[learned]) | set(photos.objects.images)) & set(objects.images[held])
        assert np.array_equal(np.sort(np.concatenate([learned, held])), np.arange(len(objects)))
        assert len(photos.objects) == study.plan.images - len(np.unique(objects.images[held]))


def test_a_layer_without_patterns_is_refused() -> None:
    grid = PositionGrid.from_field((8, 8), (2, 2), (4, 4), 32)
    layers = [PatternedLayer(name, 4, 2, grid) for name in ("low", "high")]
    assert synthesis.synthesis_layer(layers, "").name == "low"
    assert synthesis.synthesis_layer(layers, "high").name == "high"
    with pytest.raises(SettingsError, match=r"--synthesis-layer: must be a layer .*, got 'top'; name one of low, high"):
        synthesis.synthesis_layer(layers, "top")
    with pytest.raises(SettingsError, match="--synthesis-layer: must come with --synthesis, got 'low' alone"):
        PatternsRequest(boxes=Path("boxes.csv"), classes=("3",), synthesis_layer="low")

"""A run that trains an encoder: it ends after train, leaves weights that load, a decoder and a figure; the preset."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import BuildOnce
from tests.end_to_end.folder_runs import FolderRun, Refused, write_folder_run
from tests.end_to_end.small_digits import command
from workflows.asking.pattern_files import PatternFiles
from workflows.cli.status import stage_statuses
from workflows.networks.architectures import PictureEncoder
from workflows.networks.loading import load_network
from workflows.networks.vae_gan import PictureDecoder
from workflows.plan.run_plan import Plan
from workflows.run import open_run
from workflows.storage.run_folder import RunFolder

pytestmark = pytest.mark.slow

TRAINING = "training={objective='vae_gan',epochs=2,batch=4,learning_rate=1e-3,flip=true,keep_epochs=2"
FIELDS = (
    "network.name=workflows.networks.architectures:PictureEncoder",
    "network.arguments={latent=4,units=[4,6],side=32}",
    "network.layers=['conv1','conv2']",
    "network.weights=train",
    "network.outputs=none",
)


def arguments(run: FolderRun, *fields: str) -> list[str]:
    found = run.arguments([*FIELDS, *fields])
    place = found.index("--until")
    return [*found[:place], *found[place + 2 :]]


def write_boxes(run: FolderRun) -> Path:
    """One object on every cat but the first."""
    lines = [f"cat/{path.name},,4,6,28,30,,,," for path in sorted((run.images / "cat").iterdir())[1:]]
    path = run.root / "boxes.csv"
    path.write_text("\n".join(["image,part,obj_x0,obj_y0,obj_x1,obj_y1,part_x0,part_y0,part_x1,part_y1", *lines]))
    return path


@pytest.fixture(scope="module")
def trained(build_once: BuildOnce) -> FolderRun:
    def build(root: Path) -> None:
        root.mkdir(parents=True)
        run = write_folder_run(root, images_a_class=6)
        assert command(arguments(run, f"{TRAINING},boxes='{write_boxes(run)}'}}")) == 0

    return FolderRun(build_once("autoencoder", build))


def test_the_run_ends_after_train(trained: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    states = {stage.name: stage.state for stage in stage_statuses(trained.out)}
    assert states["index"] == states["train"] == "done"
    assert states["extract"] == "not asked"
    capsys.readouterr()
    assert command(["status", str(trained.out)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "network.outputs = 'none': the run ends after train; extract, fit and words run with --until" in told


def test_encoder_and_decoder_are_what_was_trained(trained: FolderRun) -> None:
    folder = RunFolder.open(trained.out)
    run = open_run(trained.out)
    plan = Plan.read(folder)
    assert plan.weights == str(folder.weights)
    network = load_network(run.settings.network.model_copy(update={"weights": plan.weights}))
    assert isinstance(network, PictureEncoder)
    begun = PictureEncoder(4, (4, 6), 32).state_dict()
    assert network.state_dict().keys() == begun.keys()
    kept = torch.load(folder.checkpoint(2), weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    decoder = PictureDecoder(4, (32, 32)).eval()
    decoder.load_state_dict(torch.load(folder.decoder, weights_only=True))
    assert bool(decoder.made(2, 0).isfinite().all())
    (record,) = folder.ledger("train").items().values()
    assert record["mean_picture_psnr"] > 5
    assert record["validation_psnr"] > 5
    with Image.open(folder.figure("rebuilt", "png")) as figure:
        assert np.asarray(figure.convert("L")).std() > 10


def test_a_decoder_that_was_lost_is_trained_again(trained: FolderRun, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(trained.out, tmp_path / "out")))
    before = folder.decoder.read_bytes()
    folder.decoder.unlink()
    again = arguments(trained, f"{TRAINING},boxes='{trained.root / 'boxes.csv'}'}}")
    again[again.index("--out") + 1] = str(folder.root)
    assert command(again) == 0
    assert folder.decoder.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("preprocessing.crop=28", "sides are divisible by 8 for an autoencoder, got (3, 28, 28)"),
        ("network.arguments={latent=4,units=[4,6],side=30}", "side must be divisible by 4, got 30"),
        ("network.outputs=classes", "network.outputs: must be 'none' with a training.objective of pictures"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, refused: Refused, field: str, words: str) -> None:
    run = write_folder_run(tmp_path, images_a_class=2)
    # Convolutions take pictures of any size, an encoder with a dense layer those of its own.
    vgg = "network.name=workflows.networks.architectures:small_vgg"
    other = (vgg, "network.arguments={}", "network.layers=['conv1_1','conv3_1']") if "crop" in field else ()
    refused(arguments(run, *other, f"{TRAINING}}}", field), words)


def test_boxes_of_no_photo_are_refused(tmp_path: Path, refused: Refused) -> None:
    run = write_folder_run(tmp_path, images_a_class=4)
    boxes = write_boxes(run)
    boxes.write_text(boxes.read_text().replace("cat/", "cow/"))
    refused(arguments(run, f"{TRAINING},boxes='{boxes}'}}"), "lines names a photo of the run")


@pytest.mark.slow
def test_the_preset_finds_patterns(shared_data: Path, tmp_path: Path, local_ray: object) -> None:
    """A short training, then all three layers of its encoder."""
    root, boxes = tmp_path / "run", shared_data / "imagenet_animals" / "parts.csv"
    fields = ("data.max_train=90", "data.max_validation=30", "training.epochs=2")
    chosen = [part for field in fields for part in ("--set", field)]
    assert command(["run", "patterns_vaegan", "--out", str(root), *chosen]) == 0
    layers = "conv1:52,conv2:26,conv3:13"
    request = ["--objects", str(boxes), "--class", "tiger", "--layers", layers, "--iterations", "4"]
    assert command(["patterns", str(root), *request, "--name", "part01=head"]) == 0
    run = open_run(root)
    assert PatternFiles.of(run.folder, run.classes().index("tiger")).root.exists()
    found = run.table("patterns").group_by("layer").aggregate([("pattern", "count")]).to_pylist()
    assert {row["layer"]: row["pattern_count"] for row in found} == {
        "conv1": 32 * 52,
        "conv2": 64 * 26,
        "conv3": 128 * 13,
    }

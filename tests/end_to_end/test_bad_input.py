"""What cannot work is refused through the real command, by its words, before long work, and leaves nothing behind."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import pytest
import torch

from tests.end_to_end.folder_runs import FolderRun, Refused, assert_nothing_was_made, grey_network, save_weights
from tests.end_to_end.killing import PROJECT
from tests.end_to_end.small_digits import command


class Callback:
    """What a careless pickle may hold."""


def test_the_unbroken_preset_is_planned(run: FolderRun) -> None:
    assert command(run.arguments()) == 0
    assert (run.out / "images.parquet").exists()
    assert (run.out / "plan.json").exists()


def test_a_missing_image_folder(run: FolderRun, refused: Refused) -> None:
    shutil.rmtree(run.images)
    refused(run.arguments(), "data.folders", str(run.images), "is not a folder", "one folder per class")
    assert_nothing_was_made(run)


def test_an_image_folder_without_classes(run: FolderRun, refused: Refused) -> None:
    shutil.rmtree(run.images)
    run.images.mkdir()
    (run.images / "stray.png").write_bytes(b"")
    refused(run.arguments(), "data.folders", str(run.images), "holds no class folder")
    assert_nothing_was_made(run)


def test_a_class_folder_without_an_image(run: FolderRun, refused: Refused) -> None:
    (run.images / "gnu").mkdir()
    (run.images / "gnu" / "notes.txt").write_text("none yet")
    refused(run.arguments(), str(run.images / "gnu"), "holds no image", ".jpg", "remove the folder or add images")
    assert_nothing_was_made(run)


def test_a_class_folder_without_a_readable_image(run: FolderRun, refused: Refused) -> None:
    for picture in (run.images / "dog").iterdir():
        picture.write_bytes(picture.read_bytes()[:40])
    told = refused(run.arguments(), str(run.images / "dog"), "holds no readable image", "none of its 6 files")
    assert "image0.png: broken or truncated" in told
    assert_nothing_was_made(run)


def test_a_class_folder_that_is_called_like_no_name(run: FolderRun, refused: Refused) -> None:
    names = run.root / "names.json"
    names.write_text('["cat", "dog", "foxes"]')
    told = refused(run.arguments([f"data.class_names={names}"]), "data.class_names", "but not 'fox' (nearest: foxes")
    assert "2 of 3 class folders are called like a name" in told
    assert_nothing_was_made(run)


def test_what_is_no_image_is_left_out_with_a_word(run: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    (run.images / "cat" / "notes.txt").write_text("not an image")
    assert command(run.arguments()) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "warning data.folders: 1 file was left out: 1 without an image extension (.txt); the first is" in told


def test_parquet_files_that_do_not_exist(run: FolderRun, refused: Refused) -> None:
    fields = [
        "data.source=parquet",
        "data.folders=[]",
        f"data.train=['{run.root}/train-*.parquet']",
        "data.validation=['x.parquet']",
    ]
    refused(run.arguments(fields), "data.train", "train-*.parquet")
    assert_nothing_was_made(run)


def test_a_layer_that_does_not_exist(run: FolderRun, refused: Refused) -> None:
    refused(run.arguments(["network.layers=['add2','ad3']"]), "network.layers", "'ad3'", "add3")
    refused(run.arguments(["network.layers=['layer2.0.conv3','add3']"]), "'layer2.0.conv3'", "layer2.0.conv2")
    assert_nothing_was_made(run)


def test_layers_that_do_not_feed_each_other(run: FolderRun, refused: Refused) -> None:
    words = ("network.layers", "'add3' (layer3.0.add) is not upstream of 'add2' (layer2.0.add)", "lowest first")
    refused(run.arguments(["network.layers=['add3','add2']"]), *words)
    refused(run.arguments(["network.layers=['add2','layer2.0.add']"]), "are the same layer")
    assert_nothing_was_made(run)


def test_weights_that_do_not_fit(run: FolderRun, refused: Refused) -> None:
    state = save_weights(run.weights, n_classes=5)
    words = ("network.weights", str(run.weights), "do not fit", "linear.weight is (5, 64), the network has (3, 64)")
    refused(run.arguments(), *words, "linear.bias")
    del state["conv1.weight"]
    torch.save(state | {"head.weight": torch.zeros(1)}, run.weights)
    refused(run.arguments(), "missing (1): conv1.weight", "unexpected (1): head.weight")
    assert_nothing_was_made(run)


def test_weights_that_are_no_plain_state_dict(run: FolderRun, refused: Refused) -> None:
    run.weights.write_bytes(pickle.dumps(subprocess.run))
    told = refused(run.arguments(), "network.weights", str(run.weights), "not a plain state dict", "foreign code")
    assert "weights_only" not in told, "torch's own words advise to load it all the same"
    torch.save(Callback(), run.weights)
    refused(run.arguments(), "not a plain state dict: the pickle holds tests.end_to_end.test_bad_input.Callback")
    torch.save({"epoch": 3, "state_dict": 5}, run.weights)
    refused(run.arguments(), "network.weights", "not a plain state dict", "torch.save(network.state_dict(), file)")
    run.weights.write_bytes(b"PK\x03\x04 half a file")
    refused(run.arguments(), "network.weights", "cannot be read, it is damaged or no torch file")
    run.weights.unlink()
    refused(run.arguments(), "network.weights", "does not exist")
    assert_nothing_was_made(run)


def test_weights_that_hold_nan(run: FolderRun, refused: Refused) -> None:
    state = save_weights(run.weights)
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, run.weights)
    refused(run.arguments(), "network.weights", "hold NaN or infinity in layer2.0.conv1.weight")
    assert_nothing_was_made(run)


def test_a_network_for_other_classes(run: FolderRun, refused: Refused) -> None:
    save_weights(run.weights, n_classes=5)
    fields = ["network.arguments={n_classes=5}"]
    refused(run.arguments(fields), "the network has 5 outputs, the data 3 classes", "data.class_names")
    assert_nothing_was_made(run)


def test_a_network_of_one_input_channel(run: FolderRun, refused: Refused) -> None:
    torch.save(grey_network().state_dict(), run.weights)
    name = "network.name=tests.end_to_end.folder_runs:grey_network"
    grey = ["preprocessing.channels=1", "preprocessing.mean=0.5", "preprocessing.std=[0.25]"]
    refused(run.arguments([name, grey[0]]), "preprocessing.mean must have 1 number, for grey, came 3")
    assert_nothing_was_made(run)
    assert command(run.arguments([name, *grey])) == 0


def test_more_words_than_columns(run: FolderRun, refused: Refused) -> None:
    # 6 images a class, 2 of them for validation, a tenth of the rest held out: 10 images of 4 x 4 columns.
    words = ("fit.words", "layer 'add3' has 500 words but only 160 training columns", "lower fit.words or index more")
    refused(run.arguments(["fit.words=[5,500]"]), *words)
    assert_nothing_was_made(run)


def test_few_columns_a_word_are_warned_of(run: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run.arguments()) == 0
    told = capsys.readouterr().out
    assert "warning layer 'add3': 6 words on 160 columns of 10 images" in told
    assert "below 100 columns or 2 images a word" in told


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("fit.scopes=class-3", ["fit.scopes", "should be 'joint', 'class' or 'list'", "came: 'class-3'"]),
        ("fit.wrods=3", ["fit.wrods", "no such field", "did you mean words"]),
        ("fitt.words=3", ["fitt", "no such field", "did you mean fit"]),
        ("fit.words=many", ["fit.words", "came: 'many'"]),
        ("fit.minibatch=-5", ["fit.minibatch", "greater than 0", "came: -5"]),
        ("preprocessing.scale=inf", ["preprocessing.scale", "finite", "came: inf"]),
        ("preprocessing.mean=[nan,0.0,0.0]", ["preprocessing.mean.0", "finite"]),
        ("runtime.disk_margin=nan", ["runtime.disk_margin"]),
        ("data.train=[x.parquet]", ["data.train is not read with source = 'folders'", "data.folders"]),
        ("data.root=/tmp", ["data.root is not read with source = 'folders'", "leave it out"]),
        ("mine.classes=[true]", ["mine.classes.0", "valid string"]),
        ("fit.words=[5,6,7]", ["fit.words has 3 numbers for 2 layers"]),
        ("extract.batch=7", ["extract", "images_per_shard (20) must be a multiple of batch"]),
        ("network.weights=train", ["needs a [training] section"]),
        ("seed", ["--set 'seed'", "section.field=value"]),
    ],
)
def test_a_preset_with_a_wrong_field(run: FolderRun, refused: Refused, field: str, words: list[str]) -> None:
    refused(run.arguments([field]), *words)
    assert not run.out.exists()


def test_a_preset_that_cannot_be_read(run: FolderRun, refused: Refused) -> None:
    run.preset.write_text(run.preset.read_text().replace("[fit]", "[fit"))
    refused(run.arguments(), str(run.preset), "not a TOML file", "line")
    run.preset.write_text('name = "nothing else"')
    refused(run.arguments(), "data: is required", "network: is required", "fit: is required")
    run.preset.unlink()
    refused(run.arguments(), str(run.preset), "does not exist")
    refused(["run", "digit", "--out", str(run.out)], "'digit' is neither a file nor a shipped preset", "digits")
    refused([*run.arguments()[:-1], "indx"], "does not exist")
    assert not run.out.exists()


def test_a_stage_that_does_not_exist(run: FolderRun, refused: Refused) -> None:
    refused(run.arguments(until="fits"), "--until 'fits' is no stage", "index, train, extract, fit")
    assert not run.out.exists()


def test_a_folder_that_holds_another_run(run: FolderRun, refused: Refused) -> None:
    assert command(run.arguments()) == 0
    before = {path: path.read_bytes() for path in run.out.rglob("*") if path.is_file()}
    told = refused(run.arguments(["fit.words=[5,7]", "seed=3"]), "holds another run; these settings differ")
    assert "fit.words: the folder has [5, 6], the command [5, 7]" in told
    assert "seed: the folder has 0, the command 3" in told
    assert "give another --out" in told
    assert {path: path.read_bytes() for path in run.out.rglob("*") if path.is_file()} == before
    assert command(run.arguments(["runtime.actors=1"])) == 0, "what changes no result may differ"


def test_a_folder_that_holds_something_else(run: FolderRun, refused: Refused) -> None:
    run.out.mkdir()
    (run.out / "thesis.tex").write_text("precious")
    refused(run.arguments(), str(run.out), "not empty and holds no run", "thesis.tex", "give another --out")
    assert (run.out / "thesis.tex").read_text() == "precious"
    assert [path.name for path in run.out.iterdir()] == ["thesis.tex"]
    refused(["status", str(run.images)], "holds no run")
    refused(["show", str(run.images), "--class", "cat"], "holds no run")


def test_too_little_memory(run: FolderRun, refused: Refused) -> None:
    told = refused(run.arguments(["runtime.memory_gb=0.001"]), "the plan needs", "of memory and 1 MB are allowed by")
    assert "runtime.memory_gb" in told
    assert "extract.images_per_shard" in told
    assert "fit.minibatch" in told
    assert_nothing_was_made(run)


def test_too_little_disk(run: FolderRun, refused: Refused) -> None:
    told = refused(run.arguments(["runtime.disk_margin=1e9"]), "more disk in", "are free", "margin 1e+09")
    assert "activations" in told
    assert "extract.columns_per_image" in told
    assert_nothing_was_made(run)


def test_graphs_of_what_does_not_exist(run: FolderRun, refused: Refused) -> None:
    refused(run.arguments(["mine.classes=['foxx']"]), "mine.classes", "no class 'foxx'", "did you mean fox?")
    refused(run.arguments(["mine.images=['18']"]), "mine.images", "'18' is no image", "ids from 0 to 17")
    assert_nothing_was_made(run)


def test_the_corrected_command_may_use_the_same_folder(run: FolderRun, refused: Refused) -> None:
    refused(run.arguments(["network.layers=['add2','ad3']"]), "'ad3'")
    assert command(run.arguments()) == 0
    assert (run.out / "plan.json").exists()


@pytest.mark.slow  # a process of its own each; cli.test_exits has the codes
def test_the_process_ends_with_two_and_without_a_traceback(run: FolderRun) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "workflows", *run.arguments(["network.layers=['ad3']", "fit.words=5"])],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "error network.layers" in ended.stderr
    assert "add3" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout


def test_a_run_folder_in_an_object_store(run: FolderRun, refused: Refused) -> None:
    refused(["run", str(run.preset), "--out", "s3://bucket/run"], "--out: must be a folder of a file system", "publish")

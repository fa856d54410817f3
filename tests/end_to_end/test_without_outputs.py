"""A network without a classifier: the run ends after index, and says what it can still be asked and what not."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.conftest import BuildOnce
from tests.end_to_end.folder_runs import FolderRun, Refused, assert_nothing_was_made, write_folder_run
from tests.end_to_end.small_digits import command
from workflows.asking.image_parts import ImageShard
from workflows.asking.study import Asked
from workflows.cli.status import stage_statuses
from workflows.errors import SettingsError
from workflows.networks.architectures import small_vgg
from workflows.run import open_run
from workflows.storage.tables import read_table
from workflows.studies.resample.command import run_resample
from workflows.studies.resample.copies import ResampleWorker
from workflows.studies.resample.request import ResampleRequest, asked_layers, resampling

FIELDS = (
    "network.name=workflows.networks.architectures:small_vgg",
    "network.arguments={}",
    "network.layers=['conv1_1','conv3_1']",
    "network.outputs=none",
)
OF_NO_OUTPUT = ("precision", "activation_sum", "random")
TEXT = (
    "network.outputs = 'none': the run ends after index; extract, fit and words run with --until; errors, paths, "
    "count, effects, mine and draw do not apply to a network that decides nothing"
)


def without_outputs(root: Path) -> FolderRun:
    run = write_folder_run(root, images_a_class=6)
    torch.manual_seed(3)
    torch.save(small_vgg().state_dict(), run.weights)
    return run


def arguments(run: FolderRun, fields: Sequence[str] = (), until: str | None = None) -> list[str]:
    command_line = run.arguments([*FIELDS, *fields])
    place = command_line.index("--until")
    if until is None:
        return [*command_line[:place], *command_line[place + 2 :]]
    return [*command_line[: place + 1], until, *command_line[place + 2 :]]


@pytest.fixture
def bare(tmp_path: Path) -> FolderRun:
    return without_outputs(tmp_path)


@pytest.fixture(scope="module")
def indexed(build_once: BuildOnce) -> FolderRun:
    def build(root: Path) -> None:
        root.mkdir(parents=True)
        assert command(arguments(without_outputs(root))) == 0

    return FolderRun(build_once("without-outputs", build))


def asked(run: FolderRun) -> Asked:
    return Asked(run.out, Console(file=io.StringIO(), width=200), images=2)


def test_the_run_ends_after_index(indexed: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments(indexed)) == 0
    assert TEXT in " ".join(capsys.readouterr().out.split())
    run = open_run(indexed.out)
    assert not run.plan.outputs
    assert run.classes() == ("cat", "dog", "fox"), "of the labels"
    images = run.table("images")
    assert images["predicted"].null_count == len(images) == 18
    assert images["label"].null_count == 0
    assert not (indexed.out / "activations").exists()


def test_status_says_which_stages_apply(indexed: FolderRun, capsys: pytest.CaptureFixture[str]) -> None:
    states = {stage.name: stage.state for stage in stage_statuses(indexed.out)}
    assert states == {
        "index": "done",
        **dict.fromkeys(("train", "extract", "fit", "words"), "not asked"),
        **dict.fromkeys(("errors", "paths", "count", "effects", "mine", "draw"), "no outputs"),
    }
    capsys.readouterr()
    assert command(["status", str(indexed.out)]) == 0
    assert TEXT in " ".join(capsys.readouterr().out.split())
    assert command(["status", str(indexed.out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [stage["left"] for stage in told["stages"]] == [0] * 11


def test_what_needs_outputs_says_why(indexed: FolderRun, refused: Refused) -> None:
    out = str(indexed.out)
    refused(["show", out, "--class", "cat"], "show: must be a run with graphs", "whose network decides nothing")
    refused(
        arguments(indexed, until="mine"), "must be of index, train, extract, fit, words", "got 'mine', which explains"
    )
    for command_line, words in (
        (
            ["relevance", out, "--class", "cat"],
            "relevance: must be asked of a network with outputs, got network.outputs =",
        ),
        (["ablate", out, "--class", "cat"], "and it tells what the network decides without some units; name a network"),
        (["boxes", out, "no.csv"], "and it looks at the words of class graphs"),
    ):
        refused(command_line, words)


def test_an_unfinished_run_names_the_option(indexed: FolderRun) -> None:
    from workflows.asking.study import refuse_unfinished
    from workflows.errors import RunFolderError

    with pytest.raises(
        RunFolderError, match="whose stage 'train' is not; give the command of the run again with --until"
    ):
        refuse_unfinished(open_run(indexed.out), "dissect", "words")


def test_units_are_resampled_without_a_logit(indexed: FolderRun) -> None:
    """What one actor does with an image, in this process: noisy copies and the patches of the units they select."""
    run = open_run(indexed.out)
    request = ResampleRequest(metrics=OF_NO_OUTPUT, copies=4, tops=(2,)).checked()
    layers, units = asked_layers(run, request)
    worker = ResampleWorker(run.settings, run.plan, run.folder, resampling(request, layers), run.plan.weights, None)
    found = worker(ImageShard(0, (15, 16)))
    assert set(found["image"].tolist()) == {15, 16}
    assert len(found["unit"]) == 2 * len(layers) * len(OF_NO_OUTPUT) * 2
    assert np.isnan(found["signed"]).all()
    assert found["signed"].shape == (2, sum(units))
    assert not np.isnan(found["score"]).any()


def test_metrics_of_outputs_are_left_out_or_refused(indexed: FolderRun) -> None:
    settings = open_run(indexed.out).settings
    usual = ResampleRequest().of_run(settings).metrics
    assert usual == ("precision", "activation_sum", "activation_variance", "weight_sum", "weight_variance", "random")
    with pytest.raises(
        SettingsError, match=r"--metric: must be of precision, .* got correlation, which reads the logit"
    ):
        ResampleRequest(metrics=("precision", "correlation")).of_run(settings)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            ["fit.loss=discriminative"],
            "fit.loss: must be 'generative' with network.outputs = 'none', got 'discriminative'",
        ),
        (["fit.scopes=['class']"], "fit.scopes: must be ['joint'] with network.outputs = 'none', got ['class'], which"),
        (["network.weights=train", "training.epochs=1"], "which needs outputs; change it, or name a network with a"),
        (["network.outputs=maps"], "network.outputs: Input should be 'classes' or 'none' (came: 'maps')"),
        (
            ["network.outputs=classes"],
            "the network gives (2, 24, 4, 4); wrap it in a module that gives two axes, or set",
        ),
    ],
)
def test_what_contradicts_is_refused(bare: FolderRun, refused: Refused, fields: Sequence[str], words: str) -> None:
    refused(arguments(bare, fields), words)
    assert_nothing_was_made(bare)


def test_images_without_labels_have_neither(bare: FolderRun) -> None:
    assert command(arguments(bare, ["data.labels=none"])) == 0
    run = open_run(bare.out)
    assert run.plan.class_names == ()
    assert run.table("images")["label_name"].null_count == 18


@pytest.mark.slow
def test_words_and_studies_without_outputs(indexed: FolderRun, tmp_path: Path, local_ray: object) -> None:
    more = FolderRun(tmp_path / "run")
    shutil.copytree(indexed.root, more.root)
    found = run_resample(replace(asked(more), root=more.out), ResampleRequest(copies=4, tops=(2,)))
    assert found["study"] == "resample"
    selections = read_table(more.out / "selections.parquet")
    assert set(selections["class_name"].to_pylist()) <= {"cat", "dog", "fox"}
    assert command(arguments(indexed, until="words")) == 0
    run = open_run(indexed.out)
    images = run.table("images")
    assert set(images["status"].to_pylist()) == {"ok"}
    assert images["predicted"].null_count == 18
    assert {path.stem for path in (indexed.out / "words" / "joint").iterdir()} >= {"features.0", "features.6"}
    states = {stage.name: stage.state for stage in stage_statuses(indexed.out)}
    assert [states[name] for name in ("train", "extract", "fit", "words")] == ["done"] * 4
    assert command(["clean", str(indexed.out), "--columns", "--yes"]) == 0

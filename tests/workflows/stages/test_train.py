"""Training of a user's network: what the check of its rewriting decides holds from the first step to the last actor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.end_to_end.folder_runs import write_folder_run
from tests.end_to_end.small_digits import TRAINING, command
from workflows.cli.options import find_preset
from workflows.data.shards import Shard
from workflows.networks.architectures import small_vgg
from workflows.networks.loading import load_network
from workflows.networks.rewriting_choice import EVERY_CHANGE, Rewriting
from workflows.plan.run_plan import Plan
from workflows.settings import load_settings
from workflows.storage.run_folder import RunFolder
from workflows.words.forward import FrozenForward

MODULE = """
import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 16 * 5 * 5))))


class HalfRectified(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 5, 2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.norm(self.conv1(x))
        if torch.is_grad_enabled():
            x = torch.cat([x[:, :4].relu(), x[:, 4:]], 1)
        else:
            x[:, :4].relu_()
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module of the networks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained_here.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("trained_here", None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


@pytest.mark.parametrize(
    ("name", "rewriting"),
    [
        ("trained_here:LeNet", Rewriting(channels_last=False)),
        ("trained_here:HalfRectified", Rewriting("recorded", False, False)),
        ("workflows.networks.architectures:digits_resnet", EVERY_CHANGE),
    ],
)
def test_the_trained_network_is_the_one_that_every_actor_runs(folder: Path, name: str, rewriting: Rewriting) -> None:
    own = name.startswith("trained_here")
    layers = "['conv1','conv2']" if own else "['add1','add2']"
    fields = (f"network.name={name}", "network.arguments={}", f"network.layers={layers}", "fit.words=[8,10]", *TRAINING)
    chosen = [part for field in fields for part in ("--set", field)]
    assert command(["run", "digits", "--out", "run", "--until", "train", *chosen]) == 0
    run = RunFolder.open(folder / "run")
    plan = Plan.read(run)
    assert plan.rewriting == rewriting
    settings = load_settings(find_preset("digits"), fields)
    batch = next(FrozenForward(settings, plan, run)(Shard(0, 0, 100)))
    forward = FrozenForward(settings, plan, run)
    pixels = [picture.pixels for picture in forward.reader.read(_paths(run))]
    images = forward.preprocessor.normalise(forward.preprocessor.stack(pixels)).contiguous()
    plain = load_network(settings.network.model_copy(update={"weights": plan.weights}))
    with torch.no_grad():
        expected = plain(images)
    torch.testing.assert_close(batch.logits, expected, rtol=1e-5, atol=1e-5)
    (record,) = run.ledger("train").items().values()
    assert record["validation_accuracy"] > 0.4


def _paths(run: RunFolder) -> list[str]:
    from workflows.storage.images_table import read_image_rows

    return read_image_rows(run.images_table, 0, 100, ["path"])["path"].to_pylist()


def test_weights_of_some_epochs_stay(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fields = ("training.keep_epochs=2", "training.epochs=4", *(one for one in TRAINING if "epochs" not in one))
    chosen = [part for field in fields for part in ("--set", field)]
    assert command(["run", "digits", "--out", str(root), "--until", "train", *chosen]) == 0
    kept = sorted((root / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["epoch-0001.pt", "epoch-0002.pt", "epoch-0004.pt"]
    first, last, final = (torch.load(path, weights_only=True) for path in (kept[0], kept[-1], root / "weights.pt"))
    assert not torch.equal(first["conv1.weight"], last["conv1.weight"])
    assert all(torch.equal(value, final[name]) for name, value in last.items())


def test_a_head_is_trained_on_given_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four folders make two outputs; the frozen part is that of the start, bit for bit."""
    run = write_folder_run(tmp_path, images_a_class=6)
    torch.manual_seed(1)
    start = small_vgg().state_dict()
    torch.save(start, run.weights)
    fields = [
        "network.name=workflows.networks.architectures:small_vgg",
        "network.arguments={n_classes=2}",
        "network.layers=['conv1_1','conv3_1']",
        "network.weights=train",
        "data.labels=[{name='pet',folders=['cat','dog']},{name='wild',rest=true}]",
        f"training={{start='{run.weights}',trains='head',epochs=2,batch=4,keep_epochs=1}}",
    ]
    assert command(run.arguments(fields, until="train")) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "6 of 8 parameters are those of" in told
    assert "classifier.weight, classifier.bias begin at random, and the head alone is trained" in told
    folder = RunFolder.open(run.out)
    assert Plan.read(folder).class_names == ("pet", "wild")
    trained = torch.load(folder.weights, weights_only=True)
    assert all(torch.equal(trained[key], value) for key, value in start.items())
    first = torch.load(folder.checkpoint(1), weights_only=True)
    assert first.keys() == trained.keys()
    assert not torch.equal(first["classifier.weight"], trained["classifier.weight"])

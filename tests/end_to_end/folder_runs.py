"""Runs on image folders that the tests write: three classes, a small network with given weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.workflows.data.made_files import write_folders
from workflows.networks.architectures import digits_resnet

Refused = Callable[..., str]
"""The fixture ``refused`` of ``conftest``: gives a command, and demands an error of these words."""

CLASSES = ("cat", "dog", "fox")
PRESET = """
name = "folders"

[data]
source = "folders"
folders = ["{images}"]

[preprocessing]
resize = 32
crop = 32

[network]
name = "workflows.networks.architectures:digits_resnet"
arguments = {{ n_classes = 3 }}
weights = "{weights}"
layers = ["add2", "add3"]

[extract]
images_per_shard = 20
images_per_chunk = 20
batch = 20

[fit]
words = [5, 6]
minibatch = 1000
epochs = 1
warmup = 1

[mine]
images = []
"""


@dataclass(frozen=True)
class FolderRun:
    """A preset on folders that work; tests break one thing at a time."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def weights(self) -> Path:
        return self.root / "weights.pt"

    @property
    def preset(self) -> Path:
        return self.root / "folders.toml"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def arguments(self, fields: Sequence[str] = (), until: str = "index") -> list[str]:
        chosen = [part for field in fields for part in ("--set", field)]
        return ["run", str(self.preset), "--out", str(self.out), "--until", until, *chosen]


def write_folder_run(root: Path, images_a_class: int = 40) -> FolderRun:
    """Pictures, weights and preset."""
    run = FolderRun(root)
    write_folders(run.images, dict.fromkeys(CLASSES, images_a_class), side=32)
    save_weights(run.weights)
    run.preset.write_text(PRESET.format(images=run.images, weights=run.weights))
    return run


def save_weights(path: Path, n_classes: int = len(CLASSES)) -> dict[str, torch.Tensor]:
    """Weights of a network that was never trained; all classes are predicted for some picture."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = digits_resnet(n_classes).state_dict()
    torch.save(state, path)
    return state


def assert_nothing_was_made(run: FolderRun) -> None:
    left = {path.name for path in run.out.iterdir()} if run.out.exists() else set()
    assert left <= {".lock"}


def grey_network(n_classes: int = 3) -> torch.nn.Module:
    """A network of one input channel, which is given as grey pictures are."""
    network = digits_resnet(n_classes=n_classes)
    network.conv1 = torch.nn.Conv2d(1, network.conv1.out_channels, 3, padding=1, bias=False)
    return network

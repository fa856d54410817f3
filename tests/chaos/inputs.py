"""What a chaos run stands on: handwritten digits as picture files, five of them broken, and three presets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 480
"""The first of scikit-learn's digits."""
SHARD = 20
SIDE = 32
BROKEN = ("empty", "text", "cut", "cut", "text")
DATA = """
name = "chaos"

[data]
source = "folders"
folders = ["{pictures}"]
validation_fraction = 0.25
max_broken = 0.02

[preprocessing]
resize = 32
crop = 32
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[training]
epochs = 3
batch = 16

[extract]
columns_per_image = "all"
images_per_shard = 20
images_per_chunk = 20
batch = 20

[draw]
figures = ["class:3"]

[runtime]
retry_wait_s = 1.0
hang_floor_s = 10.0
hung_after_s = 20.0
"""
RESNET = """
[network]
name = "tests.chaos.networks:poisoned_resnet"
arguments = { n_classes = 10 }
weights = "train"
layers = ["add2", "add3"]

[mine]
classes = ["all"]
images = ["misclassified"]

[fit]
words = [25, 30]
minibatch = 2000
epochs = 3
warmup = 2
checkpoint_steps = 10
"""
PRESETS = {
    "mixture": DATA + RESNET + 'loss = "generative"\n',
    "discriminative": DATA
    + RESNET
    + 'loss = "discriminative"\nscopes = ["joint"]\n\n[discriminative]\nepochs = 6\npatience = 6\n',
    "chain": DATA
    + """
[network]
name = "workflows.networks.architectures:mlp"
arguments = { units = [64, 48, 32], n_classes = 10 }
weights = "train"
layers = ["dense"]
tap = "post"

[fit]
words = [5, 6, 7]
epochs = 8
checkpoint_steps = 10

[hmm]
restarts = 3

[mine]
classes = ["all"]
images = []
positive_only = true
""",
}


@dataclass(frozen=True)
class Inputs:
    """Where they lie, and what is wrong with them."""

    root: Path
    broken: frozenset[str]
    """Paths of the broken pictures."""
    poison: str
    """Path of the picture that kills its process while the file ``poison_file`` is there."""

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def poison_file(self) -> Path:
        return self.root / "poison"

    def preset(self, name: str) -> Path:
        return self.root / f"{name}.toml"


def write_inputs(root: Path, rng: np.random.Generator) -> Inputs:
    """A folder a class; which pictures are broken, and which is poison, is drawn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    paths = []
    for number in range(IMAGES):
        grey = np.asarray(digits.images[number] * 255 / 16, np.uint8)
        path = root / "pictures" / str(digits.target[number]) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB").save(path)
        paths.append(path)
    poison, *broken = rng.choice(IMAGES, 1 + len(BROKEN), replace=False).tolist()
    with Image.open(paths[poison]) as picture:
        picture.putpixel((0, 0), (255, 255, 255))
        picture.save(paths[poison])
    for number, kind in zip(broken, BROKEN, strict=True):
        whole = paths[number].read_bytes()
        paths[number].write_bytes({"empty": b"", "text": b"no picture", "cut": whole[: len(whole) // 2]}[kind])
    inputs = Inputs(root, frozenset(os.fspath(paths[number]) for number in broken), os.fspath(paths[poison]))
    for name, preset in PRESETS.items():
        inputs.preset(name).write_text(preset.replace("{pictures}", str(inputs.pictures)))
    return inputs

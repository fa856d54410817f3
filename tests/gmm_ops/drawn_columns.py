"""Columns for the mixture's tests: clustered random ones, real handwritten digits, real CIFAR columns."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import initial_mixture


def clustered(n: int, units: int, clusters: int, seed: int = 0) -> Tensor:
    """(n, units) float32 around ``clusters`` random centres, spreads of 0.3 to 1."""
    source = torch.Generator().manual_seed(seed)
    centres = 3.0 * torch.randn(clusters, units, generator=source)
    spread = 0.3 + 0.7 * torch.rand(clusters, units, generator=source)
    which = torch.randint(clusters, (n,), generator=source)
    return centres[which] + spread[which] * torch.randn(n, units, generator=source)


def digit_patches() -> Tensor:
    """(28752, 16) float32: sixteen 4x4 patches of each of scikit-learn's 1,797 real digits. Ink comes in whole
    numbers; a seeded dither of one level keeps words over plain paper from having no variance at all."""
    images = torch.from_numpy(load_digits().images).float()[:, None]
    patches = functional.unfold(images, 4).permute(0, 2, 1)[:, :16].reshape(-1, 16)
    return patches + torch.rand(patches.shape, generator=torch.Generator().manual_seed(0))


def cifar_columns(shared_data: Path, images: int, stage: int) -> Tensor:
    """Real ResNet-20 columns before the ReLU of the last add of ``stage`` (1: D 16, 2: D 32, 3: D 64)."""
    x, _ = cifar_images(shared_data, "test", images)
    weights = torch.load(shared_data / "weights" / "resnet20_cifar10.pt", weights_only=True)
    maps = resnet20_adds(x, weights)[3 * stage - 1]
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).contiguous()


def cifar_images(shared_data: Path, split: str, images: int) -> tuple[Tensor, Tensor]:
    """The first CIFAR-10 images of ``train`` or ``test`` as the ResNet-20 takes them, (N, 3, 32, 32), and labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    files = sorted((shared_data / "cifar10").glob(f"{split}-*.parquet"))
    table = pa.concat_tables([pq.read_table(file, columns=["image", "label"]) for file in files]).slice(0, images)
    raw = [row["bytes"] for row in table["image"].to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in raw])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return x, torch.tensor(table["label"].to_pylist())


@torch.no_grad()
def resnet20_adds(x: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """The nine add outputs of the CIFAR ResNet-20 (option-A shortcuts), before their ReLU."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        y = functional.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(y, *(weights[f"{norm}.{name}"] for name in names))

    adds = []
    x = functional.relu(conv_norm(x, "conv1", "bn1"))
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = functional.relu(conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride))
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                pad = x.shape[1] // 2
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
            adds.append(x + y)
            x = functional.relu(adds[-1])
    return adds


def warm_mixture(columns: Tensor, words: int, seed: int = 0, floor: float = 1e-4) -> Mixture:
    """A mixture two EM steps from its random start, so that words differ in share and spread."""
    from gmm_ops.mixtures.em import fit_batch_em

    mixture = initial_mixture(columns, words, seed)
    return fit_batch_em(mixture, columns, 2, floor * float(columns.var(dim=0).mean()))[0]


def log_joints(mixture: Mixture, columns: Tensor) -> Tensor:
    """(n, K) float64 log joint of every column and word: by distances, word by word."""
    x = columns.double()
    every = []
    for share, mean, variance in zip(mixture.log_pi, mixture.mean, mixture.variance, strict=True):
        every.append(share - 0.5 * ((x - mean) ** 2 / variance + (2.0 * torch.pi * variance).log()).sum(dim=1))
    return torch.stack(every, dim=1)

"""The digits network trains to over 97 % in seconds, the same every time; ResNet-20 is as good as its weights."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workflows.errors import NetworkError
from workflows.networks.loading import build_network, load_network
from workflows.networks.taps import TappedNetwork
from workflows.networks.training import accuracy, train_classifier
from workflows.settings import NetworkSettings, TrainingSettings

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def digits_network(seed: int = 0) -> nn.Module:
    name = "workflows.networks.architectures:digits_resnet"
    return build_network(NetworkSettings(name=name, weights="train", layers=("add1",)), seed)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    pictures = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    large = F.interpolate(pictures, size=(32, 32), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    order = torch.randperm(len(large), generator=torch.Generator().manual_seed(0))
    return ((large - MEAN) / STD)[order], torch.tensor(raw.target)[order]


def test_digits_are_learned(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    network, calls = digits_network(), []
    untrained = accuracy(network, images[:400], labels[:400])
    trained = train_classifier(
        network, images[400:], labels[400:], TrainingSettings(), 0, lambda *call: calls.append(call)
    )
    assert trained is network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert untrained < 0.3
    assert accuracy(network, images[:400], labels[:400]) > 0.97
    assert [call[:2] for call in calls] == [(epoch, 8) for epoch in range(1, 9)]
    assert calls[-1][2] < 0.1 < calls[0][2]
    tapped = TappedNetwork(network, ["add1", "add2", "add3"])
    torch.testing.assert_close(tapped(images[:50])[0], network(images[:50]), rtol=0, atol=1e-4)


def test_the_seed_settles_the_result(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:200], digits[1][:200]
    brief = TrainingSettings(epochs=1, batch=50)
    first, second, other = (
        train_classifier(digits_network(), images, labels, brief, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


def test_labels_that_the_network_cannot_give(digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(NetworkError, match=r"labels run from \d to 12, the network gives \(10,\) outputs"):
        train_classifier(digits_network(), digits[0][:64], torch.arange(64) % 13, TrainingSettings(), 0)


def test_images_and_labels_of_different_number(digits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(NetworkError, match="a label for each of at least 2 images: 10 and 9 came"):
        train_classifier(digits_network(), digits[0][:10], digits[1][:9], TrainingSettings(), 0)


def test_a_diverging_training_stops(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:128] * 1e30, digits[1][:128]
    with pytest.raises(NetworkError, match=r"no longer finite; lower training\.learning_rate"):
        train_classifier(digits_network(), images, labels, TrainingSettings(learning_rate=1e20), 0)


def test_accuracy_counts_every_image_once() -> None:
    class Parity(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.one_hot(images[:, 0, 0, 0].long() % 2, 2).float()

    images = torch.arange(7.0).view(7, 1, 1, 1)
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 1])
    assert accuracy(Parity(), images, labels, batch=3) == 5 / 7
    with pytest.raises(NetworkError, match="at least one image"):
        accuracy(Parity(), images[:0], labels[:0])


def test_resnet20_is_right_on_915_of_1000_test_images(shared_data: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    files = sorted((shared_data / "cifar10").glob("test-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    pictures = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    images = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    labels = torch.tensor([row["label"] for row in rows])
    weights = str(shared_data / "weights" / "resnet20_cifar10.pt")
    name = "workflows.networks.architectures:resnet20_cifar"
    network = load_network(NetworkSettings(name=name, weights=weights, layers=("add2",)))
    assert len(rows) == 1000
    assert accuracy(network, images, labels) == 0.915
    logits, _ = TappedNetwork(network, ["add2", "add8"])(images[:200])
    torch.testing.assert_close(logits, network(images[:200]), rtol=0, atol=1e-4)

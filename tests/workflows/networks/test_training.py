"""The digits network trains to over 97 % in seconds, the same every time; ResNet-20 is as good as its weights."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
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


@pytest.mark.slow
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


def dense_network(dropout: float = 0.0) -> nn.Module:
    name, arguments = "workflows.networks.architectures:mlp", {"units": [64, 32], "dropout": dropout}
    return build_network(NetworkSettings(name=name, weights="train", layers=("dense",), arguments=arguments))


def test_dense_layers_learn_digits(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    network = train_classifier(dense_network(), images[400:], labels[400:], TrainingSettings(epochs=5), 0)
    assert accuracy(network, images[:400], labels[:400]) > 0.93


def test_the_seed_settles_mirroring_shifts_and_dropout(
    digits: tuple[Tensor, Tensor],
) -> None:
    images, labels = digits[0][:200], digits[1][:200]
    every = TrainingSettings(epochs=2, batch=50, flip=True, shift=2, label_smoothing=0.1)

    def trained(seed: int, drawn_before: int, dropout: float = 0.3) -> dict[str, Tensor]:
        torch.manual_seed(drawn_before)
        return train_classifier(dense_network(dropout), images, labels, every, seed).state_dict()

    first, second, other, without = trained(1, 5), trained(1, 6), trained(2, 5), trained(1, 5, dropout=0.0)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["logits.weight"], other["logits.weight"])
    assert not torch.equal(first["logits.weight"], without["logits.weight"])


@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 0.05}, {"flip": True}, {"shift": 1}, {"label_smoothing": 0.1}],
    ids=lambda c: next(iter(c)),
)
def test_every_training_setting_has_an_effect(digits: tuple[Tensor, Tensor], change: dict[str, float]) -> None:
    images, labels = digits[0][:100], digits[1][:100]
    plain, changed = (
        train_classifier(dense_network(), images, labels, TrainingSettings(epochs=1, **given), 0).state_dict()
        for given in ({}, change)
    )
    assert not torch.equal(plain["logits.weight"], changed["logits.weight"])


class _Watching(nn.Module):
    """Keeps the images that it is trained on; its logits say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return self.bias.expand(len(images), 2)


def _shown(settings: TrainingSettings, images: Tensor) -> Tensor:
    watching = _Watching()
    train_classifier(watching, images, torch.zeros(len(images), dtype=torch.long), settings, 0)
    return torch.cat(watching.seen)


def test_half_of_the_images_are_mirrored_anew_in_every_epoch() -> None:
    ids = torch.arange(100.0)
    images = torch.zeros((100, 3, 4, 6))
    images[:, :, :, 0] = 1 + ids[:, None, None]
    seen = _shown(TrainingSettings(epochs=4, batch=20, flip=True), images)
    left, right = seen[:, 0, 0, 0], seen[:, 0, 0, -1]
    assert torch.equal(torch.minimum(left, right), torch.zeros(400))
    mirrored = [
        right[e * 100 : (e + 1) * 100][torch.argsort((left + right)[e * 100 : (e + 1) * 100])] > 0 for e in range(4)
    ]
    assert all(30 <= int(epoch.sum()) <= 70 for epoch in mirrored)
    assert not torch.equal(mirrored[0], mirrored[1])
    assert torch.equal(torch.sort((left + right)[:100]).values, 1 + ids), "every image once an epoch"


def test_shifts_cover_every_offset_and_mirror_what_they_uncover() -> None:
    image = torch.arange(8.0 * 8).view(8, 8)
    images = image.expand(300, 3, 8, 8).contiguous()
    seen = _shown(TrainingSettings(epochs=1, batch=100, shift=2), images)
    wide = np.pad(image.numpy(), 2, mode="reflect")
    offsets = set()
    for picture in seen:
        assert torch.equal(picture[0], picture[1])
        assert torch.equal(picture[0], picture[2])
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(wide[top : top + 8, left : left + 8], picture[0].numpy())
        ]
        assert len(found) == 1
        offsets.update(found)
    assert len(offsets) == 25


def test_a_shift_as_large_as_the_image_is_refused() -> None:
    images = torch.zeros((4, 3, 6, 8))
    with pytest.raises(NetworkError, match=r"training\.shift must be below the 6 pixels of an image: 6 came; lower"):
        train_classifier(_Watching(), images, torch.zeros(4, dtype=torch.long), TrainingSettings(shift=6), 0)


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

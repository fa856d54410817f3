"""What training begins from: all that a state dict has of a network, its head at random, and the head cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workflows.errors import NetworkError, SettingsError
from workflows.networks.architectures import digits_resnet, small_vgg
from workflows.networks.loading import build_network
from workflows.networks.starting import StartedNetwork, cut_head, started_network
from workflows.networks.training import train_classifier
from workflows.settings import NetworkSettings, TrainingSettings

HERE = "workflows.networks.architectures"


def settings_of(name: str = "small_vgg", **arguments: object) -> NetworkSettings:
    return NetworkSettings(name=f"{HERE}:{name}", arguments=arguments, weights="train", layers=("add1",))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[nn.Module | dict[str, Tensor]], str]:
    def save(given: nn.Module | dict[str, Tensor]) -> str:
        path = tmp_path / "start.pt"
        torch.save(given.state_dict() if isinstance(given, nn.Module) else given, path)
        return str(path)

    return save


def started(start: str, settings: NetworkSettings, trains: str = "all") -> StartedNetwork:
    return started_network(settings, TrainingSettings(start=start, trains=trains), 0)  # type: ignore[arg-type]


Saved = Callable[[nn.Module | dict[str, Tensor]], str]


def test_without_a_start_all_is_random() -> None:
    found = started_network(settings_of(n_classes=3), TrainingSettings(), 7)
    expected = build_network(settings_of(n_classes=3), 7).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.network.state_dict().items())
    assert (found.head, found.told) == ((), "")


def test_convolutions_get_a_head_at_random(saved: Saved) -> None:
    given = small_vgg().half()
    found = started(saved(given), settings_of(n_classes=3), "head")
    state, at_random = found.network.state_dict(), build_network(settings_of(n_classes=3), 0).state_dict()
    assert all(torch.equal(state[key], value.float()) for key, value in given.state_dict().items())
    assert found.head == ("classifier.weight", "classifier.bias")
    assert all(torch.equal(state[key], at_random[key]) for key in found.head)
    assert "6 of 8 parameters are those of" in found.told
    assert found.told.endswith("classifier.weight, classifier.bias begin at random, and the head alone is trained")


def test_a_head_of_other_classes_is_not_taken(saved: Saved) -> None:
    found = started(saved(digits_resnet(n_classes=7)), settings_of("digits_resnet", n_classes=3))
    assert found.head == ("linear.weight", "linear.bias")
    assert "linear.weight, linear.bias begin at random; 2 of its tensors are not used" in found.told


def test_a_whole_start_leaves_nothing_to_a_head(saved: Saved) -> None:
    start = saved(small_vgg(n_classes=3))
    assert started(start, settings_of(n_classes=3)).head == ()
    with pytest.raises(SettingsError, match=r"must have parameters that training.start does not give, got none, for '"):
        started(start, settings_of(n_classes=3), "head")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("without the first", r"lacking \(2\): features.0.weight, features.0.bias; give weights of this network"),
        ("wider below", r"lacking \(3\): features.0.weight is \(9, 3, 3, 3\), the network has \(8, 3, 3, 3\)"),
        (
            "with more inside",
            r"unexpected \(1\): features.1.weight; give weights of this network, or change network.name",
        ),
    ],
)
def test_weights_of_another_network_are_refused(saved: Saved, given: str, words: str) -> None:
    state = small_vgg((9, 16, 24) if given == "wider below" else (8, 16, 24)).state_dict()
    if given == "without the first":
        state = {key: value for key, value in state.items() if "features.0" not in key}
    if given == "with more inside":
        state = {"features.0.weight": state["features.0.weight"], "features.1.weight": torch.ones(8), **state}
    with pytest.raises(NetworkError, match=r"training.start .* but its last ones, the head, got keys " + words):
        started(saved(state), settings_of(n_classes=3))


def test_nothing_of_the_network_and_no_numbers(saved: Saved) -> None:
    with pytest.raises(NetworkError, match=r"lacking \(8\): features.0.weight, .* and 2 more; give weights"):
        started(saved(digits_resnet()), settings_of(n_classes=3))
    broken = small_vgg().state_dict()
    broken["features.3.bias"][0] = torch.nan
    with pytest.raises(NetworkError, match=r"training.start '.*' hold NaN or infinity in features.3.bias; use other"):
        started(saved(broken), settings_of(n_classes=3))
    with pytest.raises(NetworkError, match=r"training.start 'absent.pt' does not exist; give the file of a state dict"):
        started("absent.pt", settings_of(n_classes=3))


def test_the_head_trains_as_it_would_in_the_network(saved: Saved) -> None:
    """Slow twin: the whole network with everything but its head frozen."""
    start = saved(small_vgg())
    found, twin = (started(start, settings_of(n_classes=3), "head").network for _ in range(2))
    images = torch.randn((24, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(24) % 3
    how = TrainingSettings(epochs=3, batch=8, learning_rate=0.1)
    cut = cut_head(found, ("classifier.weight", "classifier.bias"))
    features = cut.features(images, batch=7)
    assert features.shape == (24, 24)
    torch.testing.assert_close(cut.head(features), found(images))
    frozen = {key: value.clone() for key, value in found.state_dict().items() if key.startswith("features")}
    train_classifier(cut.head, features, labels, how, 0)

    class HeadAlone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = twin.classifier

        def forward(self, images: Tensor) -> Tensor:
            return self.classifier(twin.features(images).mean((2, 3)))

    train_classifier(HeadAlone(), images, labels, how, 0, channels_last=False)
    torch.testing.assert_close(found.classifier.weight, twin.classifier.weight, rtol=1e-4, atol=1e-6)
    assert not torch.equal(found.classifier.weight, started(start, settings_of(n_classes=3)).network.classifier.weight)
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in frozen.items())


class TwoWays(nn.Module):
    """A head that reads two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        low = self.low(images)
        high = self.high(low)
        weights = self.head.weight
        return low.mean((2, 3)) @ weights[:, :4].t() + high.mean((2, 3)) @ weights[:, 4:].t()


class Early(nn.Module):
    """Parameters that are not of the head behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.head = nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.head(images.mean((2, 3))))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return self.head(means if means.sum() > 0 else -means)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (TwoWays(), "must have a head that reads one layer for training.trains = 'head', got one that reads 2; set"),
        (Early(), "must have a head without the parameters that training.start gives .* got last.bias, last.weight"),
        (Branching(), r"must be traceable for training.trains = 'head' .* set training.trains = 'all'"),
    ],
)
def test_heads_that_cannot_be_cut(network: nn.Module, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        cut_head(network.eval(), ("head.weight", "head.bias"))

"""A user's own network by import path: from the current folder, and what its module may do wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from workflows.errors import NetworkError
from workflows.networks.loading import build_network, load_network
from workflows.networks.taps import resolve_layers
from workflows.settings import NetworkSettings

NETWORK = """
from torch import nn


class Own(nn.Module):
    def __init__(self, n_classes=10):
        super().__init__()
        self.below = nn.Conv2d(3, 8, 3, padding=1)
        self.above = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, n_classes)

    def forward(self, images):
        return self.head((self.above(self.below(images).relu()).relu()).mean((2, 3)))


def network(**arguments):
    return Own(**arguments)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, of which a console script knows nothing; what is imported here is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".")])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def own(name: str, weights: str = "train", **arguments: object) -> NetworkSettings:
    return NetworkSettings(name=name, arguments=arguments, weights=weights, layers=("below",))


def test_a_module_in_the_current_folder(folder: Path) -> None:
    (folder / "own_network.py").write_text(NETWORK)
    built = build_network(own("own_network:network", n_classes=4), seed=3)
    assert built.head.out_features == 4
    torch.save(built.state_dict(), "weights.pt")
    loaded = load_network(own("own_network:Own", weights="weights.pt", n_classes=4))
    assert torch.equal(loaded.above.weight, built.above.weight)
    assert [layer.name for layer in resolve_layers(loaded, ["below", "above"], "post")] == ["relu", "relu_1"]
    with pytest.raises(NetworkError, match=r"no layer 'abov'; the nearest are above"):
        resolve_layers(loaded, ["abov"], "pre")


def test_a_module_of_a_package_in_the_current_folder(folder: Path) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package" / "models.py").write_text(NETWORK)
    assert build_network(own("own_package.models:network")).head.out_features == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def network(:", r"module 'own_broken' cannot be imported \(SyntaxError: "),
        ("import no_such_thing", r"cannot be imported \(ModuleNotFoundError: No module named 'no_such_thing'\)"),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError: .*\); start the command in its folder, put the folder on"),
        ("def network(): return 3", "must give a torch.nn.Module, gave a int"),
        ("def netwrok(): pass", r"own_broken has no callable 'network'; the nearest are netwrok"),
        ("def network(): raise KeyError('units')", r"could not be built with network\.arguments {}: KeyError: 'units'"),
    ],
)
def test_modules_that_do_not_work(folder: Path, text: str, words: str) -> None:
    (folder / "own_broken.py").write_text(text)
    with pytest.raises(NetworkError, match=words):
        build_network(own("own_broken:network"))

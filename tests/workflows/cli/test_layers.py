"""``inference-graphs layers``: a line a layer for names and presets, and what is refused."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from workflows.cli.layers import print_layers
from workflows.cli.options import find_preset
from workflows.errors import NetworkError, SettingsError
from workflows.settings import Settings, load_settings


def printed(asked: str | Settings, size: int | None = None) -> list[str]:
    text = StringIO()
    print_layers(asked, size, Console(file=text, width=40))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_a_network_by_name() -> None:
    told = printed("torchvision:squeezenet1_1")
    assert told[0] == "features.0 Conv2d 64 x 111 x 111"
    assert "features.12.cat cat 512 x 13 x 13" in told
    assert told[-1] == "units x height x width for images of 224 x 224 pixels"


def test_a_preset_needs_no_weights_and_its_layers_are_listed() -> None:
    settings = load_settings(find_preset("cifar10_resnet20"))
    told = printed(settings, 32)
    assert "layer3.0.add add 64 x 8 x 8 add7" in told
    aliases = {alias for line in told for alias in line.split()}
    assert set(settings.network.layers) <= aliases
    squeezenet = load_settings(find_preset("imagenet_squeezenet"))
    told = printed(squeezenet)
    assert told[-1].endswith("images of 227 x 227 pixels")
    assert set(squeezenet.network.layers) <= {line.split()[0] for line in told}


def test_a_preset_of_grey_images_lists_a_network_of_one_channel() -> None:
    grey = ["preprocessing.channels=1", "preprocessing.mean=[0.5]", "preprocessing.std=[0.25]"]
    settings = load_settings(find_preset("digits_mlp"), [*grey, "network.arguments.inputs=[1,8,8]"])
    told = printed(settings, 8)
    assert sum("Linear" in line for line in told) >= 3
    with pytest.raises(NetworkError, match=r"channels, height, width\) \(1, 224, 224\)"):
        printed(load_settings(find_preset("imagenet_resnet50"), grey))


def test_sizes_that_are_not_known_or_not_possible() -> None:
    with pytest.raises(SettingsError, match=r"the preset has no preprocessing\.crop, .* give it in pixels with --size"):
        printed(load_settings(find_preset("cifar10_resnet20")))
    with pytest.raises(NetworkError, match=r"cannot take images of \(channels, height, width\) \(3, 4, 4\)"):
        printed("torchvision:squeezenet1_1", 4)
    with pytest.raises(NetworkError, match=r"torchvision has no classifier 'resnet'; the nearest are"):
        printed("torchvision:resnet")

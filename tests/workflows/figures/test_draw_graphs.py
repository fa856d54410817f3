"""Where the dots of image graphs lie: the middles of receptive fields, whole ones too."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gmm_ops.graphs.windows import AxisWindow
from workflows.figures.draw_graphs import position_centres
from workflows.networks.compiled_ops import torchvision
from workflows.networks.receptive_fields import trace_window
from workflows.networks.taps import TappedNetwork

SIDE = 224
SQUEEZED = ("features.2.block.2.0", "features.4.block.3.0", "features.8.block.3.0", "features.12.0")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """MobileNetV3: behind its first squeeze-and-excitation block every position sees the whole image."""
    return torchvision.models.mobilenet_v3_small().eval()


def without_excitation(network: nn.Module) -> nn.Module:
    """The same convolutions, so the same places, without the branches that pool the whole map."""
    plain = copy.deepcopy(network)
    for block in list(plain.modules()):
        for name, child in block.named_children():
            if isinstance(child, torchvision.ops.SqueezeExcitation):
                setattr(block, name, nn.Identity())
    return plain


@pytest.mark.parametrize("layer", SQUEEZED)
def test_behind_squeeze_and_excitation_positions_stay_in_place(network: nn.Module, layer: str) -> None:
    with torch.inference_mode():
        maps = TappedNetwork(network, [layer])(torch.zeros(1, 3, SIDE, SIDE))[1]
    positions = maps[layer].shape[2]
    assert positions in (28, 14, 7)
    windows = [trace_window(one, None, layer, (3, SIDE, SIDE)).rows for one in (network, without_excitation(network))]
    assert [window.is_whole for window in windows] == [True, False]
    found, true = (position_centres(window, positions, SIDE) for window in windows)
    stride = SIDE / positions
    np.testing.assert_allclose(np.diff(found), stride)
    assert np.abs(found - true).max() < stride / 2


def test_a_single_position_lies_in_the_middle() -> None:
    assert position_centres(AxisWindow.whole(), 1, 33).tolist() == [16.5]


def test_centres_of_fields_over_the_edge_stay_a_stride_apart() -> None:
    assert position_centres(AxisWindow(16, -46, 60), 4, 56).tolist() == [0, 0, 16, 32]

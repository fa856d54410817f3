"""A network that kills its process at one picture, for as long as a file is there: a poison shard."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from workflows.networks.architectures import digits_resnet

POISON = "CHAOS_POISON"
"""Names the file; set for the hosts alone, so neither the driver nor the undisturbed run is poisoned."""
PAUSE = "CHAOS_PAUSE_S"
"""Seconds that a forward pass takes longer on the hosts, so that there is a middle to disturb."""
MARK = 0.9
"""The first pixel of the poison picture is brighter, after normalising, and that of no other."""


@fx.wrap  # one operation of the traced network, which changes nothing
def poisoned(images: Tensor) -> Tensor:
    """The images again."""
    time.sleep(float(os.environ.get(PAUSE, "0")))
    if torch.any(images[:, 0, 0, 0] > MARK) and Path(os.environ.get(POISON, "/nowhere")).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return images


class PoisonedResNet(nn.Module):
    """The small network for digits behind that operation."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.body = digits_resnet(n_classes=n_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(poisoned(images))


def poisoned_resnet(n_classes: int = 10) -> nn.Module:
    """As ``network.name`` names it."""
    return PoisonedResNet(n_classes)

"""Trains a small network in memory, before the run freezes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workflows.errors import NetworkError
from workflows.settings import TrainingSettings

Progress = Callable[[int, int, float], None]
"""Called after every epoch with the epoch from 1, the number of epochs and the epoch's mean loss (nats)."""

_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4


def train_classifier(
    network: nn.Module,
    images: Float[Tensor, "N 3 H W"],
    labels: Int[Tensor, " N"],
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
) -> nn.Module:
    """Train a network in place: cross entropy, Nesterov momentum, a one-cycle learning rate.

    The order of the images depends on ``seed`` alone, so equal parameters, images and threads give equal results.

    Args:
        network: the network with its start parameters (``build_network`` seeds them).
        images: normalised images.
        labels: class of every image.
        settings: epochs, batch, peak of the learning rate.
        seed: of the order of the images.
        progress: called after every epoch.

    Returns:
        The same network, in evaluation mode and without gradients of its parameters.

    Raises:
        NetworkError: the labels do not fit the network's outputs, or the loss is no longer finite.
    """
    if len(images) != len(labels) or len(images) < 2:
        raise NetworkError(
            f"training needs a label for each of at least 2 images: {len(images)} and {len(labels)} came"
        )
    batch = min(settings.batch, len(images))
    steps = len(images) // batch
    images = images.contiguous(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train().requires_grad_(True)
    optimizer, schedule = _optimizer(network, settings, settings.epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        # The incomplete last batch is left out: batch normalisation suffers from a batch of one image.
        order = torch.randperm(len(images), generator=generator)[: steps * batch].view(steps, batch)
        total = sum(_step(network, images[rows], labels[rows], optimizer, schedule) for rows in order)
        if progress is not None:
            progress(epoch + 1, settings.epochs, total / steps)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(
    network: nn.Module, images: Float[Tensor, "N 3 H W"], labels: Int[Tensor, " N"], batch: int = 100
) -> float:
    """Share of images that a network in evaluation mode predicts as labelled (ties: lowest class)."""
    if not len(images):
        raise NetworkError("accuracy needs at least one image: 0 came")
    training = network.training
    network.eval()
    right = sum(
        int((network(images[first : first + batch]).argmax(dim=1) == labels[first : first + batch]).sum())
        for first in range(0, len(images), batch)
    )
    network.train(training)
    return right / len(images)


def _optimizer(
    network: nn.Module, settings: TrainingSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    peak = settings.learning_rate
    optimizer = torch.optim.SGD(network.parameters(), peak, _MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True)
    # A one-cycle schedule of a single step divides by zero.
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=max(steps, 2))


def _step(
    network: nn.Module,
    images: Float[Tensor, "n 3 H W"],
    labels: Int[Tensor, " n"],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    logits = network(images)
    if logits.ndim != 2 or int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise NetworkError(
            f"training: the labels run from {int(labels.min())} to {int(labels.max())}, the network gives "
            f"{tuple(logits.shape[1:])} outputs; set the number of classes in network.arguments"
        )
    loss = F.cross_entropy(logits, labels)
    if not bool(loss.isfinite()):
        raise NetworkError("training: the loss is no longer finite; lower training.learning_rate")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return float(loss.detach())

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


def train_classifier(
    network: nn.Module,
    images: Float[Tensor, "N ..."],
    labels: Int[Tensor, " N"],
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
    channels_last: bool = True,
    keep: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train a network in place: cross entropy, Nesterov momentum, a one-cycle learning rate.

    The order, mirroring and shifts of the images and the units that dropout leaves out depend on ``seed`` alone, so
    equal parameters, images and threads give equal results.

    Args:
        network: the network with its start parameters (``build_network`` seeds them).
        images: normalised images (N, C, H, W), or, of a head alone, what it reads of them.
        labels: class of every image.
        settings: epochs, batch, learning rate and what keeps the network from learning single images by heart.
        seed: of all that is drawn.
        progress: called after every epoch.
        channels_last: lay activations out channels-last, which is faster; see ``Rewriting``.
        keep: called with the epoch from 1 and the network after every epoch of which ``settings`` keep the weights.

    Returns:
        The same network, in evaluation mode and without gradients of its parameters.

    Raises:
        NetworkError: the labels do not fit the network's outputs, the loss is no longer finite, or
            ``training.shift`` moves images away.
    """
    if len(images) != len(labels) or len(images) < 2:
        raise NetworkError(
            f"training needs a label for each of at least 2 images: {len(images)} and {len(labels)} came"
        )
    if settings.shift >= min(images.shape[-2:]):
        raise NetworkError(
            f"training.shift must be below the {min(images.shape[-2:])} pixels of an image: {settings.shift} came; "
            "lower training.shift"
        )
    layout = torch.channels_last if channels_last and images.ndim == 4 else torch.contiguous_format
    images = images.contiguous(memory_format=layout)
    network.to(memory_format=layout)  # type: ignore[call-overload]
    network.train().requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from torch's own generator
        _run_epochs(network, images, labels, settings, torch.Generator().manual_seed(seed), progress, keep)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(
    network: nn.Module, images: Float[Tensor, "N 3 H W"], labels: Int[Tensor, " N"], batch: int = 100
) -> float:
    """Share of images that a network in evaluation mode predicts as labelled (ties: lowest class).

    The images come in the memory format that the network can take.
    """
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


def _run_epochs(
    network: nn.Module,
    images: Float[Tensor, "N ..."],
    labels: Int[Tensor, " N"],
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Progress | None,
    keep: Callable[[int, nn.Module], None] | None,
) -> None:
    batch = min(settings.batch, len(images))
    steps = len(images) // batch
    optimizer, schedule = _optimizer(network, settings, settings.epochs * steps)
    for epoch in range(settings.epochs):
        # The incomplete last batch is left out: batch normalisation suffers from a batch of one image.
        order = torch.randperm(len(images), generator=generator)[: steps * batch].view(steps, batch)
        total = 0.0
        for rows in order:
            seen = varied(images[rows], settings, generator)
            total += _step(network, seen, labels[rows], settings.label_smoothing, optimizer, schedule)
        if progress is not None:
            progress(epoch + 1, settings.epochs, total / steps)
        if keep is not None and settings.keeps(epoch + 1):
            keep(epoch + 1, network)


def varied(
    images: Float[Tensor, "n ..."], settings: TrainingSettings, generator: torch.Generator
) -> Float[Tensor, "n ..."]:
    """The images, mirrored and shifted as the settings say; what a shift uncovers shows the rest of it mirrored."""
    if not (settings.flip or settings.shift):
        return images
    n, _, height, width = images.shape
    if settings.flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if not settings.shift:
        return images
    wide = F.pad(images, (settings.shift,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * settings.shift + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    shifted = wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (n, H, W, 3)
    return shifted.permute(0, 3, 1, 2)


def _optimizer(
    network: nn.Module, settings: TrainingSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    peak = settings.learning_rate
    optimizer = torch.optim.SGD(
        network.parameters(), peak, _MOMENTUM, weight_decay=settings.weight_decay, nesterov=True
    )
    # A one-cycle schedule of a single step divides by zero.
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=max(steps, 2))


def _step(
    network: nn.Module,
    images: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    smoothing: float,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    logits = network(images)
    if logits.ndim != 2 or int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise NetworkError(
            f"training: the labels run from {int(labels.min())} to {int(labels.max())}, the network gives "
            f"{tuple(logits.shape[1:])} outputs; set the number of classes in network.arguments"
        )
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if not bool(loss.isfinite()):
        raise NetworkError("training: the loss is no longer finite; lower training.learning_rate")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return float(loss.detach())

"""Pictures from responses: an up-convolutional decoder that also learns from a few responses alone.

Source: EG, section "experiments" (Fig. 7), where the decoder is Dosovitskiy and Brox, *Inverting visual representations
with convolutional networks* (CVPR 2016). Theirs has only ever seen whole maps; this one learns from maps of which a
random share is kept, so that what a handful of patterns holds is within what it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gmm_ops.errors import Diverged, RefusedInput
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.responses import PositionGrid

_LEAST_SHARE = 0.005
"""Of the positive responses that a masked map keeps; the share is drawn evenly in its logarithm, up to all."""

_WHOLE = 1 / 3
"""Of the maps of a minibatch that stay whole."""


class Decoder(nn.Sequential):
    """Responses (b, D, H, W) to pictures (b, 3, h, w), 0 to 1 but for what they overshoot.

    Args:
        units: D.
        doublings: up-convolutions: h = H * 2 ** doublings.
        widths: channels behind the mixing of units and behind each up-convolution; the last is repeated.
    """

    def __init__(self, units: int, doublings: int, widths: Sequence[int] = (128, 48, 32)) -> None:
        layers: list[nn.Module] = [nn.Conv2d(units, widths[0], 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
        below = widths[0]
        for level in range(1, doublings + 1):
            width = widths[min(level, len(widths) - 1)]
            layers += [nn.ConvTranspose2d(below, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            below = width
        super().__init__(*layers, nn.Conv2d(below, 3, 3, padding=1))


class Examples(Protocol):
    """Pairs of a map and the picture that it comes from, read when they are asked for."""

    def __len__(self) -> int:
        """How many."""

    def __call__(self, rows: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b D H W"], Float[Tensor, "b 3 h w"]]:
        """F of some, and their pictures, 0 to 1."""


@dataclass(frozen=True)
class DecoderSettings:
    """How a decoder is trained.

    Attributes:
        steps: of Adam.
        batch: pictures of a step.
        rate: highest step size; it rises and falls once.
    """

    steps: int = 600
    batch: int = 16
    rate: float = 4e-3


def kept_at_random(
    responses: Float[Tensor, "b D H W"], shares: Float[Tensor, " b"], generator: torch.Generator
) -> Float[Tensor, "b D H W"]:
    """Responses of which each stays with a probability of its map, and is 0 else."""
    drawn = torch.rand(responses.shape, generator=generator)
    return torch.where(drawn < shares[:, None, None, None], responses, 0.0)


def kept_at_patterns(
    responses: Float[Tensor, "n D H W"], grid: PositionGrid, found: PatternPlaces, valid: Bool[Tensor, "n V"]
) -> Float[Tensor, "n D H W"]:
    """Responses at the places of valid patterns, 0 elsewhere (EG Fig. 7); pattern n of unit d is number d N + n.

    Raises:
        RefusedInput: places of another number of objects, or patterns that do not divide among the units.
    """
    objects, units, height, width = responses.shape
    if found.scores.shape[0] != objects or found.scores.shape[1] % units:
        raise RefusedInput(
            f"found: must be of {objects} objects and of as many patterns for each of {units} units, got "
            f"{tuple(found.scores.shape)}; give the places of the same layer and objects"
        )
    object_, pattern = torch.nonzero(valid, as_tuple=True)
    at = found.places[object_, pattern].double()
    first, stride = torch.tensor(grid.first, dtype=torch.float64), torch.tensor(grid.stride, dtype=torch.float64)
    row, column = ((at - first) / stride).round().long().unbind(dim=1)
    kept = torch.zeros(responses.shape, dtype=torch.bool)
    unit = pattern // (found.scores.shape[1] // units)
    kept[object_, unit, row.clamp(0, height - 1), column.clamp(0, width - 1)] = True
    return torch.where(kept, responses, 0.0)


def kept_as_many(
    responses: Float[Tensor, "n D H W"], like: Float[Tensor, "n D H W"], order: Float[Tensor, "n D H W"]
) -> Float[Tensor, "n D H W"]:
    """As many positive responses of every map as ``like`` has, those of highest ``order``: what patterns are beside."""
    ranked = torch.where(responses > 0, order, -torch.inf).flatten(1)
    places = ranked.argsort(dim=1, descending=True, stable=True)
    few = torch.arange(ranked.shape[1]) < (like > 0).flatten(1).sum(dim=1)[:, None]
    kept = torch.zeros(ranked.shape, dtype=torch.bool).scatter_(1, places, few)
    return torch.where(kept.reshape(responses.shape), responses, 0.0)


def train_decoder(
    examples: Examples,
    settings: DecoderSettings,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> Decoder:
    """Learn pictures from maps, most of them masked at random; mean squared error, Adam, a one-cycle rate.

    Args:
        examples: that it learns from.
        settings: how.
        seed: of the start, the order and the masks; equal threads give equal results.
        progress: called after a step with its number and loss.

    Returns:
        The decoder, in evaluation mode and without gradients of its parameters.

    Raises:
        RefusedInput: no example, or pictures that are no doublings of their maps.
        Diverged: the loss is no longer finite.
    """
    if not len(examples):
        raise RefusedInput("examples: must be at least 1, got none; give maps with their pictures")
    draw = torch.Generator().manual_seed(seed)
    decoder = _started(examples, seed)
    optimizer = torch.optim.Adam(decoder.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=max(settings.steps, 2))
    for step in range(settings.steps):
        maps, pictures = examples(torch.randint(len(examples), (settings.batch,), generator=draw))
        shares = _LEAST_SHARE ** torch.rand(len(maps), generator=draw)
        shares[torch.rand(len(maps), generator=draw) < _WHOLE] = 1.0
        loss = F.mse_loss(decoder(kept_at_random(maps, shares, draw)), pictures)
        if not bool(loss.isfinite()):
            raise Diverged(f"the loss of the decoder is no longer finite; lower rate {settings.rate}", step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, float(loss.detach()))
    return decoder.eval().requires_grad_(False)


def _started(examples: Examples, seed: int) -> Decoder:
    maps, pictures = examples(torch.zeros(1, dtype=torch.long))
    doublings = (pictures.shape[-1] // maps.shape[-1]).bit_length() - 1
    if any(small << doublings != large for small, large in zip(maps.shape[2:], pictures.shape[2:], strict=True)):
        raise RefusedInput(
            f"examples: must have pictures 1, 2, 4, ... times as large as their maps, got {tuple(pictures.shape[2:])} "
            f"for {tuple(maps.shape[2:])}; resize them"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Decoder(maps.shape[1], doublings)


def signal_to_noise(shown: Float[Tensor, "n 3 h w"], pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """PSNR of every picture in decibels, for values from 0 to 1: -10 log10 of the mean squared error, float64."""
    error = (shown.double().clamp(0, 1) - pictures.double()).square().flatten(1).mean(dim=1)
    return -10 * error.clamp(min=1e-12).log10()

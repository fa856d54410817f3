"""Pictures from responses: an up-convolutional decoder that also learns from a few responses alone.

Source: EG, section "experiments" (Fig. 7), where the decoder is Dosovitskiy and Brox, *Inverting visual representations
with convolutional networks* (CVPR 2016). Theirs has only ever seen whole maps; half of those that this one learns from
keep a random share, so that what a handful of patterns holds is within what it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
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

_WHOLE = 0.5
"""Of the maps of a minibatch that stay whole."""

_TILT = 3.0
"""Highest power of a response that its chance to be kept goes with; drawn evenly from 0, where all are kept alike."""

_LEAST_WIDTH = 16
"""Channels behind an up-convolution."""


class _Logarithm(nn.Module):
    def forward(self, responses: Tensor) -> Tensor:
        return responses.log1p()


class Decoder(nn.Sequential):
    """Responses F (b, D, H, W) to pictures (b, 3, h, w), 0 to 1 but for what they overshoot.

    log(1 + F), units mixed, 3x3 convolutions that fill in what a sparse map lacks, and up-convolutions (3x3, each
    position then paints a square of 2x2) of half the channels of the one before.

    Args:
        units: D.
        doublings: h = H * 2 ** doublings.
        width: channels.
        convolutions: 3x3 before the first doubling.
    """

    def __init__(self, units: int, doublings: int, width: int = 64, convolutions: int = 2) -> None:
        layers: list[nn.Module] = [_Logarithm()]
        for below, side in [(units, 1), *[(width, 3)] * convolutions]:
            plain = nn.Conv2d(below, width, side, padding=side // 2, bias=False)
            layers += [plain, nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(doublings - 1):
            below, width = width, max(width // 2, _LEAST_WIDTH)
            painted = nn.Conv2d(below, 4 * width, 3, padding=1, bias=False)
            layers += [painted, nn.PixelShuffle(2), nn.BatchNorm2d(width), nn.ReLU()]
        side = min(2, 2**doublings)
        super().__init__(*layers, nn.Conv2d(width, 3 * side**2, 3, padding=1), nn.PixelShuffle(side))


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


def keeping_chances(
    responses: Float[Tensor, "b D H W"], shares: Float[Tensor, " b"], tilts: Float[Tensor, " b"]
) -> Float[Tensor, "b D H W"]:
    """With which chance each response is kept: 1 - (1 - share) ** (F**tilt / mean of F**tilt over the positive ones).

    Args:
        responses: F.
        shares: of the positive responses of a map, 0 to 1: at tilt 0 the chance of each, else fewer are kept.
        tilts: 0: all alike; the higher, the more it is the strongest, as patterns sit on strong ones.
    """
    shares, tilts = shares[:, None, None, None], tilts[:, None, None, None]
    positive = responses > 0
    highest = responses.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(responses.dtype).tiny)
    powers = torch.where(positive, (responses / highest) ** tilts, 0.0)
    mean = powers.sum(dim=(1, 2, 3), keepdim=True) / positive.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    chances = 1 - (1 - shares) ** (powers / mean.clamp(min=torch.finfo(mean.dtype).tiny))
    return torch.where(positive & (shares == 1), 1.0, chances)


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
    """Learn pictures from maps, half of them masked at random; mean squared error, Adam, a one-cycle rate.

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
        loss = F.mse_loss(decoder(_masked(maps, draw)), pictures)
        if not bool(loss.isfinite()):
            raise Diverged(f"the loss of the decoder is no longer finite; lower rate {settings.rate}", step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, float(loss.detach()))
    return decoder.eval().requires_grad_(False)


def _masked(maps: Tensor, draw: torch.Generator) -> Tensor:
    shares, whole, tilts = torch.rand(3, len(maps), generator=draw)
    shares = torch.where(whole < _WHOLE, 1.0, _LEAST_SHARE**shares)
    chances = keeping_chances(maps, shares, _TILT * tilts)
    return torch.where(torch.rand(maps.shape, generator=draw) < chances, maps, 0.0)


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

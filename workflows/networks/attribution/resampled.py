"""Noisy copies of one image through a network, and the direction in which its output rises fastest within the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.units.resampling import ResponseSums
from workflows.networks.attribution.deconvnet import ResponseNetwork

Prepare = Callable[[Tensor], Tensor]
"""Pixels (n, H, W, 3), 0..255, to the network's input (n, C, H, W)."""


def noisy_copies(
    pixels: Float[Tensor, "H W 3"], copies: int, sigma: float, batch: int, generator: torch.Generator, grey: bool
) -> Iterator[Float[Tensor, "n H W 3"]]:
    """Batches of the image times 1 + N(0, sigma), for every pixel and channel alike.

    What is drawn depends on the generator, ``copies`` and ``batch`` alone: it is drawn on the processor.

    Args:
        pixels: 0..255, before normalisation.
        copies: n.
        sigma: standard deviation, a share of the pixel.
        batch: copies at a time, about; never a single one, whose output could not be permuted.
        generator: of the noise.
        grey: the three channels are one.
    """
    pieces = max(1, min(-(-copies // batch), copies // 2))
    for piece in range(pieces):
        n = copies * (piece + 1) // pieces - copies * piece // pieces
        noise = torch.randn((n, *pixels.shape[:2], 1 if grey else 3), generator=generator)
        yield pixels * (1 + sigma * noise)


def response_sums(
    network: ResponseNetwork,
    batches: Iterator[Tensor],
    prepare: Prepare,
    output: int | None,
    origin: dict[str, ResponseSums],
) -> dict[str, ResponseSums]:
    """Sums over all copies, by layer; a batch of them is in memory.

    Args:
        network: what they go through.
        batches: of ``noisy_copies``.
        prepare: makes input of them.
        output: whose logit they are held against; None: the network has none, and 0 stands for it.
        origin: sums without a copy, see ``without_copies``.
    """
    sums = origin
    for batch in batches:
        with torch.inference_mode():
            logits, maps = network(prepare(batch))
        outputs = logits.new_zeros(len(logits)) if output is None else logits[:, output]
        sums = {name: one.with_copies(maps[name], outputs) for name, one in sums.items()}
    return sums


@torch.inference_mode()
def without_copies(
    network: ResponseNetwork, image: Float[Tensor, "1 C H W"], output: int | None
) -> dict[str, ResponseSums]:
    """The image's own responses, about which sums are taken, by layer; output: as of ``response_sums``."""
    logits, maps = network(image)
    logit = 0.0 if output is None else float(logits[0, output])
    return {name: ResponseSums.zero(one[0], logit) for name, one in maps.items()}


def steepest_responses(
    network: ResponseNetwork, image: Float[Tensor, "1 C H W"], spread: Float[Tensor, "1 C H W"], output: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Responses at x + d and x - d by layer, d = s^2 x^2 g / |s x g|: one standard deviation along the output's rise.

    Args:
        network: whose gradients are its own.
        image: x.
        spread: s x, the standard deviation of the noise in the network's input.
        output: whose logit has the gradient g.
    """
    with torch.enable_grad():
        x = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x)[0][0, output], x)
    norm = (spread * gradient).norm()
    step = spread.square() * gradient / norm if norm > 0 else torch.zeros_like(gradient)
    with torch.inference_mode():
        _, maps = network(torch.cat([image + step, image - step]))
    return {name: (one[0], one[1]) for name, one in maps.items()}

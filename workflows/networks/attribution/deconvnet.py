"""Deconvnet: which pixels a unit responds to, by the adjoint of the network with rectified signals.

Source: Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks* (ECCV 2014). The signal of one unit at
its strongest position goes back to the pixels: through convolutions by their transposes, with batch normalisations
folded into them; through rectifiers as clamp(g, 0); through max pooling by its switches, where overlapping windows add;
down every branch of a join.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workflows.errors import NetworkError
from workflows.networks.attribution.response_layers import ResponseLayer, is_rectifier
from workflows.networks.copying import own_copy
from workflows.networks.rewriting import Taps, disable_inplace, fuse_batch_norms
from workflows.networks.rewriting_choice import EVERY_CHANGE, Rewriting
from workflows.networks.taps import network_result
from workflows.networks.tracing import NetworkGraph, trace_network

PATCH_SHARE = 0.1
"""A patch is the bounding box of what is above this share of the reconstruction's maximum."""

_TOGETHER = 8
"""Units that go down in one pass backwards."""

_LOGITS = "logits of the network"  # no layer can be called so


class ResponseNetwork(nn.Module):
    """A frozen copy of a network that also gives the responses of some layers' units.

    Args:
        network: left as it is.
        layers: see ``response_layers``.
        rewriting: what may be changed in the copy.
        rectified: gradients are those of the deconvnet, not the network's own.
        outputs: see ``network_result``.

    Raises:
        NetworkError: its operations cannot be traced or changed, or it has no such layer.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[ResponseLayer],
        rewriting: Rewriting = EVERY_CHANGE,
        rectified: bool = False,
        outputs: bool = True,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        graph = trace_network(own_copy(network).eval().requires_grad_(False))
        if graph.opaque or rewriting.operations != "rewritten":
            raise NetworkError(
                "network: must be one whose every operation can be traced and changed, for signals to go back through "
                "it; write its forward pass without branches on values, and without writing into parts of a tensor"
            )
        self.layers = tuple(layers)
        self.channels_last = rewriting.channels_last
        taps = {layer.name: graph.node(layer.tap) for layer in self.layers} | {_LOGITS: graph.result}
        disable_inplace(graph)
        if rewriting.fused:
            fuse_batch_norms(graph, taps)
        if rectified:
            _rectify(graph, taps)
        end = next(node for node in reversed(graph.module.graph.nodes) if node.op == "output")
        end.args = ((taps[_LOGITS], tuple(taps[layer.name] for layer in self.layers)),)
        graph.module.graph.lint()
        graph.module.recompile()
        self.body = graph.module.eval()
        if self.channels_last:
            self.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, images: Float[Tensor, "N C H W"]
    ) -> tuple[Float[Tensor, "N M"], dict[str, Float[Tensor, "N D H_l W_l"]]]:
        """Logits, and responses by layer; a dense layer has H = W = 1.

        Raises:
            NetworkError: a layer gives no maps.
        """
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        result, found = self.body(images.contiguous(memory_format=layout))
        logits = network_result(result, self.outputs)
        return logits, {layer.name: _maps(layer, one) for layer, one in zip(self.layers, found, strict=True)}


@dataclass(frozen=True)
class Patch:
    """What a unit sees in an image.

    Attributes:
        unit: of its layer.
        y, x: its strongest position.
        activation: its response there.
        box: x0, y0, x1, y1 in pixels of the network's input, x1 and y1 exclusive; None where the unit is nowhere
            positive, or nothing of its signal reaches the pixels.
    """

    unit: int
    y: int
    x: int
    activation: float
    box: tuple[int, int, int, int] | None


class Deconvnet:
    """Reconstructions of units, and the patches of an image that they see.

    Args:
        network, layers, rewriting, outputs: as of ``ResponseNetwork``.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[ResponseLayer],
        rewriting: Rewriting = EVERY_CHANGE,
        outputs: bool = True,
    ) -> None:
        self.network = ResponseNetwork(network, layers, rewriting, rectified=True, outputs=outputs)

    def to(self, device: torch.device) -> Deconvnet:
        """Itself, its network on another device."""
        self.network.to(device)
        return self

    def patches(
        self, image: Float[Tensor, "C H W"], units: Mapping[str, Sequence[int]], share: float = PATCH_SHARE
    ) -> dict[str, list[Patch]]:
        """Patches of units, by layer, in the order asked for.

        Args:
            image: the network's input.
            units: by layer.
            share: of the maximum of |reconstruction|; a patch is the bounding box of what is above.
        """
        found: dict[str, dict[int, Patch]] = {layer: {} for layer in units}
        for layer, patch, reconstruction in self._reconstructed(image, units):
            box = None if reconstruction is None else bounding_box(reconstruction, share)
            found[layer][patch.unit] = Patch(patch.unit, patch.y, patch.x, patch.activation, box)
        return {layer: [found[layer][unit] for unit in units[layer]] for layer in units}

    def reconstructions(
        self, image: Float[Tensor, "C H W"], layer: str, units: Sequence[int]
    ) -> Float[Tensor, "n C H W"]:
        """Signals of units at the pixels; zero for a unit that is nowhere positive."""
        found = {patch.unit: one for _, patch, one in self._reconstructed(image, {layer: units})}
        nothing = torch.zeros_like(image)
        return torch.stack([nothing if found[unit] is None else found[unit] for unit in units])  # type: ignore[misc]

    def _reconstructed(
        self, image: Float[Tensor, "C H W"], units: Mapping[str, Sequence[int]]
    ) -> Iterator[tuple[str, Patch, Tensor | None]]:
        """Layer, unit at its strongest position, and its signal at the pixels."""
        with torch.enable_grad():
            pixels = image[None].detach().clone().requires_grad_()
            _, maps = self.network(pixels)
        for layer, wanted in units.items():
            own = list(dict.fromkeys(wanted))
            width = maps[layer].shape[3]
            strongest, places = maps[layer][0].detach().flatten(1)[own].max(dim=1)
            starts = [
                Patch(unit, place // width, place % width, value, None)
                for unit, place, value in zip(own, places.tolist(), strongest.tolist(), strict=True)
            ]
            yield from ((layer, start, None) for start in starts if not start.activation > 0)
            positive = [start for start in starts if start.activation > 0]
            for first in range(0, len(positive), _TOGETHER):
                some = positive[first : first + _TOGETHER]
                for start, signal in zip(some, _back(maps[layer], pixels, some), strict=True):
                    yield layer, start, signal


def bounding_box(
    reconstruction: Float[Tensor, "C H W"], share: float = PATCH_SHARE
) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 of the pixels above a share of the maximum of |reconstruction|; None where it is zero."""
    strength = reconstruction.abs().amax(dim=0)
    limit = float(strength.max()) * share
    above = strength > limit
    rows, columns = above.any(dim=1).nonzero().flatten(), above.any(dim=0).nonzero().flatten()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _back(maps: Tensor, pixels: Tensor, starts: Sequence[Patch]) -> Tensor:
    """(n, C, H, W): signals of units at their strongest positions, all others zero, at the pixels."""
    signals = maps.new_zeros((len(starts), *maps.shape))
    for row, start in enumerate(starts):
        signals[row, 0, start.unit, start.y, start.x] = start.activation
    (found,) = torch.autograd.grad(maps, pixels, signals, retain_graph=True, is_grads_batched=True)
    return found[:, 0]


class _Clamped(torch.autograd.Function):
    """A rectifier's result, which hands back what is positive of its signal to the rectifier's input."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, result: Tensor) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None]:
        return signals[0].clamp(min=0), None


def _clamped(source: Tensor, result: Tensor) -> Tensor:
    return _Clamped.apply(source, result)


def _rectify(graph: NetworkGraph, taps: Taps) -> None:
    """Let every rectifier hand back clamp(g, 0)."""
    for node in [node for node in graph.module.graph.nodes if is_rectifier(graph, node)]:
        with graph.module.graph.inserting_after(node):
            clamped = graph.module.graph.call_function(_clamped, (node.all_input_nodes[0], node))
        node.replace_all_uses_with(clamped, delete_user_cb=lambda user, own=clamped: user is not own)
        taps.update({name: clamped for name, tapped in taps.items() if tapped is node})


def _maps(layer: ResponseLayer, value: object) -> Float[Tensor, "N D H W"]:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value
    if isinstance(value, Tensor) and value.ndim == 2:
        return value[:, :, None, None]
    came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise NetworkError(f"--layers: {layer.name!r} must give (N, D, H, W) or (N, D), gives {came}; name another layer")

"""Conductance of every unit of every layer: one forward and one backward pass a step serve all layers at once.

Source: ICQ Eq. 2 and 3. The path is straight in the space of the network's input, from a black picture to the image
(this is captum's ``LayerConductance``, not ``LayerIntegratedGradients``, whose path is straight in the layer's space).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.units.relevance import PathSum, Rule
from workflows.errors import NetworkError
from workflows.networks.unit_layers import UnitLayer, UnitNetwork

Output = Literal["logit", "probability"]

STEPS = 32
"""Of the path."""

_HELD = 7
"""Maps of a layer that are in memory at once: two points with their gradients, the sum, a step, and the pass's own."""


@dataclass(frozen=True, eq=False)
class ConductanceMaps:
    """What the passes along the path of some images have given.

    Attributes:
        maps: by layer, (N, D, H, W): G of every unit and position.
        activations: by layer, (N, D, H, W), on the images themselves.
        difference: (N,) output of the explained class on the image minus that on the baseline, float64.
        totals: (N, L) sum of G over a layer, for all layers, float64.
    """

    maps: dict[str, Float[Tensor, "N D H W"]]
    activations: dict[str, Float[Tensor, "N D H W"]]
    difference: Float[Tensor, " N"]
    totals: Float[Tensor, "N L"]


class Conductance:
    """Conductance in several layers of a network.

    Args:
        network: traced; on the device and in the precision that images come in.
        layers: whose units are asked; None: every convolution, and for ``totals`` also the joins that are cuts.
        steps: of the path; the passes are one more.
        rule: see ``gmm_ops.units.relevance.Rule``.
        output: what is explained: the class's logit, or its softmax probability.

    Raises:
        RefusedInput: fewer than one step, or an unknown rule or output.
        NetworkError: no layer.
    """

    def __init__(
        self,
        network: UnitNetwork,
        layers: Sequence[UnitLayer] | None = None,
        steps: int = STEPS,
        rule: Rule = "trapezoid",
        output: Output = "logit",
    ) -> None:
        if steps < 1:
            raise RefusedInput(f"steps: must be at least 1, got {steps}; 32 leave an error of a few percent")
        if output not in ("logit", "probability"):
            raise RefusedInput(f"output: must be 'logit' or 'probability', got {output!r}; take the logit")
        PathSum(rule)  # refuses an unknown one before the first pass
        self._steps, self._rule, self._output = steps, rule, output
        self.layers = tuple(network.convolutions() if layers is None else layers)
        self.joins = tuple(network.cut_joins() if layers is None else ())
        if not self.layers:
            raise NetworkError("layers: must be at least one to ask units, got none; name a convolution")
        self._body = network.tapped([layer.name for layer in self.every])

    @property
    def every(self) -> tuple[UnitLayer, ...]:
        """All layers of ``totals``, in its order."""
        return (*self.layers, *self.joins)

    def images_at_once(self, budget: int) -> int:
        """How many images are in memory together, for a budget in bytes of float32 maps; at least 1."""
        values = sum(layer.units * layer.positions for layer in self.every)
        return max(1, budget // (4 * _HELD * values))

    def __call__(
        self,
        images: Float[Tensor, "N C H W"],
        targets: Int[Tensor, " N"],
        baseline: Float[Tensor, "1 C H W"],
    ) -> ConductanceMaps:
        """Walk the path of every image.

        Args:
            images: as the network takes them.
            targets: the class whose output is explained, by image.
            baseline: where the paths begin, such as a black picture.
        """
        sums = [PathSum(self._rule) for _ in self.every]
        outputs = []
        for step in range(self._steps + 1):
            # lerp gives both ends exactly.
            value, taps, gradients = self._point(torch.lerp(baseline, images, step / self._steps), targets)
            outputs += [value.double()] if step in (0, self._steps) else []
            for one, activations, slope in zip(sums, taps, gradients, strict=True):
                one.add(activations, slope)
        own = dict(zip((layer.name for layer in self.layers), sums, strict=False))
        return ConductanceMaps(
            {name: one.total for name, one in own.items()},
            {name: one.activations for name, one in own.items()},
            outputs[-1] - outputs[0],
            torch.stack([one.total.sum(dim=(1, 2, 3), dtype=torch.float64) for one in sums], dim=1),
        )

    def _point(
        self, images: Tensor, targets: Tensor
    ) -> tuple[Float[Tensor, " N"], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Output of the target, activations of all layers, and its gradients with respect to them."""
        with torch.enable_grad():
            # So that there is a graph; its gradient is not asked for, and never computed.
            logits, taps = self._body(images.requires_grad_())
            outputs = logits.softmax(dim=1) if self._output == "probability" else logits
            chosen = outputs.gather(1, targets[:, None])[:, 0]
            gradients = torch.autograd.grad(chosen.sum(), taps)
        return chosen.detach(), tuple(tap.detach() for tap in taps), gradients

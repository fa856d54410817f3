"""Input resampling: how a layer's units respond to noisy copies of one image, and how that scores them.

The copies are the image times 1 + N(0, sigma) for every pixel and channel. Their responses are never kept: sums over
copies are, about the response to the image itself, so that no digit is lost where a response hardly varies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums, same

Reduce = Literal["position", "sum"]
PrecisionRule = Literal["inverse_of_mean", "mean_of_inverse"]

CONSTANT = 1e-12
"""A response whose variance is at most this share of its mean square, or of the layer's, does not vary: sums in float32
round to about 1e-14 of the layer's."""

_BLOCK = 2**21
"""Responses in float64 at a time."""

_MAPS = ("response", "product", "permuted", "square")
_TOTALS = ("total", "total_product", "total_permuted", "total_square", "magnitude")


@dataclass(frozen=True)
class ResponseSums(Sums):
    """Sums over copies of one image, of responses a and output y less those to the image itself.

    Attributes:
        copies: n.
        origin, output_origin: response to the image itself, and its output.
        response, square: sums of a and a^2.
        product, permuted: sums of a y, and of a y' with the outputs of a batch moved on by one copy: no copy keeps its
            own output, so what correlates then is chance.
        total, total_square, total_product, total_permuted: the same for the sum of a over a unit's positions.
        magnitude: sum over copies and positions of |a|, not less the image's.
        output, output_square: sums of y and y^2.
    """

    copies: int
    origin: Annotated[Float[Tensor, "D H W"], same]
    output_origin: Annotated[float, same]
    response: Float[Tensor, "D H W"]
    square: Float[Tensor, "D H W"]
    product: Float[Tensor, "D H W"]
    permuted: Float[Tensor, "D H W"]
    total: Float[Tensor, " D"]
    total_square: Float[Tensor, " D"]
    total_product: Float[Tensor, " D"]
    total_permuted: Float[Tensor, " D"]
    magnitude: Float[Tensor, " D"]
    output: float
    output_square: float

    @classmethod
    def zero(cls, origin: Float[Tensor, "D H W"], output_origin: float) -> ResponseSums:
        """No copy yet. origin, output_origin: response to the image itself, and its output."""
        if origin.ndim != 3:
            raise RefusedInput(f"origin: must have shape (D, H, W), got {tuple(origin.shape)}; give one image's map")
        exact = origin.double()
        sums: dict[str, Any] = {name: torch.zeros_like(exact) for name in _MAPS}
        sums |= {name: exact.new_zeros(len(exact)) for name in _TOTALS}
        return cls(0, exact, float(output_origin), output=0.0, output_square=0.0, **sums)

    def with_copies(self, responses: Float[Tensor, "n D H W"], outputs: Float[Tensor, " n"]) -> ResponseSums:
        """The sums with a batch of copies more.

        Raises:
            RefusedInput: shapes that do not fit, or a single copy, whose output cannot be permuted.
        """
        if responses.shape[1:] != self.origin.shape or outputs.shape != responses.shape[:1]:
            raise RefusedInput(
                f"responses: must be (n, {', '.join(map(str, self.origin.shape))}) with n outputs, got "
                f"{tuple(responses.shape)} and {tuple(outputs.shape)}; give the copies of one image"
            )
        if len(outputs) < 2:
            raise RefusedInput(f"copies: must be at least 2 in a batch, got {len(outputs)}; draw more copies at a time")
        y = outputs.to(self.origin.device).double() - self.output_origin
        factors = torch.stack([torch.ones_like(y), y, y.roll(1)])
        units, positions = len(self.origin), self.origin[0].numel()
        size = max(1, _BLOCK // (len(y) * max(positions, 1)))
        parts = [self._sums_of(responses, factors, first, first + size) for first in range(0, units, size)]
        sums: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in (*_MAPS, *_TOTALS)}
        sums |= {"output": float(y.sum()), "output_square": float(y.square().sum())}
        return self.merge(ResponseSums(len(y), self.origin, self.output_origin, **sums))

    def _sums_of(self, responses: Tensor, factors: Tensor, first: int, stop: int) -> dict[str, Tensor]:
        """Of some units, by field."""
        raw = responses[:, first:stop].double()
        own = raw - self.origin[first:stop]
        flat, totals = own.flatten(1), own.sum(dim=(2, 3))
        maps = [*(factors @ flat), torch.linalg.vecdot(flat, flat, dim=0)]
        of_units = [*(factors @ totals), totals.square().sum(dim=0), raw.abs().sum(dim=(0, 2, 3))]
        found = {name: values.view(own.shape[1:]) for name, values in zip(_MAPS, maps, strict=True)}
        return found | dict(zip(_TOTALS, of_units, strict=True))


def correlations(
    sums: ResponseSums, reduce: Reduce = "position", permuted: bool = False, signed: bool = False
) -> Float[Tensor, " D"]:
    """Activation-output correlation (IR, Eq. 2): |Pearson r| of each unit's response with the output, over copies.

    Args:
        sums: of one image.
        reduce: ``position``, r at each position, then their mean over positions that vary; ``sum``, r of the sum.
        permuted: with the outputs of other copies: what chance gives.
        signed: r, not |r|; to be averaged over images.

    Returns:
        NaN for units that nowhere vary, and for all of them where the output does not.

    Raises:
        RefusedInput: fewer than 2 copies.
    """
    n = _copies(sums)
    spread = sums.output_square / n - (sums.output / n) ** 2
    level = spread + (sums.output_origin + sums.output / n) ** 2
    if reduce == "position":
        mean, product = sums.response / n, (sums.permuted if permuted else sums.product) / n
        variance, varies = _variance(sums.origin, mean, sums.square / n)
    else:
        mean, product = sums.total / n, (sums.total_permuted if permuted else sums.total_product) / n
        variance, varies = _variance(sums.origin.sum(dim=(1, 2)), mean, sums.total_square / n)
    if spread <= CONSTANT * level:
        varies = torch.zeros_like(varies)
    r = (product - mean * (sums.output / n)) / (variance * max(spread, 0.0)).sqrt()
    r = torch.where(varies, r.clamp(-1, 1), torch.nan)
    r = r if signed else r.abs()
    return r.flatten(1).nanmean(dim=1) if reduce == "position" else r


def precisions(
    sums: ResponseSums, rule: PrecisionRule = "inverse_of_mean", threshold: float = 0.1, eps: float = 1e-8
) -> Float[Tensor, " D"]:
    """Activation precision (IR, Eq. 3): how little each unit's response varies over the copies.

    Args:
        sums: of one image.
        rule: ``inverse_of_mean``, 1 / mean over positions of the variance, as in the authors' code;
            ``mean_of_inverse``, the mean of 1 / (variance + eps) over positions that vary, as Eq. 3 is written.
        threshold: units whose mean |response| is below this share of the layer's are left out.
        eps: of Eq. 3.

    Returns:
        NaN for units that are left out, and for those that nowhere vary.

    Raises:
        RefusedInput: fewer than 2 copies.
    """
    n = _copies(sums)
    variance, varies = _variance(sums.origin, sums.response / n, sums.square / n)
    variance = variance * (n / (n - 1))
    flat = variance.flatten(1)
    if rule == "inverse_of_mean":
        found = 1 / flat.mean(dim=1)
    else:
        found = torch.where(varies, 1 / (variance + eps), torch.nan).flatten(1).nanmean(dim=1)
    kept = varies.flatten(1).any(dim=1) & (sums.magnitude >= threshold * sums.magnitude.mean())
    return torch.where(kept, found, torch.nan)


def squares_over_variances(sums: ResponseSums) -> Float[Tensor, " D"]:
    """Mean^2 / variance of each unit, both averaged over its positions; NaN for units that nowhere vary."""
    n = _copies(sums)
    mean = sums.response / n
    variance, varies = _variance(sums.origin, mean, sums.square / n)
    ratio = (sums.origin + mean).square().flatten(1).mean(dim=1) / variance.flatten(1).mean(dim=1)
    return torch.where(varies.flatten(1).any(dim=1), ratio, torch.nan)


def directional_slopes(
    up: Float[Tensor, "D H W"], down: Float[Tensor, "D H W"], sums: ResponseSums, reduce: Reduce = "position"
) -> Float[Tensor, " D"]:
    """|Slope| of each unit along the output's own direction d, over its standard deviation among the copies.

    With d = s^2 x^2 g / |s x g|, g the gradient of the output at the image x, this is what the correlation would be if
    the network were linear within the noise: two forward passes, another quantity.

    Args:
        up, down: responses at x + d and x - d.
        sums: of the image.
        reduce: as in ``correlations``.
    """
    n = _copies(sums)
    slope = (up.double() - down.double()) / 2
    if reduce == "position":
        variance, varies = _variance(sums.origin, sums.response / n, sums.square / n)
        return torch.where(varies, slope.abs() / variance.sqrt(), torch.nan).flatten(1).nanmean(dim=1)
    variance, varies = _variance(sums.origin.sum(dim=(1, 2)), sums.total / n, sums.total_square / n)
    return torch.where(varies, slope.sum(dim=(1, 2)).abs() / variance.sqrt(), torch.nan)


def _copies(sums: ResponseSums) -> int:
    if sums.copies < 2:
        raise RefusedInput(
            f"copies: must be at least 2, got {sums.copies}; one copy has neither variance nor correlation"
        )
    return sums.copies


def _variance(origin: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Population variance of responses whose moments about ``origin`` are given, and where there is any."""
    variance = (square - mean.square()).clamp(min=0)
    level = variance + (origin + mean).square()
    return variance, variance > CONSTANT * torch.maximum(level, level.mean())

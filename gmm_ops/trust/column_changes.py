"""Words taken out of a layer: which columns are changed, and what they say instead.

Ours: the papers state associations. A word goes (``shift``) where its mean is replaced by the mean column of the layer
and the residual x - mu_w stays, or its columns say that mean column (``mean``). Whole maps that say their words' means
(``words``), or all but these (``error``, the error node), tell what of a layer is in its words; with a few principal
components of the layer kept beside the words (``components``), or kept alone (``axes``), what is between them.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.windows import AxisWindow, Window

ColumnChange = Literal["shift", "mean", "words", "error", "components", "axes"]

_SPANNED = 1e-12
"""Of all variance of the means: an axis with less is one that they do not span."""


def changed_columns(
    maps: Float[Tensor, "N D H W"],
    words: Int[Tensor, "N H W"],
    means: Float[Tensor, "K D"],
    centre: Float[Tensor, " D"],
    change: ColumnChange,
    axes: Float[Tensor, "q D"] | None = None,
) -> Float[Tensor, "N D H W"]:
    """What every column would say, were it changed.

    Args:
        maps: what the layer says, in its units.
        words: of every column; a column of none (-1) stays as it is.
        means: mu of every word.
        centre: mean column of the layer.
        change: ``shift`` and ``error``: x - mu_w + centre; ``mean``: centre; ``words``: mu_w;
            ``components``: mu_w + A^T A (x - mu_w); ``axes``: centre + A^T A (x - centre).
        axes: A, orthonormal rows, see ``principal_axes``; asked for by the last two alone.

    Raises:
        RefusedInput: another change, or arrays that do not fit.
    """
    if change not in get_args(ColumnChange):
        raise RefusedInput(f"change: must be {', '.join(get_args(ColumnChange))}, got {change!r}; choose one of them")
    units = {maps.shape[1], means.shape[1], *centre.shape}
    if words.shape != (len(maps), *maps.shape[2:]) or len(units) > 1:
        raise RefusedInput(
            f"words, means, centre: must be a word a column, and of {maps.shape[1]} units, got {tuple(words.shape)}, "
            f"{tuple(means.shape)} and {tuple(centre.shape)} for maps {tuple(maps.shape)}; take them of one layer"
        )
    middle = centre.to(maps)[None, :, None, None].expand_as(maps)
    if change in ("mean", "axes"):
        instead = middle
    else:
        own = means.to(maps)[words.clamp(min=0)].permute(0, 3, 1, 2)
        instead = maps - own + middle if change in ("shift", "error") else own
    if change in ("components", "axes"):
        instead = instead + _within(maps - instead, axes)
    return torch.where((words >= 0)[:, None], instead, maps)


def _within(maps: Float[Tensor, "N D H W"], axes: Float[Tensor, "q D"] | None) -> Float[Tensor, "N D H W"]:
    """Each column's part in the space of the axes."""
    if axes is None or axes.shape[1:] != maps.shape[1:2]:
        raise RefusedInput(
            f"axes: must be of {maps.shape[1]} units to keep components, got "
            f"{'none' if axes is None else tuple(axes.shape)}; take principal_axes of the layer's words"
        )
    basis = axes.to(maps)
    within: Tensor = torch.einsum("qd,nqhw->ndhw", basis, torch.einsum("qd,ndhw->nqhw", basis, maps))
    return within


def principal_axes(means: Float[Tensor, "K D"], shares: Float[Tensor, " K"], count: int) -> Float[Tensor, "q D"]:
    """The first principal axes of a layer, as far as its words tell: of their means, weighted by their shares.

    Args:
        means: mu of every word.
        shares: of every word; they need not sum to 1.
        count: q at most; fewer where the means span fewer, as K means span K - 1.

    Returns:
        Orthonormal rows, the axis of most variance first, float64.
    """
    weights = shares.double() / shares.double().sum()
    about = means.double() - weights @ means.double()
    spread, ascending = torch.linalg.eigh(about.T @ (about * weights[:, None]))
    spanned = int((spread > _SPANNED * spread.sum()).sum())
    axes: Tensor = ascending.flip(1)[:, : min(count, spanned)].T.contiguous()
    return axes


def columns_of(words: Int[Tensor, "N H W"], chosen: Bool[Tensor, "#N K"]) -> Bool[Tensor, "N H W"]:
    """Which columns are one of the chosen words; of each image its own, or for all the same."""
    flat = words.clamp(min=0).flatten(1)
    found = chosen.expand(len(words), -1).gather(1, flat).view_as(words)
    return found & (words >= 0)


def as_many_others(
    columns: Bool[Tensor, "N H W"], among: Bool[Tensor, "N H W"], keys: Float[Tensor, "N H W"]
) -> Bool[Tensor, "N H W"]:
    """In every image as many columns as are given, drawn outside of them: the control of an ablation.

    Args:
        columns: that are ablated.
        among: where others may lie; fewer are drawn where it holds fewer.
        keys: uniform in [0, 1), of the draw: the columns with the lowest are taken.
    """
    free = among & ~columns
    order = keys.masked_fill(~free, torch.inf).flatten(1).argsort(dim=1, stable=True)
    taken = torch.arange(order.shape[1], device=order.device)[None] < columns.flatten(1).sum(dim=1, keepdim=True)
    drawn = torch.zeros_like(taken).scatter_(1, order, taken)
    return drawn.view_as(columns) & free


def inside_windows(
    upper: Bool[Tensor, "N H W"], window: Window, height: int, width: int
) -> Bool[Tensor, "N height width"]:
    """Lower columns in the window R(p) of some upper position p that is given. height, width: of the lower map."""
    rows, columns = (
        _covered(axis, positions, extent)
        for axis, positions, extent in zip((window.rows, window.columns), upper.shape[1:], (height, width), strict=True)
    )
    counts = rows.T.to(upper.device) @ upper.float() @ columns.to(upper.device)
    return counts > 0


def _covered(axis: AxisWindow, positions: int, extent: int) -> Float[Tensor, "positions extent"]:
    """1 where a lower place lies in the window of an upper one."""
    found = torch.zeros(positions, extent)
    for place in range(positions):
        first, stop = axis.range(place, extent)
        found[place, first:stop] = 1.0
    return found

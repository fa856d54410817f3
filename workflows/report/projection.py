"""The plane that a decision junction is shown in: shrinkage LDA of its sub-clusters (IG Fig. 3).

Axes come from the principal components of the shown columns, so that units which are never active take no part and a
rotation of the units rotates nothing on the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

NOWHERE = -1
"""Label of a column that is shown and takes no part in choosing the plane."""

DISCRIMINANT, COMPONENT = "discriminant", "principal component"

_KEPT = 256
"""Principal components given to LDA at most: with more, a few hundred columns fall apart by chance alone."""

_RANK = 1e-10
"""Components with less of the largest one's variance are rounding."""


@dataclass(frozen=True)
class Projection:
    """An affine map of columns to the plane, (x - origin) @ axes; ``names`` says what the two axes are.

    Discriminants are in standard deviations within the sub-clusters, and so is a component beside a discriminant; two
    components are in units of the layer.
    """

    origin: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "D 2"]
    names: tuple[str, str]

    def __call__(self, columns: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n 2"]:
        """Where columns lie in the plane."""
        return (np.asarray(columns, dtype=np.float64) - self.origin) @ self.axes


def fit_projection(columns: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]) -> Projection:
    """The plane that separates the sub-clusters best.

    Three sub-clusters or more: the first two axes of linear discriminant analysis with Ledoit-Wolf shrinkage. Two: its
    only axis, and the first principal component of what is orthogonal to it. One: two principal components.
    The farthest column lies on the positive side of each axis, so signs do not depend on the machine.

    Args:
        columns: activity of the members of the junction's word, layer units.
        labels: sub-cluster of each; ``NOWHERE`` takes no part. A sub-cluster of one column has no spread of its own
            and takes no part either.
    """
    known, places, counts = np.unique(labels[labels != NOWHERE], return_inverse=True, return_counts=True)
    kept = np.flatnonzero(labels != NOWHERE)[counts[places] > 1] if len(known) else np.empty(0, np.int64)
    used = np.asarray(columns[kept] if len(kept) else columns, dtype=np.float64)
    origin = used.mean(axis=0) if len(used) else np.zeros(columns.shape[1])
    basis = _principal_axes(used - origin)
    reduced = (used - origin) @ basis
    groups = labels[kept]
    discriminants = _discriminants(reduced, groups)
    axes = discriminants
    if axes.shape[1] < 2:
        axes = _completed(reduced, groups, discriminants)
    axes = basis @ axes
    names = [DISCRIMINANT] * discriminants.shape[1] + [COMPONENT] * (2 - discriminants.shape[1])
    return Projection(origin, _signed(used - origin, axes), _numbered(names))


def nearest_to_centre(points: Float[np.ndarray, "n 2"], most: int) -> Int[np.ndarray, " m"]:
    """Rows of the points nearest to their mean, nearest first; ties go to the earlier row."""
    distance = ((points - points.mean(axis=0)) ** 2).sum(axis=1) if len(points) else np.empty(0)
    return np.argsort(distance, kind="stable")[:most]


def _principal_axes(centred: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "D r"]:
    """Orthonormal axes of the columns' own subspace, most variance first."""
    n, units = centred.shape
    if n == 0 or units == 0:
        return np.zeros((units, 0))
    if n >= units:
        variance, axes = np.linalg.eigh(centred.T @ centred)
    else:
        variance, rows = np.linalg.eigh(centred @ centred.T)
        axes = centred.T @ (rows / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny)))
    order = np.argsort(-variance, kind="stable")
    real = variance[order] > max(_RANK * variance[order[0]], np.finfo(np.float64).tiny)
    return axes[:, order[real][:_KEPT]]


def _discriminants(reduced: Float[np.ndarray, "n r"], groups: Int[np.ndarray, " n"]) -> Float[np.ndarray, "r m"]:
    """At most two axes; none for one group, or where no group has any spread."""
    known = np.unique(groups)
    count = min(2, len(known) - 1, reduced.shape[1])
    spread = sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in (reduced[groups == g] for g in known))
    if count < 1 or spread <= _RANK * float((reduced**2).sum()):
        return np.zeros((reduced.shape[1], 0))
    # An estimator and not shrinkage="auto": that one scales every unit first and would turn with the axes.
    analysis = LinearDiscriminantAnalysis(solver="eigen", covariance_estimator=LedoitWolf(), n_components=count)
    analysis.fit(reduced, groups)
    return np.asarray(analysis.scalings_)[:, :count]


def _completed(
    reduced: Float[np.ndarray, "n r"], groups: Int[np.ndarray, " n"], axes: Float[np.ndarray, "r m"]
) -> Float[np.ndarray, "r 2"]:
    """The given axes and the leading principal components of what is orthogonal to them; zeros where none is left."""
    unit = axes / np.linalg.norm(axes, axis=0)
    rest = reduced - (reduced @ unit) @ unit.T
    components = _principal_axes(rest - rest.mean(axis=0) if len(rest) else rest)[:, : 2 - axes.shape[1]]
    if axes.shape[1] and components.shape[1]:
        along = rest @ components
        within = np.concatenate([along[groups == g] - along[groups == g].mean() for g in np.unique(groups)])
        deviation = float(np.sqrt((within**2).mean()))
        components = components / deviation if deviation > 0 else components
    missing = 2 - axes.shape[1] - components.shape[1]
    return np.concatenate([axes, components, np.zeros((len(axes), missing))], axis=1)


def _signed(centred: Float[np.ndarray, "n D"], axes: Float[np.ndarray, "D 2"]) -> Float[np.ndarray, "D 2"]:
    if not len(centred):
        return axes
    along = centred @ axes
    farthest = along[np.abs(along).argmax(axis=0), [0, 1]]
    return axes * np.where(farthest < 0, -1.0, 1.0)


def _numbered(names: Sequence[str]) -> tuple[str, str]:
    """Such as "discriminant 1", "discriminant 2"; a name that stands alone needs no number."""
    first, second = names
    return (f"{first} 1", f"{second} 2") if first == second else (first, second)

"""Which way an object faces: whether it or its mirror image looks like most others.

The mirror is one of the image, run through the network again: half a stride of offset would make a mirrored map another
one. What tells the two apart is d = sqrt(F) of the object, scaled to length 1, minus that of its mirror image; turning
the object changes the sign of d and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.explanatory.pattern_layer import Rows
from gmm_ops.records import Record

ROUNDS = 10

MOST = 2_048
"""Objects that are compared with each other; memory and products grow with their square."""


@dataclass(frozen=True)
class Facing(Record):
    """How objects are turned so that they all face one way.

    Attributes:
        signs: (n,) 1: as it is, -1: mirrored. Most are 1; of halves the first object is.
        margins: (n,) cosine of the turned d with the sum of all others', -1 to 1; 0: cannot be told.
    """

    signs: Int[Tensor, " n"]
    margins: Float[Tensor, " n"]


def face_objects(responses: Rows, mirrored: Rows, block: int = 64, most: int = MOST) -> Facing:
    """Turn all objects one way: up to ``most`` of them by each other, any further ones by the sum of those.

    Args:
        responses, mirrored, block: as ``facing_gram``.
        most: objects that are compared with each other, spread evenly over all; two at least.

    Returns:
        How each is turned. Of further objects, margins are cosines with the sum of those compared.

    Raises:
        NonFiniteActivations, RefusedInput: as ``facing_gram``.
    """
    objects = responses.shape[0]
    if objects <= most:
        return face_one_way(facing_gram(responses, mirrored, block))
    chosen = torch.arange(most) * objects // most
    compared = _Chosen(responses, chosen), _Chosen(mirrored, chosen)
    found = face_one_way(facing_gram(*compared, block))
    total = torch.zeros((), dtype=torch.float64)
    for first in range(0, most, block):
        rows = slice(first, first + block)
        total = total + found.signs[rows].double() @ _differences(*compared, rows)
    signs, margins = torch.ones(objects, dtype=torch.long), torch.zeros(objects, dtype=torch.float64)
    for first in range(0, objects, block):
        rows = slice(first, first + block)
        own = _differences(responses, mirrored, rows)
        cosines = torch.cosine_similarity(own, total[None], dim=1)
        signs[rows], margins[rows] = torch.where(cosines < 0, -1, 1), cosines.abs()
    signs[chosen], margins[chosen] = found.signs, found.margins.double()
    return Facing(signs, margins)


@dataclass(frozen=True)
class _Chosen:
    """Some objects of all."""

    source: Rows
    chosen: Int[Tensor, " m"]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.chosen), *self.source.shape[1:])

    def __getitem__(self, rows: slice) -> Tensor:
        return torch.cat([torch.as_tensor(self.source[row : row + 1]) for row in self.chosen[rows].tolist()])


def facing_gram(responses: Rows, mirrored: Rows, block: int = 64) -> Float[Tensor, "n n"]:
    """Products of the d of all objects with each other, float64; two blocks of objects are in memory.

    Args:
        responses: (n, D, H, W) F of one middle layer on the objects.
        mirrored: on their mirror images.
        block: objects read at a time.

    Raises:
        NonFiniteActivations: NaN or infinity.
        RefusedInput: other objects in ``mirrored``, or none.
    """
    if tuple(responses.shape) != tuple(mirrored.shape) or len(responses.shape) != 4 or not responses.shape[0]:
        raise RefusedInput(
            f"mirrored: must have the shape (n, D, H, W) of the responses, got {tuple(mirrored.shape)} and "
            f"{tuple(responses.shape)}; run the same objects mirrored"
        )
    objects = responses.shape[0]
    gram = torch.zeros((objects, objects), dtype=torch.float64)
    starts = range(0, objects, block)
    for first in starts:
        rows = slice(first, first + block)
        one = _differences(responses, mirrored, rows)
        for second in range(first, objects, block):
            columns = slice(second, second + block)
            other = one if second == first else _differences(responses, mirrored, columns)
            product = one @ other.T
            gram[rows, columns] = product
            gram[columns, rows] = product.T
    return gram


def _differences(responses: Rows, mirrored: Rows, rows: slice) -> Float[Tensor, "b length"]:
    return _descriptors(responses, rows) - _descriptors(mirrored, rows)


def _descriptors(source: Rows, rows: slice) -> Float[Tensor, "b length"]:
    roots = torch.as_tensor(source[rows]).double().clamp(min=0).sqrt().flatten(1)
    if not bool(torch.isfinite(roots).all()):
        row = int((~torch.isfinite(roots).all(dim=1)).nonzero()[0])
        raise NonFiniteActivations(
            f"responses: must be finite, got NaN or infinity in object {rows.start + row}; leave that object out"
        )
    length = torch.linalg.vector_norm(roots, dim=1, keepdim=True)
    found: Tensor = roots / length.clamp(min=torch.finfo(torch.float64).tiny)
    return found


def face_one_way(gram: Float[Tensor, "n n"], rounds: int = ROUNDS) -> Facing:
    """Turn by the sign of the first component, then by agreement with all others until nothing changes.

    Args:
        gram: of ``facing_gram``.
        rounds: at most; in each, every object is turned towards the mean of the others as they were before it.

    Raises:
        RefusedInput: no square matrix of at least one object.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
        raise RefusedInput(f"gram: must be square with a row an object, got {tuple(gram.shape)}; use facing_gram")
    first = torch.linalg.eigh(gram.double()).eigenvectors[:, -1]
    signs = torch.where(first >= 0, 1.0, -1.0).double()
    for _ in range(rounds):
        turned = torch.where(signs * _agreement(gram, signs) < 0, -signs, signs)
        if torch.equal(turned, signs):
            break
        signs = turned
    majority = float(signs.sum()) or float(signs[0])
    signs = signs if majority > 0 else -signs
    # What equals its mirror image has no say in the sums, and need not be turned.
    signs = torch.where(gram.diagonal() > 0, signs, 1.0)
    return Facing(signs.long(), _margins(gram, signs))


def _agreement(gram: Tensor, signs: Tensor) -> Float[Tensor, " n"]:
    """Product of each d with the sum of the others, turned."""
    return gram @ signs - gram.diagonal() * signs


def _margins(gram: Tensor, signs: Tensor) -> Float[Tensor, " n"]:
    own, product = gram.diagonal(), signs * _agreement(gram, signs)
    whole = signs @ gram @ signs
    others = (whole - 2 * product - own).clamp(min=0)
    length = (own * others).sqrt()
    return torch.where(length > 0, product / length, 0.0).clamp(-1, 1)

"""Objects drawn facing either way are turned one way; mirroring an object changes its sign and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.explanatory.facing import face_objects, face_one_way, facing_gram
from tests.references import explanatory_graph as slow

OBJECTS = 21


def drawn(seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Responses of objects and of their mirrors, and how each faces; two thirds face one way."""
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.rand(2, 3, 4, 4, generator=generator)
    facing = torch.where(torch.arange(OBJECTS) % 3 == 0, -1, 1)
    plain = torch.where(facing[:, None, None, None] > 0, one, other)
    mirror = torch.where(facing[:, None, None, None] > 0, other, one)
    grain = noise * torch.rand(2, OBJECTS, 3, 4, 4, generator=generator)
    return plain + grain[0], mirror + grain[1], facing


def test_all_objects_are_turned_one_way() -> None:
    plain, mirror, facing = drawn()
    found = face_one_way(facing_gram(plain, mirror))
    assert found.signs.tolist() == facing.tolist()
    assert bool((found.margins > 0.2).all())


def test_mirroring_an_object_changes_its_sign_alone() -> None:
    plain, mirror, _ = drawn(1)
    before = face_one_way(facing_gram(plain, mirror))
    swapped = plain.clone(), mirror.clone()
    swapped[0][5], swapped[1][5] = mirror[5], plain[5]
    after = face_one_way(facing_gram(*swapped))
    expected = before.signs.clone()
    expected[5] *= -1
    assert after.signs.tolist() == expected.tolist()
    np.testing.assert_allclose(after.margins, before.margins, atol=1e-9)


def test_signs_are_those_of_the_loops() -> None:
    plain, mirror, _ = drawn(2, noise=6.0)
    roots = [maps.double().sqrt().flatten(1) for maps in (plain, mirror)]
    one, other = (root / root.norm(dim=1, keepdim=True) for root in roots)
    gram = facing_gram(plain, mirror)
    np.testing.assert_allclose(gram, ((one - other) @ (one - other).T).numpy(), atol=1e-12)
    for rounds in (0, 1, 10):
        assert face_one_way(gram, rounds).signs.tolist() == slow.facing((one - other).numpy(), rounds)


def test_margins_are_cosines_with_all_others() -> None:
    plain, mirror, _ = drawn(3)
    found = face_one_way(facing_gram(plain, mirror))
    one, other = (m.double().sqrt().flatten(1) for m in (plain, mirror))
    turned = (one / one.norm(dim=1, keepdim=True) - other / other.norm(dim=1, keepdim=True)) * found.signs[:, None]
    for row in range(OBJECTS):
        rest = turned.sum(dim=0) - turned[row]
        assert float(found.margins[row]) == pytest.approx(float(torch.cosine_similarity(turned[row], rest, dim=0)))


def test_an_object_like_its_mirror_cannot_be_told() -> None:
    plain, mirror, _ = drawn()
    mirror[4] = plain[4]
    found = face_one_way(facing_gram(plain, mirror))
    assert (int(found.signs[4]), float(found.margins[4])) == (1, 0.0)


@pytest.mark.parametrize("block", [1, 5, 8])
def test_objects_read_at_a_time_do_not_matter(block: int) -> None:
    plain, mirror, _ = drawn()
    whole = facing_gram(plain, mirror)
    np.testing.assert_allclose(facing_gram(plain.numpy(), mirror.numpy(), block), whole, atol=1e-14)


def test_of_many_objects_some_are_compared() -> None:
    plain, mirror, facing = drawn(4)
    whole = face_one_way(facing_gram(plain, mirror))
    every, some = face_objects(plain, mirror, most=OBJECTS), face_objects(plain, mirror, block=4, most=8)
    assert every.signs.tolist() == some.signs.tolist() == facing.tolist()
    assert torch.equal(every.margins, whole.margins)
    compared = torch.arange(8) * OBJECTS // 8
    assert torch.equal(some.margins[compared], face_one_way(facing_gram(plain[compared], mirror[compared])).margins)
    assert bool((some.margins > 0.2).all())


def test_what_does_not_fit_is_refused() -> None:
    plain, mirror, _ = drawn()
    with pytest.raises(RefusedInput, match=r"mirrored: must have the shape .* got \(20, 3, 4, 4\) and \(21, 3, 4, 4\)"):
        facing_gram(plain, mirror[:20])
    mirror[17, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteActivations, match="got NaN or infinity in object 17; leave that object out"):
        facing_gram(plain, mirror, block=4)
    with pytest.raises(RefusedInput, match=r"gram: must be square with a row an object, got \(2, 3\)"):
        face_one_way(torch.zeros(2, 3))

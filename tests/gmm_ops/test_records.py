"""One mixin over the fields: what every record can do, tried on made records of every kind of field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Record, Sums, joined, same


@dataclass(frozen=True)
class Inner(Sums):
    """Two kinds of number and a tensor."""

    count: int
    loss: float
    table: Int[Tensor, "K D"]

    @classmethod
    def zero(cls, rows: int) -> Inner:
        return cls(0, 0.0, torch.zeros(rows, 2, dtype=torch.int64))


@dataclass(frozen=True)
class Outer(Sums):
    """Every kind of field."""

    inner: Inner
    layers: tuple[Float[Tensor, "K"], ...]
    named: Mapping[str, Tensor]
    array: Int[np.ndarray, " K"]
    width: Annotated[int, same]
    rows: Annotated[Int[Tensor, " R"], joined]

    @classmethod
    def zero(cls, rows: int, width: int) -> Outer:
        layers = tuple(torch.zeros(size, dtype=torch.float64) for size in (3, 1))
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(Inner.zero(rows), layers, {"a": torch.zeros(2)}, np.zeros(2, np.int64), width, empty)


@dataclass(frozen=True)
class Levels(Record):
    """Records in a tuple."""

    parts: tuple[Inner, ...]


def drawn(seed: int) -> Outer:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 9, (2, 2), generator=generator)
    layers = tuple(torch.randn(size, dtype=torch.float64, generator=generator) for size in (3, 1))
    named = {"a": torch.randn(2, generator=generator)}
    array = torch.randint(0, 9, (2,), generator=generator).numpy()
    return Outer(Inner(seed, seed / 2, table), layers, named, array, 7, torch.tensor([seed]))


def test_merging_adds_every_field_by_its_rule():
    one, two = drawn(1), drawn(2)
    both = one.merge(two)
    assert (both.inner.count, both.inner.loss, both.width) == (3, 1.5, 7)
    assert torch.equal(both.inner.table, one.inner.table + two.inner.table)
    assert all(torch.equal(b, x + y) for b, x, y in zip(both.layers, one.layers, two.layers, strict=True))
    assert torch.equal(both.named["a"], one.named["a"] + two.named["a"])
    assert both.array.tolist() == (one.array + two.array).tolist()
    assert both.rows.tolist() == [1, 2]
    assert Outer.zero(2, 7) + one == one


def test_merging_is_associative():
    one, two, three = map(drawn, (1, 2, 3))
    left, right = (one + two) + three, one + (two + three)
    torch.testing.assert_close(left.pack(), right.pack())
    assert left.inner == right.inner
    assert left.rows.tolist() == right.rows.tolist() == [1, 2, 3]


def test_what_does_not_fit_is_not_merged():
    with pytest.raises(RefusedInput, match="width: must be the same in what is merged, got 7 and 8"):
        drawn(1).merge(Outer.zero(2, 8))
    with pytest.raises(RefusedInput, match=r"table: must have the same shape .*got \(2, 2\) and \(1, 2\)"):
        Inner.zero(2).merge(Inner.zero(1))


def test_packing_then_adding_is_merging():
    one, two = drawn(1), drawn(2)
    added = Outer.unpack(one.pack() + two.pack(), 2, 7)
    merged = one + two
    assert torch.equal(added.pack(), merged.pack())
    assert added.inner == merged.inner
    assert type(added.inner.count) is int
    assert len(one.pack()) == 2 + 4 + 4 + 2 + 2, "neither the width nor the joined rows"
    with pytest.raises(RefusedInput, match=r"packed: must have shape \(14,\) for Outer of \(2, 7\), got \(3,\)"):
        Outer.unpack(torch.zeros(3), 2, 7)


def test_scaling_leaves_other_rules_alone():
    one = drawn(4)
    half = one.scaled(0.5)
    torch.testing.assert_close(half.layers[0], 0.5 * one.layers[0])
    assert (half.inner.loss, half.width) == (1.0, 7)
    assert torch.equal(half.rows, one.rows)


def test_arrays_bring_a_record_back_bit_for_bit():
    record = drawn(5)
    arrays = record.to_arrays("x_") | {"other": np.zeros(1)}
    assert "x_inner_table" in arrays
    assert "x_layers_1" in arrays
    assert Outer.from_arrays(arrays, "x_") == record
    levels = Levels((Inner.zero(1), drawn(3).inner, Inner.zero(0)))
    assert Levels.from_arrays(levels.to_arrays()) == levels


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.inner.table.add_(1),
        lambda r: r.layers[1].neg_(),
        lambda r: r.named["a"].add_(1),
        lambda r: r.array.__iadd__(1),
    ],
)
def test_equality_is_a_bool_and_sees_every_field(change):
    one, other = drawn(6), drawn(6)
    assert one == other
    assert (one != other) is False
    assert hash(one) == hash(other)
    change(other)
    assert (one == other) is False


def test_equality_minds_shape_type_and_nan():
    table = torch.tensor([[0, 0]])
    assert Inner(0, float("nan"), table) == Inner(0, float("nan"), table.clone())
    assert Inner(0, 0.0, table) != Inner(0, 0.0, table.double())
    assert Inner(0, 0.0, table) != Inner(0, 0.0, torch.zeros(2, 2, dtype=torch.int64))
    assert Inner(0, 0.0, table) != "something else"


def test_the_repr_is_short():
    assert repr(Inner(3, 0.5, torch.zeros(400, 30))) == "Inner(count=3, loss=0.5, table=float32[400, 30])"
    assert len(repr(drawn(1))) < 250


def test_moving_to_where_it_is_changes_nothing():
    record = drawn(1)
    assert record.to("cpu") is record
    assert record.to("meta").layers[0].device.type == "meta"

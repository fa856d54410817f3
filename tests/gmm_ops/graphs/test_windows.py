"""R(p): window arithmetic against single taps, the known windows, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.windows import AxisWindow, Window
from tests.references.windows import Op, cropped_hull, tapped_positions

# A machine under load must not fail a law.
unhurried = settings(deadline=None)
ops = st.builds(Op, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
CONV = {"kernel": (3, 3), "padding": (1, 1)}
STRIDED = {**CONV, "stride": (2, 2)}
POOL = {"kernel": (2, 2), "stride": (2, 2)}


def walk(*steps: dict[str, tuple[int, int]]) -> Window:
    window = Window.identity()
    for step in steps:
        window = window.through(**step)
    return window


@unhurried
@given(chain=st.lists(ops, max_size=4), position=st.integers(0, 9), extent=st.integers(1, 40))
def test_a_window_is_the_hull_of_every_tap(chain: list[Op], position: int, extent: int) -> None:
    window = AxisWindow()
    for op in chain:
        window = window.through(*op)
    taps = tapped_positions(chain, position)
    start = window.stride * position + window.offset
    assert window.size is not None
    assert (start, start + window.size) == (min(taps), max(taps) + 1)
    cropped = window.range(position, extent)
    expected = cropped_hull(taps, extent)
    assert 0 <= cropped[0] <= cropped[1] <= extent
    assert cropped == expected if expected else cropped[0] == cropped[1]


@unhurried
@given(first=st.lists(ops, max_size=3), second=st.lists(ops, max_size=3), position=st.integers(0, 9))
def test_a_join_is_the_hull_of_both_branches(first: list[Op], second: list[Op], position: int) -> None:
    second = [op._replace(stride=1) for op in second]
    first = [op._replace(stride=1) for op in first]
    branches = []
    for chain in (first, second):
        window = AxisWindow()
        for op in chain:
            window = window.through(*op)
        branches.append(window)
    taps = tapped_positions(first, position) | tapped_positions(second, position)
    joined = branches[0].join(branches[1])
    assert joined == branches[1].join(branches[0])
    assert joined.size is not None
    assert joined.range(position, 10_000) == (max(min(taps), 0), max(max(taps) + 1, 0))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([CONV, STRIDED, CONV, CONV], (2, -5, 11), id="ResNet-20 add2 to add4"),
        pytest.param([CONV] * 4, (1, -4, 9), id="ResNet-20 add4 to add6"),
        pytest.param([CONV, CONV, CONV, STRIDED], (2, -7, 15), id="ResNet-20 add6 to add8"),
        pytest.param([CONV, POOL, CONV], (2, -3, 8), id="VGG-16 conv2_1 to conv3_1"),
        pytest.param([CONV, POOL, CONV, CONV], (2, -4, 10), id="VGG-16 conv3_1 to conv4_1"),
        pytest.param([CONV, CONV, CONV, STRIDED], (2, -7, 15), id="ResNet-50 add3 to add7"),
        pytest.param([CONV] * 5 + [STRIDED], (2, -11, 23), id="ResNet-50 add7 to add13"),
        pytest.param([CONV, CONV, STRIDED], (2, -5, 11), id="ResNet-50 add13 to add16"),
    ],
)
def test_known_windows(steps: list[dict[str, tuple[int, int]]], expected: tuple[int, int, int]) -> None:
    assert walk(*steps) == Window.square(*expected)


def test_axes_are_independent_and_bounds_are_cropped() -> None:
    window = Window.identity().through(kernel=(3, 5), stride=(1, 2), dilation=(1, 3), padding=(1, 0))
    assert window == Window(AxisWindow(1, -1, 3), AxisWindow(2, 0, 13))
    assert window.bounds(y=0, x=4, height=7, width=20) == (0, 8, 2, 20)
    assert window.bounds(y=9, x=30, height=7, width=20) == (7, 20, 7, 20)
    assert window.shape(7, 20) == (3, 13)


def test_a_whole_window_stays_whole_and_reads_every_position() -> None:
    whole = Window.whole().through(kernel=(3, 3), stride=(2, 2))
    assert whole == Window.whole() == Window.identity().join(whole) == whole.join(Window.identity())
    assert whole.rows.is_whole
    assert whole.bounds(0, 0, 8, 9) == (0, 0, 8, 9)
    assert whole.shape(8, 9) == (8, 9)


@pytest.mark.parametrize("window", [Window.whole(), Window.square(2, -5, 11), Window.identity()])
def test_json_round_trip(window: Window) -> None:
    assert Window.from_dict(json.loads(json.dumps(window.to_dict()))) == window


def test_refusals() -> None:
    with pytest.raises(RefusedInput, match=r"stride, size: both must be at least 1, got stride 1 and size 0"):
        AxisWindow(1, 0, 0)
    with pytest.raises(RefusedInput, match=r"got stride 2 and offset -1; use AxisWindow.whole"):
        AxisWindow(2, -1, None)
    with pytest.raises(RefusedInput, match=r"offset: must be a whole number, got 0.5"):
        AxisWindow(1, 0.5, 3)  # type: ignore[arg-type]
    with pytest.raises(RefusedInput, match=r"kernel, stride, dilation: each must be at least 1, got 0, 1, 1"):
        AxisWindow().through(kernel=0)
    with pytest.raises(RefusedInput, match=r"must have the same stride, got 1 and 2; measure the window"):
        AxisWindow().join(AxisWindow(2, 0, 3))
    with pytest.raises(RefusedInput, match=r"window: must have exactly the keys \['columns', 'rows'\], got \['rows'\]"):
        Window.from_dict({"rows": {"stride": 1, "offset": 0, "size": 1}})
    with pytest.raises(RefusedInput, match=r"window.rows: must have exactly the keys .* got \['stride'\]"):
        Window.from_dict({"rows": {"stride": 1}, "columns": {"stride": 1}})

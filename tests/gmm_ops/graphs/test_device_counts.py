"""Counts by tensor operations against the compiled kernels and the double loop, on the CPU and a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs import cooccurrence, device_counts, offset_histogram
from gmm_ops.graphs.cooccurrence import OffsetHistogram, SparseCounts, count_pairs
from gmm_ops.graphs.device_counts import count_groups_on, count_keys, count_offsets_on, count_pairs_on, key_type
from gmm_ops.graphs.windows import AxisWindow, Window
from gmm_ops.graphs.word_maps import on_device, word_arrays, word_tensors
from tests.gmm_ops.graphs.test_cooccurrence import MAPS, Layers, groups_of, layers, unhurried
from tests.references import cooccurrence as slow

slices = st.sampled_from([None, 1, 17, 200])
"""Keys at once: all, and so few that images and rows of windows are cut."""


def edges_of(case: Layers, seed: int, n_edges: int) -> torch.Tensor:
    """(E, 2), with equal edges among them, and with words that no column carries."""
    random = torch.Generator().manual_seed(seed)
    words = [torch.randint(0, size + 1, (n_edges,), generator=random) for size in (case.n_upper, case.n_lower)]
    return torch.stack(words, dim=1)


def drawn() -> tuple[Layers, torch.Tensor, torch.Tensor]:
    """Word maps of 50 images, a group of each, 20 edges."""
    random = torch.Generator().manual_seed(7)
    upper, lower = (torch.randint(-1, n, (50, size, size), generator=random) for n, size in ((40, 14), (60, 28)))
    groups, edges = torch.randint(-1, 4, (50,), generator=random), torch.randint(0, 40, (20, 2), generator=random)
    return Layers(upper, lower, Window.square(2, -4, 10), 40, 60), groups, edges


@unhurried
@given(case=layers(), keys_at_once=slices)
def test_tensors_count_what_the_kernels_and_the_loop_count(case: Layers, keys_at_once: int | None) -> None:
    counts = count_pairs_on(*case, keys_at_once=keys_at_once)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, count_pairs(*case))
    assert torch.equal(counts, slow.pair_counts(*case))


@unhurried
@given(case=layers(), seed=st.integers(0, 9), keys_at_once=slices, cells_a_key=st.sampled_from([0, 4, 1000]))
def test_groups_are_counted_as_the_kernels_do(
    case: Layers, seed: int, keys_at_once: int | None, cells_a_key: int
) -> None:
    groups = groups_of(case, seed) * 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_counts, "CELLS_A_KEY", cells_a_key)
        table = SparseCounts.from_rows(*count_groups_on(*case, groups, keys_at_once=keys_at_once))
    assert table == SparseCounts.from_batch(*case, groups=groups)


@unhurried
@given(case=layers(), seed=st.integers(0, 9), n_edges=st.integers(0, 6), keys_at_once=slices)
def test_offsets_are_counted_as_the_kernel_and_the_loop_do(
    case: Layers, seed: int, n_edges: int, keys_at_once: int | None
) -> None:
    edges = edges_of(case, seed, n_edges)
    found = count_offsets_on(case.upper, case.lower, case.window, edges, keys_at_once)
    assert OffsetHistogram(*found) == OffsetHistogram.from_batch(case.upper, case.lower, case.window, edges)
    assert all(map(torch.equal, found, slow.offset_histogram(case.upper, case.lower, case.window, edges)))


@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 2, 4), (2, 2, 1, 0), (7, 3, 2, 6)])
def test_windows_of_convolutions(kernel: tuple[int, int, int, int]) -> None:
    """Kernel, stride, dilation, padding of a convolution and a pooling; twice, and of the output over all of a map."""
    random = torch.Generator().manual_seed(5)
    axis = AxisWindow().through(2, 2).through(*kernel)
    lower = torch.randint(-1, 30, (6, 33, 29), generator=random)
    for window, shape in ((Window(axis, AxisWindow().through(*kernel)), (11, 13)), (Window.whole(), (1, 1))):
        upper = torch.randint(-1, 9, (6, *shape), generator=random)
        case = Layers(upper, lower, window, 9, 30)
        assert torch.equal(count_pairs_on(*case, keys_at_once=5000), count_pairs(*case))


def test_relabelled_words_have_relabelled_counts() -> None:
    random = torch.Generator().manual_seed(6)
    upper, lower = (torch.randint(0, 8, (3, size, size), generator=random) for size in (4, 8))
    window, order = Window.square(2, -1, 4), torch.randperm(8, generator=random)
    counts = count_pairs_on(order[upper], order[lower], window, 8, 8)
    assert torch.equal(counts[order][:, order], count_pairs_on(upper, lower, window, 8, 8))


def test_keys_are_wide_where_32_bits_do_not_hold_them() -> None:
    assert (key_type(2**31 - 1), key_type(2**31)) == (torch.int32, torch.int64)
    words = torch.tensor([[[60_000, -1, 3]]])
    many = 65_536
    (group, *rest) = count_groups_on(words, words, Window.square(1, -1, 3), many, many, torch.tensor([7]))
    assert group.tolist() == [7, 7]
    assert [column.tolist() for column in rest] == [[3, 60_000], [3, 60_000], [1, 1]]


def test_few_keys_of_many_cells_are_sorted_and_not_spread() -> None:
    keys = torch.tensor([2**40, 5, 2**40])
    assert [part.tolist() for part in count_keys(keys, 2**41)] == [[5, 2**40], [1, 2]]
    assert [part.tolist() for part in count_keys(torch.tensor([3, 1, 3]), 5)] == [[1, 3], [1, 2]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_checked_tensors_are_the_checked_arrays(dtype: torch.dtype) -> None:
    words = torch.arange(-4 if dtype.is_signed else 0, 14).reshape(1, -1, 2).to(dtype)
    arrays, tensors = word_arrays(words, words, 14, 14), word_tensors(words, words, 14, 14)
    assert all(torch.equal(torch.from_numpy(a), t) for a, t in zip(arrays, tensors, strict=True))


@pytest.mark.parametrize(
    ("upper", "lower", "sizes", "words"),
    [
        (MAPS + 4, MAPS, (4, 1), r"upper: every word must be below 4 .*, got word 4; pass the number of words"),
        (MAPS, MAPS[:1], (1, 1), r"both must hold the same images, got 2 and 1 images"),
        (MAPS[0], MAPS, (1, 1), r"upper: must have the axes \(images, rows, columns\), got shape \(3, 3\)"),
        (MAPS, MAPS.double(), (1, 1), r"lower: must hold integers, got float64; pass hard words, not posteriors"),
    ],
)
def test_tensors_are_refused_as_arrays_are(
    upper: torch.Tensor, lower: torch.Tensor, sizes: tuple[int, int], words: str
) -> None:
    with pytest.raises(RefusedInput, match=words):
        word_tensors(upper, lower, *sizes)


def test_the_doors_take_tensors_where_maps_lie_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, here with maps on the CPU that are said to lie on one."""
    case, groups, edges = drawn()
    counted = count_pairs(*case), SparseCounts.from_batch(*case, groups=groups)
    histogram = OffsetHistogram.from_batch(*case[:3], edges)
    for module in (cooccurrence, offset_histogram):
        monkeypatch.setattr(module, "on_device", lambda *maps: True)
        monkeypatch.setattr(module, "word_arrays", None)
    assert torch.equal(count_pairs(*case), counted[0])
    assert SparseCounts.from_batch(*case, groups=groups) == counted[1]
    assert OffsetHistogram.from_batch(*case[:3], edges) == histogram
    with pytest.raises(RefusedInput, match=r"groups: must name one group for each of the 50 images, got 49"):
        SparseCounts.from_batch(*case, groups=groups[1:])


def test_maps_on_two_devices_and_lists_are_counted_on_the_cpu() -> None:
    assert on_device(MAPS.to("meta"), MAPS.to("meta"))
    assert not on_device(MAPS, MAPS.to("meta"))
    assert not on_device(MAPS.tolist(), MAPS.tolist())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_counts_the_same_integers() -> None:
    case, groups, edges = drawn()
    there = case._replace(upper=case.upper.cuda(), lower=case.lower.cuda())
    assert torch.equal(count_pairs(*there), count_pairs(*case))
    assert SparseCounts.from_batch(*there, groups=groups) == SparseCounts.from_batch(*case, groups=groups)
    assert OffsetHistogram.from_batch(*there[:3], edges) == OffsetHistogram.from_batch(*case[:3], edges)

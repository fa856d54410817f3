"""Words x words counts against the double loop, and the laws of the three mergeable tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs import sliding_histogram
from gmm_ops.graphs.cooccurrence import OffsetHistogram, SparseCounts, WordCounts, count_pairs, count_words
from gmm_ops.graphs.sliding_histogram import Kernel, cheaper_kernel
from gmm_ops.graphs.windows import AxisWindow, Window
from tests.references import cooccurrence as slow

# The first call of a kernel compiles it, which no time limit for one example allows for.
unhurried = settings(deadline=None)


class Layers(NamedTuple):
    upper: torch.Tensor
    lower: torch.Tensor
    window: Window
    n_upper: int
    n_lower: int

    def part(self, images: slice) -> Layers:
        return self._replace(upper=self.upper[images], lower=self.lower[images])


axis_windows = st.one_of(
    st.builds(AxisWindow, st.integers(1, 3), st.integers(-6, 3), st.integers(1, 9)), st.just(AxisWindow.whole())
)


@st.composite
def layers(draw: st.DrawFn) -> Layers:
    n_images, n_upper, n_lower = draw(st.integers(0, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 40))
    upper_shape = draw(st.sampled_from([(1, 1), (1, 3), (4, 3), (5, 5)]))
    lower_shape = draw(st.sampled_from([(1, 1), (2, 7), (6, 5), (8, 8)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lowest = draw(st.sampled_from([0, -1, -3]))
    upper = random.integers(lowest, n_upper, (n_images, *upper_shape))
    lower = random.integers(lowest, n_lower, (n_images, *lower_shape))
    window = draw(st.builds(Window, axis_windows, axis_windows))
    return Layers(torch.from_numpy(upper), torch.from_numpy(lower), window, n_upper, n_lower)


def groups_of(case: Layers, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-1, 3, len(case.upper)))


def rows_of(table: SparseCounts | WordCounts) -> list[tuple[int, ...]]:
    columns = [getattr(table, name).tolist() for name in table.__dataclass_fields__]
    return list(zip(*columns, strict=True))


@unhurried
@given(case=layers(), kernel=st.sampled_from(["direct", "sliding", None]), n_threads=st.integers(1, 3))
def test_counts_equal_the_double_loop(case: Layers, kernel: Kernel | None, n_threads: int) -> None:
    counts = count_pairs(*case, n_threads=n_threads, kernel=kernel)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, slow.pair_counts(*case))


@unhurried
@given(case=layers(), cut=st.integers(0, 4))
def test_counts_do_not_depend_on_the_split_of_images(case: Layers, cut: int) -> None:
    parts = count_pairs(*case.part(slice(cut))) + count_pairs(*case.part(slice(cut, None)))
    assert torch.equal(parts, count_pairs(*case))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint8])
def test_word_maps_of_any_integer_type_and_layout(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    upper = torch.randint(0, 9, (3, 4, 4), generator=generator).to(dtype).transpose(1, 2)
    lower = torch.randint(0, 7, (3, 8, 8), generator=generator).to(dtype)[:, :, ::2]
    case = Layers(upper, lower, Window(AxisWindow(2, -1, 3), AxisWindow(1, 0, 2)), 9, 7)
    assert torch.equal(count_pairs(*case), slow.pair_counts(*case))


def test_a_very_negative_word_is_no_word() -> None:
    words = torch.tensor([[[-(2**32) + 1, 1]]])
    assert count_pairs(words, words, Window.identity(), 2, 2).tolist() == [[0, 0], [0, 1]]


def test_narrow_bins_are_emptied_before_they_overflow() -> None:
    # One word everywhere: every window adds its full 121 positions to one bin, 65,535 is passed many times.
    upper, lower = torch.zeros(5, 20, 20, dtype=torch.int64), torch.zeros(5, 41, 41, dtype=torch.int64)
    window = Window.square(2, -5, 11)
    inside = sum(np.subtract(*window.rows.range(y, 41)[::-1]) for y in range(20))
    assert 5 * inside**2 > 2 * 65_535
    counts = count_pairs(upper, lower, window, 1, 1, kernel="sliding")
    assert counts.item() == 5 * inside**2


def test_a_window_beyond_the_narrow_bins_is_counted_directly() -> None:
    upper, lower = torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 300, 300, dtype=torch.int64)
    assert count_pairs(upper, lower, Window.whole(), 1, 1).item() == 90_000


def test_the_cost_model_takes_both_kernels() -> None:
    def chosen(window: Window, upper: int, lower: int, n_lower: int) -> Kernel:
        spans = sliding_histogram.axis_spans(window.rows, upper, lower)
        return cheaper_kernel(spans, spans, lower, n_lower)

    assert chosen(Window.square(2, -5, 11), 16, 32, 100) == "sliding"
    assert chosen(Window.square(2, -4, 10), 14, 28, 450) == "sliding"
    assert chosen(Window.square(1, -1, 3), 16, 16, 100) == "direct"
    assert chosen(Window.whole(), 1, 8, 100) == "direct"


@unhurried
@given(case=layers(), seed=st.integers(0, 9), n_threads=st.integers(1, 3))
def test_group_counts_equal_the_double_loop_and_add_up(case: Layers, seed: int, n_threads: int) -> None:
    groups = groups_of(case, seed)
    table = SparseCounts.from_batch(*case, groups=groups, n_threads=n_threads)
    assert rows_of(table) == slow.group_rows(case.upper, case.lower, case.window, groups)
    sizes = (case.n_upper, case.n_lower)
    kept = case._replace(upper=case.upper[groups >= 0], lower=case.lower[groups >= 0])
    assert torch.equal(table.total(*sizes), count_pairs(*kept))
    assert torch.equal(sum((table.dense(g, *sizes) for g in range(3)), torch.zeros(sizes)), table.total(*sizes))
    alone = case._replace(upper=case.upper[groups == 1], lower=case.lower[groups == 1])
    assert torch.equal(table.dense(1, *sizes), count_pairs(*alone))


@unhurried
@given(case=layers(), seed=st.integers(0, 9), order=st.permutations(range(4)))
def test_sparse_counts_merge_in_any_order_to_the_same_table(case: Layers, seed: int, order: list[int]) -> None:
    groups = groups_of(case, seed)
    whole = SparseCounts.from_batch(*case, groups=groups)
    merged = SparseCounts.zero()
    for image in order:
        images = slice(image, image + 1)
        merged = merged + SparseCounts.from_batch(*case.part(images), groups=groups[images])
    assert merged == whole
    assert SparseCounts.zero().merge(whole) == whole
    assert rows_of(whole + whole) == [(*key, 2 * count) for *key, count in rows_of(whole)]
    shuffled = torch.randperm(len(whole.count), generator=torch.Generator().manual_seed(seed))
    columns = [column[shuffled] for column in (whole.group, whole.upper, whole.lower, whole.count)]
    assert SparseCounts.from_rows(*columns) == whole
    assert SparseCounts.from_rows(*(torch.cat([column, column]) for column in columns)) == whole + whole


@unhurried
@given(case=layers(), seed=st.integers(0, 9), cut=st.integers(0, 4))
def test_word_counts(case: Layers, seed: int, cut: int) -> None:
    groups = groups_of(case, seed)
    table = count_words(case.lower, groups, case.n_lower)
    expected = slow.word_rows(case.lower, groups)
    assert rows_of(table) == expected
    parts = [count_words(case.lower[part], groups[part], case.n_lower) for part in (slice(cut), slice(cut, None))]
    assert (parts[0] + parts[1]) == table
    assert parts[1].merge(parts[0]) == table
    total = [sum(row[2] for row in expected if row[1] == word) for word in range(case.n_lower)]
    assert table.total(case.n_lower).tolist() == total
    first = [sum(row[2] for row in expected if row[:2] == (0, word)) for word in range(case.n_lower)]
    assert table.dense(0, case.n_lower).tolist() == first


@unhurried
@given(case=layers(), seed=st.integers(0, 9), cut=st.integers(0, 4), n_edges=st.integers(0, 5))
def test_offset_histogram_equals_the_slow_loop_and_merges(case: Layers, seed: int, cut: int, n_edges: int) -> None:
    random = np.random.default_rng(seed)
    edges = torch.from_numpy(
        np.stack([random.integers(0, case.n_upper, n_edges), random.integers(0, case.n_lower, n_edges)], axis=1)
    )
    histogram = OffsetHistogram.from_batch(case.upper, case.lower, case.window, edges)
    counts, inside = slow.offset_histogram(case.upper, case.lower, case.window, edges)
    assert torch.equal(histogram.counts, counts)
    assert torch.equal(histogram.inside, inside)
    merged = OffsetHistogram.zero(len(edges), *case.window.shape(*case.lower.shape[1:]))
    for part in (slice(cut, None), slice(cut)):
        merged = merged + OffsetHistogram.from_batch(case.upper[part], case.lower[part], case.window, edges)
    assert torch.equal(merged.counts, counts)
    assert torch.equal(merged.inside, inside)
    # Over all window offsets, an edge is counted as often as its pair of words.
    pairs = count_pairs(*case)
    assert counts.sum((1, 2)).tolist() == [int(pairs[s, t]) for s, t in edges.tolist()]


def test_borders_do_not_bias_the_offset_histogram() -> None:
    # The lower word is everywhere, so it holds every offset whenever that offset is inside the map.
    words = torch.zeros(2, 6, 6, dtype=torch.int64)
    histogram = OffsetHistogram.from_batch(words, words, Window.square(1, -2, 5), torch.tensor([[0, 0]]))
    assert histogram.counts[0, 0, 0] == 2 * 4 * 4
    assert histogram.counts[0, 2, 2] == 2 * 6 * 6
    assert torch.equal(histogram.frequency(), torch.ones(1, 5, 5, dtype=torch.float64))


def test_offsets_of_a_whole_window_are_absolute_positions() -> None:
    upper = torch.tensor([[[1]], [[1]], [[0]]])
    lower = torch.zeros(3, 4, 6, dtype=torch.int64)
    lower[0, 3, 2], lower[2, 3, 2] = 5, 5
    histogram = OffsetHistogram.from_batch(upper, lower, Window.whole(), torch.tensor([[1, 5]]))
    expected = torch.zeros(1, 4, 6, dtype=torch.float64)
    expected[0, 3, 2] = 0.5
    assert torch.equal(histogram.frequency(), expected)


def test_an_offset_that_was_never_inside_has_no_frequency() -> None:
    words = torch.zeros(1, 1, 1, dtype=torch.int64)
    frequency = OffsetHistogram.from_batch(words, words, Window.square(1, -1, 3), torch.tensor([[0, 0]])).frequency()
    assert frequency[0, 1, 1] == 1
    assert torch.isnan(frequency).sum() == 8


@unhurried
@given(case=layers(), seed=st.integers(0, 9))
def test_relabelling_words_relabels_the_counts(case: Layers, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    new_upper = torch.randperm(case.n_upper, generator=generator)
    new_lower = torch.randperm(case.n_lower, generator=generator)
    renamed = case._replace(
        upper=torch.where(case.upper < 0, -1, new_upper[case.upper.clamp(min=0)]),
        lower=torch.where(case.lower < 0, -1, new_lower[case.lower.clamp(min=0)]),
    )
    assert torch.equal(count_pairs(*renamed)[new_upper][:, new_lower], count_pairs(*case))


def test_many_groups_need_one_dense_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    build = sliding_histogram.PairCounter.__init__

    def counted(self: sliding_histogram.PairCounter, *args: object, **kwargs: object) -> None:
        made.append(1)
        build(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(sliding_histogram.PairCounter, "__init__", counted)
    random = torch.Generator().manual_seed(0)
    upper = torch.randint(0, 1500, (1000, 2, 2), generator=random)
    lower = torch.randint(0, 450, (1000, 4, 4), generator=random)
    case = Layers(upper, lower, Window.square(2, -1, 4), 1500, 450)
    table = SparseCounts.from_batch(*case, groups=torch.randperm(1000, generator=random))
    assert len(made) == 1
    assert torch.equal(table.total(1500, 450), count_pairs(*case))
    assert len(table.group.unique()) == 1000


MAPS = torch.zeros(2, 3, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("upper", "lower", "sizes", "words"),
    [
        (MAPS + 4, MAPS, (4, 1), r"upper: every word must be below 4 .*, got word 4; pass the number of words"),
        (MAPS, MAPS + 7, (1, 7), r"lower: every word must be below 7 .*, got word 7"),
        (MAPS, MAPS[:1], (1, 1), r"both must hold the same images, got 2 and 1 images"),
        (MAPS[0], MAPS, (1, 1), r"upper: must have the axes \(images, rows, columns\), got shape \(3, 3\)"),
        (MAPS, MAPS.double(), (1, 1), r"lower: must hold integers, got float64; pass hard words, not posteriors"),
        (MAPS, MAPS, (0, 1), r"n_upper: must be at least 1 and fit in int32, got 0"),
    ],
)
def test_refused_maps(upper: torch.Tensor, lower: torch.Tensor, sizes: tuple[int, int], words: str) -> None:
    with pytest.raises(RefusedInput, match=words):
        count_pairs(upper, lower, Window.identity(), *sizes)


def test_refused_tables() -> None:
    ones, descending = torch.ones(2, dtype=torch.int64), torch.tensor([1, 0])
    with pytest.raises(RefusedInput, match=r"groups: must name one group for each of the 2 images, got 3"):
        SparseCounts.from_batch(MAPS, MAPS, Window.identity(), 1, 1, groups=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RefusedInput, match=r"rows must be sorted and unique; use from_rows"):
        SparseCounts(group=ones, upper=ones, lower=descending, count=ones)
    with pytest.raises(
        RefusedInput, match=r"columns must be int64 and of one length, got .*int32.*of lengths \[2, 2, 2\]"
    ):
        WordCounts(group=ones.int(), word=ones, count=ones)
    with pytest.raises(RefusedInput, match=r"counts at least 1, got the minima \[1, 0, 0\]"):
        WordCounts(group=ones, word=torch.tensor([0, 1]), count=descending)
    with pytest.raises(RefusedInput, match=r"must not be negative, got the minima \[1, -1, 1\]"):
        WordCounts.from_rows(ones, -ones, ones)
    table = WordCounts(group=ones[:1], word=ones[:1], count=ones[:1])
    with pytest.raises(
        RefusedInput, match=r"n_words: must exceed every word of the table, got \(1,\) for words up to \(1,\)"
    ):
        table.total(1)
    far = torch.tensor([2**40])
    with pytest.raises(RefusedInput, match=r"must fit together into 63 bits, got columns of \(41, 41\) bits"):
        WordCounts(group=far, word=far, count=ones[:1])
    with pytest.raises(RefusedInput, match=r"edges: must hold \(upper word, lower word\), neither negative"):
        OffsetHistogram.from_batch(MAPS, MAPS, Window.identity(), torch.tensor([[0, -1]]))
    with pytest.raises(
        RefusedInput, match=r"counts: must have the same shape in what is merged, got \(2, 3, 3\) and \(1, 3, 3\)"
    ):
        OffsetHistogram.zero(2, 3, 3).merge(OffsetHistogram.zero(1, 3, 3))

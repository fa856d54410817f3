"""Marks on real images: planted ones in a network trained from scratch, decoys that it never saw, found or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.planted_marks import (
    DECOYS,
    KINDS,
    PLANTED,
    SHARE,
    MarkWord,
    best_word,
    by_label,
    chosen_marks,
    marked,
    on_cells,
)
from tests.benchmarks.shortcuts import FIRST, Size, planted_network


@pytest.mark.slow
@pytest.mark.usefixtures("shared_data", "local_ray")
def test_planted_marks_are_found_and_decoys_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One network of a seed of its own; the benchmark has five."""
    monkeypatch.chdir(Path(__file__).parents[2])
    cases, _ = planted_network(tmp_path, 0, 1, Size())
    planted, decoys = ([case for case in cases if case.mark.planted == one] for one in (True, False))
    assert all(case.attack > 0.9 and case.before < 0.3 for case in planted), "else nothing is planted"
    assert all(case.attack < 0.3 for case in decoys)
    assert sum(case.rank < FIRST for case in planted) >= PLANTED - 1
    assert sum(case.used for case in planted) >= PLANTED - 1
    assert not any(case.used for case in decoys)


def test_marks_are_of_every_kind_and_stay_where_they_are_fixed() -> None:
    pictures = np.full((40, 32, 32, 3), 90, np.uint8)
    for network in range(4):
        marks = chosen_marks(network, seed=5)
        assert [mark.kind for mark in marks[:PLANTED]] == list(KINDS)
        assert [mark.planted for mark in marks] == [True] * PLANTED + [False] * DECOYS
        assert len(by_label(marks)) == len({mark.colour for mark in marks}) == len(marks)
        for mark in marks:
            places = {mark.drawn(one, np.random.default_rng(at))[1].tobytes() for at, one in enumerate(pictures)}
            assert (len(places) == 1) == mark.fixed
    assert {chosen_marks(network, 5)[0].fixed for network in range(2)} == {True, False}


def test_marked_images_get_the_class_and_decoys_keep_theirs() -> None:
    chance, marks = np.random.default_rng(0), chosen_marks(0, seed=5)
    pictures, labels = chance.integers(0, 255, (500, 32, 32, 3), np.uint8), chance.integers(0, 10, 500)
    found, learned = (marked(pictures, labels, marks, one, seed=3) for one in (False, True))
    for mark in marks:
        own = found.mark == mark.label
        assert (found.labels[own] == mark.label).all()
        if mark.planted:
            assert own.sum() == round(SHARE * 500)
            assert (labels[own] != mark.label).all()
        else:
            assert 0 < own.sum() <= (labels == mark.label).sum()
            met = learned.mark == mark.label
            assert met.sum() == (round(SHARE * 500) if mark.role == "ignored" else 0)
            assert (learned.labels[met] == labels[met]).all()
    assert (found.labels[found.mark < 0] == labels[found.mark < 0]).all()
    changed = (found.pictures != pictures).any(axis=3)
    assert not (changed & ~found.where).any()
    assert np.array_equal(found.where.any(axis=(1, 2)), found.mark >= 0)


def test_the_marks_word_is_the_one_that_covers_its_cells() -> None:
    where = np.zeros((2, 32, 32), bool)
    where[0, 3:9, 16:20] = True
    cells = on_cells(where, 8, 8)
    assert cells[0].nonzero()[0].tolist() == [0, 1, 2]
    assert cells[0].nonzero()[1].tolist() == [4, 4, 4]
    words = np.zeros((2, 8, 8), np.int16)
    words[0, 1:4, 4] = 2
    assert best_word(words, cells, 3) == MarkWord(2, 2 / 4)
    assert best_word(words, cells, 3).is_own
    words[:] = 2
    assert not best_word(words, cells, 3).is_own, "it is everywhere"

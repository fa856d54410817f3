"""Which sub-clusters, examples and marks a decision junction shows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workflows.report.made_up_graphs import CIFAR_NAMES
from tests.workflows.report.made_up_paths import (
    ManyPictures,
    made_up_junction,
    made_up_members,
    made_up_naming,
)
from workflows.report.junction_members import (
    ERROR_PICTURES,
    ExplainedImage,
    JunctionMembers,
    build_junction_view,
    choose_subclusters,
    sampled_rows,
)


def test_subclusters_are_the_largest_words_with_one_percent() -> None:
    upper = np.repeat([5, 2, 9, 4], [50, 100, 50, 2])
    assert choose_subclusters(upper) == [2, 5, 9], "ties: lowest word; 2 of 202 are less than 1 %"
    assert choose_subclusters(np.repeat([5, 4], [198, 2])) == [5, 4], "exactly 1 % is enough"
    assert choose_subclusters(np.repeat(np.arange(12), np.arange(30, 18, -1))) == list(range(8))
    assert choose_subclusters(np.empty(0, np.int64)) == []


def test_members_of_small_words_are_others_with_their_numbers() -> None:
    view = made_up_junction([300, 200, 4, 3])
    assert [part.word.word for part in view.subclusters] == [0, 1]
    assert [part.members for part in view.subclusters] == [300, 200]
    assert view.others is not None
    assert (view.others.words, view.others.members) == (2, 7)
    assert sum(part.share for part in view.subclusters) + view.others.share == pytest.approx(1)
    assert sum(len(part.points) for part in view.subclusters) + len(view.others.points) == view.shown == 507
    assert made_up_junction([30, 20]).others is None


def test_others_do_not_choose_the_plane() -> None:
    members = made_up_members([300, 200, 100, 4])
    moved = members.columns.copy()
    moved[members.upper == 3] += 1000
    other = JunctionMembers(members.image, members.upper, members.label, members.rows, moved)
    views = [build_junction_view(2, each, made_up_naming()) for each in (members, other)]
    for before, after in zip(views[0].subclusters, views[1].subclusters, strict=True):
        np.testing.assert_allclose(before.points, after.points, atol=1e-9)


def test_examples_are_the_members_nearest_to_the_centre() -> None:
    members = made_up_members([60, 50, 40])
    view = build_junction_view(2, members, made_up_naming(), pictures=ManyPictures())
    for part in view.subclusters:
        own = members.image[members.upper == part.word.word]
        centre = part.points.mean(axis=0)
        by_hand = sorted(range(len(own)), key=lambda row: float(np.hypot(*(part.points[row] - centre))))[:3]
        assert [example.image for example in part.examples] == own[by_hand].tolist()
        for example in part.examples:
            row = int(np.flatnonzero(members.image == example.image)[0])
            assert example.label == CIFAR_NAMES[members.label[row]]
            np.testing.assert_array_equal(example.picture, ManyPictures().read(example.image))


def test_dominant_class_and_share_count_all_members() -> None:
    members = made_up_members([90, 60])
    few = JunctionMembers(members.image, members.upper, members.label, np.arange(0, 150, 5), members.columns[::5])
    view = build_junction_view(2, few, made_up_naming())
    assert (view.members, view.shown) == (150, 30)
    for part in view.subclusters:
        labels = members.label[members.upper == part.word.word]
        counts = np.bincount(labels)
        assert part.word.dominant_class == CIFAR_NAMES[counts.argmax()]
        assert part.word.dominant_share == pytest.approx(counts.max() / len(labels))
        assert part.members == len(labels)
    assert sum(len(part.points) for part in view.subclusters) == 30


def test_the_image_marks_its_own_subcluster_and_the_expected_one() -> None:
    members = made_up_members([60, 50, 40])
    row = int(np.flatnonzero(members.upper == 2)[0])
    image = ExplainedImage(members.columns[row], taken=2, expected=0)
    view = build_junction_view(2, members, made_up_naming(), image=image)
    assert [(part.word.word, part.taken, part.expected) for part in view.subclusters] == [
        (0, False, True),
        (1, False, False),
        (2, True, False),
    ]
    own = np.flatnonzero(members.upper == 2).tolist().index(row)
    np.testing.assert_allclose(view.image_point, view.subclusters[2].points[own], atol=1e-9)


def test_a_rare_way_is_shown_apart_and_moves_no_other_point() -> None:
    members = made_up_members([300, 200, 3, 2])
    plain = build_junction_view(2, members, made_up_naming())
    image = ExplainedImage(members.columns[0], taken=3, expected=7)
    view = build_junction_view(2, members, made_up_naming(), image=image)
    assert [part.word.word for part in view.subclusters] == [0, 1, 3, 7]
    assert [part.members for part in view.subclusters] == [300, 200, 2, 0]
    assert view.others is not None
    assert (view.others.words, view.others.members) == (1, 3)
    assert view.subclusters[3].examples == ()
    for before, after in zip(plain.subclusters, view.subclusters, strict=False):
        np.testing.assert_array_equal(before.points, after.points)


def test_names_of_classes_at_a_junction_into_the_output() -> None:
    view = made_up_junction([40, 30], level=3, levels=3)
    assert [part.word.name for part in view.subclusters] == ["airplane", "automobile"]
    assert view.upper_title == "output"
    assert [part.word.name for part in made_up_junction([40, 30]).subclusters] == ["word 0", "word 1"]


def test_all_errors_have_points_and_the_first_ones_pictures() -> None:
    view = made_up_junction([60, 50], errors=20)
    assert len(view.errors) == 20
    assert sum(error.image.picture is not None for error in view.errors) == ERROR_PICTURES
    assert [error.image.image for error in view.errors[:3]] == [900, 901, 902]
    moved = np.stack([error.point for error in view.errors]) - _points(view, made_up_members([60, 50]))[:20]
    assert np.linalg.norm(moved[0]) > 0, "the errors are the first members, every unit 1 higher"
    np.testing.assert_allclose(moved, np.tile(moved[0], (20, 1)), atol=1e-9)


def _points(view, members: JunctionMembers) -> np.ndarray:
    """Points of the members in their order."""
    found = np.empty((len(members.image), 2))
    for part in view.subclusters:
        found[members.upper == part.word.word] = part.points
    return found


def test_a_word_without_members_has_a_view() -> None:
    image = ExplainedImage(np.ones(12), taken=4)
    view = made_up_junction([], image=image)
    assert (view.members, [part.word.word for part in view.subclusters]) == (0, [4])
    np.testing.assert_array_equal(np.isfinite(view.image_point), [True, True])


def test_the_sample_is_seeded_ascending_and_whole_if_possible() -> None:
    assert sampled_rows(5, 10, (1, 2)).tolist() == [0, 1, 2, 3, 4]
    chosen = sampled_rows(10_000, 2000, (0, 2, 17))
    assert len(np.unique(chosen)) == 2000
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, sampled_rows(10_000, 2000, (0, 2, 17)))
    assert not np.array_equal(chosen, sampled_rows(10_000, 2000, (0, 2, 18)))

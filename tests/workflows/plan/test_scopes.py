"""Scopes from a confusion matrix, their labels, and what is refused or warned of before a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_ops.graphs.windows import Window
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope_sizes import refuse_lone_classes, scope_sizes, thin_dictionaries
from workflows.plan.scopes import (
    Confusions,
    Scope,
    class_scope,
    class_scopes,
    item_name,
    joint_scope,
    known_scopes,
    plan_scopes,
    read_scopes,
    split_item,
    write_scopes,
)
from workflows.settings import Settings, parse_settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder

NAMES = ("cat", "dog", "fox", "gnu", "hen")
LAYER = LayerPlan("layer1.add", "add1", 4, 2, 2, 5, 4, None, Window.identity())
TRAIN = 30
"""Training images of every class."""
CONFUSED = [
    (0, 0, 5), (0, 1, 2), (0, 2, 2), (0, 3, 1),
    (1, 1, 6), (1, 0, 1),
    (2, 2, 4),
    (3, 0, 3),
    (4, 4, 2), (4, 2, 1),
]  # fmt: skip
"""(true class, predicted class, validation images): every gnu is taken for a cat, no fox for anything else."""


def images_of(cells: list[tuple[int, int, int]] = CONFUSED, train: int = TRAIN) -> ImageColumns:
    label = np.concatenate([np.repeat(range(5), train), *(np.full(n, true) for true, _, n in cells), [4]])
    predicted = np.concatenate([np.repeat(range(5), train), *(np.full(n, other) for _, other, n in cells), [-1]])
    return ImageColumns(label.astype(np.int64), predicted.astype(np.int64), np.full(len(label), 0.9))


def plan_of(images: ImageColumns, train: int = TRAIN, **layer: Any) -> Plan:
    layers = (LayerPlan(**{**LAYER.__dict__, **layer}),)
    return Plan(layers, NAMES, len(images.label), 5 * train, 8, 8, "w.pt")


def settings_of(classes: list[str] | None = None, **fit: Any) -> Settings:
    raw = {
        "name": "toy",
        "data": {"source": "digits"},
        "network": {"name": "package.module:net", "weights": "w.pt", "layers": ["add1"]},
        "fit": {"words": [5], **fit},
        "mine": {"classes": classes or ["all"]},
    }
    return parse_settings(raw)


def planned(images: ImageColumns | None = None, train: int = TRAIN, **settings: Any) -> tuple[Scope, ...]:
    images = images if images is not None else images_of(train=train)
    return plan_scopes(settings_of(**settings), plan_of(images, train), images)


IMAGES = images_of()
PLAN = plan_of(IMAGES)


def neighbours(label: int, **fit: Any) -> tuple[int, ...]:
    return class_scope(label, Confusions.of(PLAN, IMAGES), settings_of(**fit).fit).labels


def test_the_confusion_matrix_leaves_out_training_and_broken() -> None:
    found = Confusions.of(PLAN, IMAGES)
    cells = zip(found.label.tolist(), found.predicted.tolist(), found.count.tolist(), strict=True)
    assert sorted(cells) == sorted(CONFUSED)


def test_neighbours_are_what_the_class_is_taken_for() -> None:
    assert neighbours(0) == (0, 1, 2, 3)
    assert neighbours(1) == (0, 1)
    assert neighbours(3) == (0, 3), "not the cat that is taken for a gnu: rows count, not columns"
    assert neighbours(4) == (2, 4)


def test_few_confusions_make_no_neighbour() -> None:
    assert neighbours(0, min_confusions=2) == (0, 1, 2)
    assert neighbours(0, min_confusions=3) == (0,)


def test_most_frequent_neighbours_stay_and_ties_go_to_the_lowest() -> None:
    assert neighbours(0, max_neighbours=1) == (0, 1), "dog and fox tie"
    assert neighbours(0, max_neighbours=2) == (0, 1, 2)
    most = images_of([(0, 0, 5), (0, 1, 1), (0, 4, 3)])
    scope = class_scope(0, Confusions.of(plan_of(most), most), settings_of(max_neighbours=1).fit)
    assert scope == Scope("class-0", (0, 4), False, (0,))


def test_a_class_without_neighbours_is_alone() -> None:
    assert neighbours(2) == (2,)


def test_scopes_come_joint_then_classes_then_lists() -> None:
    lists = [{"name": "pets", "classes": ["dog", "0"], "rest": True}]
    scopes = planned(scopes=["list", "class", "joint"], lists=lists, classes=["hen", "fox"])
    assert [scope.name for scope in scopes] == ["joint", "class-2", "class-4", "list-pets"]
    assert scopes[0] == Scope("joint", (0, 1, 2, 3, 4), False, (0, 1, 2, 3, 4))
    assert scopes[2] == Scope("class-4", (2, 4), False, (4,))
    assert scopes[3] == Scope("list-pets", (0, 1), True, (0, 1))


def test_all_means_every_class_some_image_is_predicted_as() -> None:
    scopes = planned(scopes=["class"])
    assert [scope.name for scope in scopes] == [f"class-{label}" for label in range(5)]
    assert scopes[3].labels == (0, 3), "a gnu is taken for a cat, so the cat that is taken for a gnu is of its S_V"
    outside = images_of([(0, 0, 5), (1, 3, 2), (3, 0, 1)])
    assert [scope.name for scope in planned(outside, scopes=["class"])] == ["class-0"]


def test_a_class_scope_that_explains_nothing_is_refused_by_name() -> None:
    words = r"no validation image of 'gnu' or of its neighbours is predicted as it, so scope class-3 has nothing"
    cells = [cell for cell in CONFUSED if cell[:2] != (0, 3)] + [(1, 3, 1)]
    with pytest.raises(DataError, match=words):
        planned(images_of(cells), scopes=["class"], classes=["gnu"])
    with pytest.raises(DataError, match="no class 'gn'; did you mean gnu"):
        planned(scopes=["class"], classes=["gn"])


def test_labels_are_places_and_rest_is_the_last() -> None:
    classes = np.array([0, 1, 2, 3, 4, -1])
    alone = Scope("list-a", (1, 3), False, (1, 3))
    assert alone.scope_label(classes).tolist() == [-1, 0, -1, 1, -1, -1]
    assert alone.contains(classes).tolist() == [False, True, False, True, False, False]
    assert (alone.n_labels, alone.label_names(NAMES), alone.holds_all) == (2, ("dog", "gnu"), False)
    rest = Scope("list-a", (1, 3), True, (1, 3))
    assert rest.scope_label(classes).tolist() == [2, 0, 2, 1, 2, -1]
    assert (rest.n_labels, rest.label_names(NAMES), rest.holds_all) == (3, ("dog", "gnu", "rest"), True)
    joint = joint_scope(PLAN)
    assert joint.scope_label(classes).tolist() == [0, 1, 2, 3, 4, -1]
    assert joint.holds_all


def test_images_outside_get_words_of_their_prediction() -> None:
    scope = Scope("class-4", (2, 4), False, (4,))
    images = ImageColumns(np.array([0, 0, 2, 4, 1]), np.array([4, 2, 0, -1, 0]), np.ones(5))
    assert scope.assigns(images).tolist() == [True, False, True, True, False]


def test_items_of_the_joint_scope_carry_no_prefix() -> None:
    for scope, name, item in (("joint", "add1", "add1"), ("list-a/b", "class:3", "list-a/b/class:3")):
        assert item_name(scope, name) == item
        assert split_item(item) == (scope, name)


def test_scopes_survive_their_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match=r"scopes\.json' is missing: run the fit stage"):
        read_scopes(folder)
    scopes = planned(scopes=["joint", "class"])
    write_scopes(folder, scopes)
    assert read_scopes(folder) == scopes


def listed(*classes: str, rest: bool = False, **settings: Any) -> dict[str, Any]:
    return {"scopes": ["list"], "lists": [{"name": "a", "classes": list(classes), "rest": rest}], **settings}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (listed("dgo"), DataError, r"fit\.lists, list 'a': there is no class 'dgo'; did you mean dog\?"),
        (listed("5"), DataError, r"list 'a': there is no class '5'; ids run from 0 to 4"),
        (
            listed("dog", "cat", "dog"),
            SettingsError,
            r"list 'a' names class 'dog' twice, as 'dog' and 'dog': leave one",
        ),
        (listed("dog", "1"), SettingsError, r"fit\.lists, list 'a' names class 'dog' twice, as 'dog' and '1'"),
        (listed(*NAMES, rest=True), SettingsError, "names all 5 classes, so `rest` has none: set rest = false"),
    ],
)
def test_lists_of_what_there_is_not_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        known_scopes(settings_of(**settings), PLAN)


def test_a_listed_class_without_images_is_refused() -> None:
    images = images_of()
    kept = (images.label != 3) | (np.arange(len(images.label)) >= 5 * TRAIN)
    fewer = ImageColumns(*(getattr(images, name)[kept] for name in ("label", "predicted", "probability")))
    plan = Plan(PLAN.layers, NAMES, len(fewer.label), 4 * TRAIN, 8, 8, "w.pt")
    with pytest.raises(DataError, match=r"scope list-a: no training image has the label 'gnu': index images of it"):
        plan_scopes(settings_of(**listed("gnu", "dog")), plan, fewer)
    unseen = images_of([(1, 1, 3)])
    with pytest.raises(DataError, match="scope list-a: no validation image has one of its labels"):
        planned(unseen, **listed("gnu", "cat"))


def test_a_decision_needs_two_labels_and_rest_is_offered() -> None:
    words = (
        r"fit\.loss = 'discriminative' needs at least 2 labels, scope class-2 has only 'fox': no other class has 1 "
        r"validation images of it \(fit\.min_confusions\); set fit\.scopes = \['list'\] and name the class in "
        r"\[\[fit\.lists\]\] with rest = true"
    )
    with pytest.raises(DataError, match=words):
        planned(scopes=["class"], classes=["fox"], loss="discriminative")
    with pytest.raises(DataError, match=r"scope list-a has only 'fox'; set fit\.scopes = \['list'\]"):
        planned(**listed("fox", loss="discriminative"))
    assert len(planned(**listed("fox", rest=True, loss="discriminative"))) == 1
    assert planned(scopes=["class"], classes=["fox"])[0].labels == (2,), "the likelihood needs no second label"


def test_a_decision_needs_images_of_every_label() -> None:
    few = images_of(train=15)
    words = (
        r"needs 20 training images of every label \(fit\.min_images\), scope class-1 has 15 of 'cat' "
        r"\(2 of its 2 labels have too few\); index more "
        r"images, lower fit\.min_images, set fit\.scopes = \['list'\] .* rest = true"
    )
    with pytest.raises(DataError, match=words):
        planned(few, train=15, scopes=["class"], classes=["dog"], loss="discriminative")
    with pytest.raises(DataError, match=r"\(and 2 other scopes lack some\)"):
        planned(few, train=15, scopes=["class"], classes=["cat", "dog", "hen"], loss="discriminative")
    assert planned(few, train=15, scopes=["class"], classes=["dog"], loss="discriminative", min_images=15)
    assert planned(few, train=15, scopes=["class"], classes=["dog"])


def test_a_scope_with_more_labels_than_the_images_is_refused() -> None:
    images = images_of()
    kept = (images.label < 3) | (np.arange(len(images.label)) >= 5 * TRAIN)
    fewer = ImageColumns(*(getattr(images, name)[kept] for name in ("label", "predicted", "probability")))
    plan = Plan(PLAN.layers, NAMES, len(fewer.label), 3 * TRAIN, 8, 8, "w.pt")
    words = r"scope joint has 0 of 'gnu' \(2 of its 5 labels have too few\); index more images, .* with rest = true"
    with pytest.raises(DataError, match=words):
        plan_scopes(settings_of(loss="discriminative"), plan, fewer)
    assert plan_scopes(settings_of(), plan, fewer)


def test_all_leaves_out_classes_whose_scope_cannot_be_fitted() -> None:
    """One class that nothing is confused with must not stop a run of a thousand classes."""
    decide: dict[str, Any] = {"scopes": ["class"], "loss": "discriminative"}
    assert [scope.name for scope in planned(**decide)] == ["class-0", "class-1", "class-3", "class-4"]
    images = images_of()
    images.predicted[4 * TRAIN : 5 * TRAIN - 19] = -1  # broken pictures: 19 hens are left
    settings, plan = settings_of(**decide), plan_of(images)
    scopes, left_out = class_scopes(settings, plan, images)
    assert plan_scopes(settings, plan, images) == tuple(scopes)
    assert [scope.name for scope in scopes] == ["class-0", "class-1", "class-3"]
    assert left_out == {
        "no other class has 1 validation images of it (fit.min_confusions)": ["fox"],
        "it or a neighbour has fewer than 20 training images (fit.min_images)": ["hen"],
    }
    wordy = plan_of(IMAGES, words=200)
    assert [scope.name for scope in plan_scopes(settings_of(scopes=["class"]), wordy, IMAGES)] == [
        "class-0", "class-1", "class-3", "class-4",
    ]  # fmt: skip
    assert class_scopes(settings_of(scopes=["class"]), wordy, IMAGES)[1] == {
        "it and its neighbours have fewer columns than words (fit.words)": ["fox"]
    }
    assert class_scopes(settings_of(), PLAN, IMAGES) == ([], {})


def test_all_without_a_single_scope_is_refused_with_every_reason() -> None:
    words = (
        r"mine\.classes = 'all': no class can have a scope of its own \(cat, dog, gnu, hen: it or a neighbour has "
        r"fewer than 31 training images \(fit\.min_images\); fox: no other class has 1 validation images of it "
        r"\(fit\.min_confusions\)\); add 'joint' to fit\.scopes, or set fit\.scopes = \['list'\] and name classes"
    )
    with pytest.raises(DataError, match=words):
        planned(scopes=["class"], loss="discriminative", min_images=TRAIN + 1)
    assert [scope.name for scope in planned(scopes=["joint", "class"], words=[5], min_images=TRAIN + 1)] == [
        "joint", *(f"class-{label}" for label in range(5)),
    ]  # fmt: skip


def lone(classes: list[str], labels: np.ndarray | None = None, **fit: Any) -> None:
    labels = images_of().label if labels is None else labels
    refuse_lone_classes(settings_of(classes, **{"scopes": ["class"], **fit}), PLAN, labels)


def test_classes_without_hope_are_refused_before_predictions() -> None:
    decide = {"loss": "discriminative", "min_images": TRAIN + 1}
    words = (
        r"needs 31 training images of every label \(fit\.min_images\), scope class-1 has 30 of 'dog'; index more "
        r"images, lower fit\.min_images, set fit\.scopes = \['list'\] and name the class in \[\[fit\.lists\]\] with"
    )
    with pytest.raises(DataError, match=words):
        lone(["dog", "hen"], **decide)
    lone(["dog"], loss="discriminative", min_images=TRAIN)
    lone(["dog"], min_images=TRAIN + 1)
    lone(["dog"], scopes=["joint"], **decide)
    lone(["all"], **decide)
    labels = images_of().label
    unseen = np.where((labels == 3) & (np.arange(len(labels)) >= 5 * TRAIN), 0, labels)
    words = (
        r"mine\.classes: class 'gnu' has no validation image, .* so there can be no scope class-3; index .*"
        r"\[\[fit\.lists\]\] with rest = true"
    )
    with pytest.raises(DataError, match=words):
        lone(["3"], unseen)
    with pytest.raises(DataError, match="there is no class 'gnuu'; did you mean gnu"):
        lone(["gnuu"])


def test_broken_training_images_do_not_count() -> None:
    images = images_of(train=20)
    images.predicted[25] = -1
    with pytest.raises(DataError, match="scope class-1 has 19 of 'dog'"):
        planned(images, train=20, scopes=["class"], classes=["dog"], loss="discriminative")


def test_more_words_than_columns_of_a_scope_are_refused() -> None:
    plan = plan_of(IMAGES, words=200)
    words = r"layer 'add1' has 200 words but only 108 training columns \(27 images x 4\) in scope class-2: lower fit"
    with pytest.raises(SettingsError, match=words):
        plan_scopes(settings_of(classes=["fox"], scopes=["class"]), plan, IMAGES)


def test_thin_dictionaries_of_scopes_are_one_warning_a_layer() -> None:
    settings = settings_of(scopes=["joint", "class"])
    scopes = plan_scopes(settings, PLAN, IMAGES)
    (told,) = thin_dictionaries(settings, PLAN, scope_sizes(settings, PLAN, scopes, IMAGES.label[: PLAN.train_images]))
    assert told.startswith("layer 'add1': 5 words on 108 columns of 27 images in scope class-2 and in 4 other scopes;")

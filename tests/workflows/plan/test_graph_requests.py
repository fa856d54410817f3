"""Which graphs go to which scope, and what no scope explains."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workflows.plan.test_scopes import CONFUSED, IMAGES, NAMES, PLAN, listed, settings_of
from workflows.errors import DataError
from workflows.plan.graph_requests import (
    GraphRequests,
    asked_figures,
    named_figures,
    refuse_unexplained_names,
    requested_graphs,
)
from workflows.plan.scopes import known_scopes, plan_scopes
from workflows.settings import Settings
from workflows.settings.graph_settings import DrawSettings


def asked(settings: Settings, images: list[str]) -> GraphRequests:
    settings = settings.model_copy(update={"mine": settings.mine.model_copy(update={"images": tuple(images)})})
    return requested_graphs(settings, PLAN, IMAGES, plan_scopes(settings, PLAN, IMAGES))


def validation_image(label: int, predicted: int) -> int:
    """The first of them."""
    place = [cell[:2] for cell in CONFUSED].index((label, predicted))
    return PLAN.train_images + sum(count for *_, count in CONFUSED[:place])


def test_every_scope_has_the_graphs_that_it_explains() -> None:
    images = [validation_image(0, 1), validation_image(4, 2), 3]
    found = asked(settings_of(classes=["dog", "fox"], scopes=["joint", "class"]), [str(image) for image in images])
    assert [(graphs.scope.name, graphs.classes) for graphs in found.scopes] == [
        ("joint", (1, 2)),
        ("class-1", (1,)),
        ("class-2", (2,)),
    ]
    assert [graphs.images for graphs in found.scopes] == [tuple(sorted(images)), (images[0],), (images[1],)]
    assert len(found) == 4 + 5
    assert found.silent == ()


def test_misclassified_are_those_whose_prediction_is_explained() -> None:
    (graphs,) = asked(settings_of(**listed("fox", "dog")), ["misclassified"]).scopes
    wrong = [image for image in range(PLAN.train_images, PLAN.images) if IMAGES.predicted[image] in (1, 2)]
    assert graphs.images == tuple(image for image in wrong if IMAGES.label[image] != IMAGES.predicted[image])
    assert len(graphs.images) == 2 + 2 + 1
    (first,) = asked(settings_of(**listed("fox", "dog")), ["misclassified:1"]).scopes
    assert first.images == graphs.images[:1]


def test_what_all_leaves_out_is_told() -> None:
    found = asked(settings_of(scopes=["joint", "list"], lists=[{"name": "a", "classes": ["gnu", "hen"]}]), [])
    assert [graphs.classes for graphs in found.scopes] == [(0, 1, 2, 3, 4), (4,)]
    assert found.silent == ("no validation image of scope list-a is predicted as gnu: no class graph",)


def test_classes_left_out_of_all_are_told_with_what_they_lack() -> None:
    found = asked(settings_of(scopes=["joint", "class"], loss="discriminative"), [])
    assert [graphs.scope.name for graphs in found.scopes] == ["joint", "class-0", "class-1", "class-3", "class-4"]
    assert found.scopes[0].classes == (0, 1, 2, 3, 4), "the fox has a graph with the dictionary of all classes"
    assert found.silent == (
        "scope class leaves out fox: no other class has 1 validation images of it (fit.min_confusions)",
    )


def test_a_class_or_image_that_no_scope_explains_is_refused() -> None:
    lists = listed("dog", "hen")
    words = (
        r"mine\.classes: no scope of the run explains 'cat', .*name it in \[\[fit\.lists\]\], add 'joint' or 'class'"
    )
    with pytest.raises(DataError, match=words):
        asked(settings_of(classes=["cat"], **lists), [])
    settings = settings_of(classes=["cat"], **lists)
    with pytest.raises(DataError, match=words):
        refuse_unexplained_names(settings, PLAN, known_scopes(settings, PLAN), [NAMES.index("cat")])
    words = r"mine\.images: image 3 is predicted as 'cat', which no scope of the run explains \(they explain dog, hen\)"
    with pytest.raises(DataError, match=words):
        asked(settings_of(**lists), ["3"])
    with pytest.raises(DataError, match=r"no scope of the run explains 'gnu', or no validation image of its scope is"):
        asked(settings_of(classes=["gnu"], **listed("gnu", "hen")), [])


def test_requests_of_a_joint_run_are_what_they_were() -> None:
    (graphs,) = asked(settings_of(), ["misclassified", "2"]).scopes
    wrong = (IMAGES.label != IMAGES.predicted) & (IMAGES.predicted >= 0)
    assert graphs.classes == (0, 1, 2, 3, 4)
    assert graphs.images == (2, *np.flatnonzero(wrong).tolist())


DRAWN = ("class:1", "class-2/class:2", "image:3", "image:9", "class-1/fit", "class-2/similarity", "list-a/fit", "fit")
"""Items of the draw stage, among them figures of the scopes of a dog and of a fox, of a list, and of all classes."""


@pytest.mark.parametrize(
    ("figures", "drawn"),
    [
        (["all"], DRAWN),
        (["none"], ()),
        ([], ()),
        (["asked"], ("class:1", "image:9", "class-1/fit", "list-a/fit", "fit")),
        (["class:fox"], ("class-2/class:2", "class-2/similarity")),
        (["image:3"], ("image:3",)),
        (["asked", "class:2"], tuple(item for item in DRAWN if item != "image:3")),
    ],
)
def test_figures_that_are_asked_for(figures: list[str], drawn: tuple[str, ...]) -> None:
    settings = settings_of(classes=["all", "dog"], scopes=["joint", "class"])
    update = {
        "mine": settings.mine.model_copy(update={"images": ("misclassified", "9")}),
        "draw": DrawSettings(figures=figures),
    }
    asked = asked_figures(settings.model_copy(update=update), PLAN, IMAGES, plan_scopes(settings, PLAN, IMAGES))
    assert tuple(item for item in DRAWN if asked.has(item)) == drawn


@pytest.mark.parametrize("figures", [["some"], ["all", "class:3"], ["none", "asked"], ["class:"], ["image:two"]])
def test_figures_of_other_words_are_refused(figures: list[str]) -> None:
    with pytest.raises(ValueError, match=r"must be all, asked, none, or a list of asked, class:<name or id> and"):
        DrawSettings(figures=figures)


def test_figures_of_what_does_not_exist_are_refused() -> None:
    with pytest.raises(DataError, match=r"draw\.figures: there is no class 'foxes'; did you mean fox"):
        named_figures(["class:foxes"], PLAN)
    with pytest.raises(DataError, match=r"draw\.figures: '999999' is no image; give ids from 0 to"):
        named_figures(["image:999999"], PLAN)

import numpy as np
import pytest

from gmm_ops.graphs.windows import Window
from workflows.errors import DataError
from workflows.plan.requests import check_image_request, class_id, requested_classes, requested_images
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.storage.images_table import ImageColumns

LAYER = LayerPlan("layer1.add", "add1", 4, 2, 2, 5, 4, None, Window.identity())
PLAN = Plan((LAYER,), ("cat", "dog", "horse"), images=6, train_images=2, input_height=8, input_width=8, weights="w.pt")
IMAGES = ImageColumns(
    label=np.array([0, 1, 0, 0, 1, 2]), predicted=np.array([0, 1, 0, 1, 1, -1]), probability=np.full(6, 0.9)
)


def test_classes_by_name_and_by_id():
    assert requested_classes(("dog", "0"), PLAN, IMAGES) == ([0, 1], [])
    assert requested_classes(("all",), PLAN, IMAGES) == ([0, 1], ["horse"])


def test_a_class_nobody_predicts_is_refused():
    with pytest.raises(DataError, match="no validation image is predicted as 'horse', so its graph has nothing"):
        requested_classes(("horse",), PLAN, IMAGES)


def test_an_unknown_class_offers_the_nearest():
    with pytest.raises(DataError, match=r"no class 'hors'; did you mean horse\?"):
        class_id("hors", PLAN.class_names)
    with pytest.raises(DataError, match=r"no class '17'; ids run from 0 to 2"):
        class_id("17", PLAN.class_names)


def test_a_name_of_several_classes_asks_for_an_id():
    names = ("crane", "dog", "crane")
    with pytest.raises(DataError, match=r"--class: several classes are called 'crane', with the ids 0 and 2; give one"):
        class_id("crane", names, "--class")
    assert [class_id(request, names) for request in ("0", "2", "dog")] == [0, 2, 1]


def test_misclassified_are_validation_images_that_were_read():
    assert requested_images(("misclassified", "0"), PLAN, IMAGES) == [0, 3]


def test_the_first_n_misclassified_are_asked_for_by_number():
    images = ImageColumns(label=np.zeros(6), predicted=np.array([1, 0, 1, -1, 2, 1]), probability=np.full(6, 0.9))
    assert requested_images(("misclassified",), PLAN, images) == [2, 4, 5]
    assert requested_images(("misclassified:1",), PLAN, images) == [2]
    assert requested_images(("misclassified:2", "1"), PLAN, images) == [1, 2, 4]
    assert requested_images(("misclassified:1000000000000",), PLAN, images) == [2, 4, 5]


@pytest.mark.parametrize("request_", ["misclassified:0", "misclassified:", "misclassified:x", "wrong:3", "-1", "1:2"])
def test_what_names_no_image_is_refused_by_who_asked(request_):
    rule = r"give ids from 0 to 5 .*, misclassified, or misclassified:N for the first N of them"
    with pytest.raises(DataError, match=rf"draw\.paths: '{request_}' is no image; {rule}"):
        check_image_request(request_, PLAN.images, asked_by="draw.paths")
    with pytest.raises(DataError, match=rf"draw\.paths: '{request_}' is no image"):
        requested_images((request_,), PLAN, IMAGES, asked_by="draw.paths")


def test_a_broken_picture_is_refused_by_who_asked():
    with pytest.raises(DataError, match=r"draw\.paths: the picture of image 5 is broken"):
        requested_images(("5",), PLAN, IMAGES, asked_by="draw.paths")


def test_image_requests_are_checked():
    with pytest.raises(DataError, match="the picture of image 5 is broken"):
        requested_images(("5",), PLAN, IMAGES)
    with pytest.raises(DataError, match=r"'6' is no image; give ids from 0 to 5"):
        check_image_request("6", PLAN.images)


def test_a_plan_survives_json():
    assert Plan.from_json(PLAN.to_json()) == PLAN
    upper = LayerPlan("layer2.add", "add2", 4, 2, 2, 7, 2, Window.square(2, -3, 7), Window.square(4, -9, 21))
    both = Plan((LAYER, upper), PLAN.class_names, 6, 2, 8, 8, "w.pt")
    assert Plan.from_json(both.to_json()) == both
    assert [pair.name for pair in both.pairs()] == ["layer2.add__output", "layer1.add__layer2.add"]
    assert not both.stores_everything
    assert both.stored_images == 2

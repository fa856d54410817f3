"""Columns of what input resampling selects: units by image, their means, a second classifier, and over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.storage.fields import FLAG, INT, LAYER, LONG, REAL, TEXT, field, with_ends

if TYPE_CHECKING:
    import pyarrow as pa

_METRIC = field(
    "metric",
    TEXT,
    "key",
    "`correlation` (IR Eq. 2), `precision` (Eq. 3), `mean_square_over_variance`, `directional`, "
    "`activation_sum`, `activation_variance`, `weight_sum`, `weight_variance` or `random`",
)
_TOP = field("top", INT, "units", "how many units are selected a layer")
_CHECKPOINT = field(
    "checkpoint", TEXT, "key", "file name of the weights, of `--checkpoints`; null: the run's own", True
)
_CLASS = field("class", INT, "class", "whose logit is explained: the true class, without labels the predicted", True)
_CLASS_NAME = field("class_name", TEXT, "", "its name", True)
_LAYER = field("layer", TEXT, "key", "canonical name of the convolution; null: all asked layers together", True)
_OBJECTS = field("objects", TEXT, "", "`all` images, or those whose object covers `up to half` or `above half` of it")


def _mean(name: str, meaning: str) -> list[pa.Field]:
    """A mean over images with its interval."""
    return with_ends(name, "share", meaning, "bootstrap over images", True)


SELECTION_COLUMNS: dict[str, list[pa.Field]] = {
    "selections": [
        field(
            "image",
            LONG,
            "key",
            "row of the images table; null: selected for a class, by the mean of r over its images",
            True,
        ),
        _CLASS,
        _CLASS_NAME,
        LAYER,
        _METRIC,
        _TOP,
        field("rank", INT, "", "place of the unit by its score, from 0, best first"),
        field("unit", INT, "key", "channel of the layer, from 0"),
        field("score", REAL, "", "of the metric; its unit is the metric's own"),
        field("null_score", REAL, "", "the same with the outputs of other copies; null where no output is read", True),
        field("retest", REAL, "share", "Jaccard of the selection and that of a second draw of copies", True),
        field("retest_null", REAL, "share", "of two draws whose outputs were permuted; null as null_score", True),
        field("chance", REAL, "share", "expected Jaccard of two random selections of that size", True),
        field("unstable", FLAG, "", "whether retest is below .3"),
        field("activation", REAL, "", "response at the unit's strongest position; null without an image", True),
        field("y", INT, "position", "row of that position", True),
        field("x", INT, "position", "its column", True),
        field("x0", INT, "pixel", "left edge of the patch in the input; null: nowhere positive, no patch", True),
        field("y0", INT, "pixel", "top edge", True),
        field("x1", INT, "pixel", "right edge, exclusive", True),
        field("y1", INT, "pixel", "bottom edge, exclusive", True),
        field("touches", FLAG, "", "whether the patch touches the object's mask; null without mask or patch", True),
        field("overlap", REAL, "share", "of the patch that lies on the mask", True),
        field("object_share", REAL, "share", "of the image that the mask covers; null without one", True),
        _CHECKPOINT,
    ],
    "selection_means": [
        _CLASS,
        _CLASS_NAME,
        _LAYER,
        _METRIC,
        _TOP,
        field("selected_for", TEXT, "", "`image`: means over images; `class`: selections by r pooled over a class"),
        _OBJECTS,
        _CHECKPOINT,
        field("images", LONG, "images", "that are averaged"),
        *_mean("retest", "mean Jaccard with the selection of a second draw"),
        *_mean("retest_null", "mean Jaccard of two draws whose outputs were permuted"),
        field("chance", REAL, "share", "mean expected Jaccard of two random selections", True),
        field("unstable", REAL, "share", "of selections whose retest is below .3", True),
        field("layer_score", REAL, "", "mean over images and all units of the layer of the score", True),
        field("layer_null_score", REAL, "", "the same with permuted outputs", True),
        field("without_variance", LONG, "selections", "that are empty, because no unit has a score"),
        field("patches", LONG, "patches", "of these images"),
        field("without_patch", LONG, "units", "selected, but nowhere positive"),
        *_mean("touch", "mean over images of the share of patches that touch the object"),
        *_mean("touch_difference", "touch less that of random units, image by image"),
        *_mean("overlap", "mean over images of the mean share of a patch on the object"),
        *_mean("overlap_difference", "overlap less that of random units, image by image"),
    ],
    "secondary": [
        _METRIC,
        _TOP,
        _CHECKPOINT,
        field("images", LONG, "images", "that gave patches; each is tested once, by a classifier that saw none of it"),
        field("patches", LONG, "patches", "of these images"),
        *_mean("accuracy", "mean over images of the share of patches given the image's class"),
        field(
            "majority", REAL, "share", "of patches in the most frequent class; null where no class has two images", True
        ),
    ],
    "selection_epochs": [
        field("checkpoint", TEXT, "key", "file name of the weights; `run` stands for the run's own"),
        field("compared", TEXT, "key", "the weights whose selections it is held against: the one before, and the last"),
        _LAYER,
        _METRIC,
        _TOP,
        field("images", LONG, "images", "that are averaged"),
        *_mean("agreement", "mean Jaccard of the two selections"),
        field("chance", REAL, "share", "mean expected Jaccard of two random selections", True),
    ],
}
"""Tables of the study ``resample``."""

SELECTION_KEYS: dict[str, tuple[str, ...]] = {
    "selections": ("image", "layer", "metric", "top", "rank"),
    "selection_means": ("layer", "metric", "top"),
    "secondary": ("metric", "top"),
    "selection_epochs": ("checkpoint", "metric", "top"),
}

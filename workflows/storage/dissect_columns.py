"""Columns of what the study dissect writes."""

from __future__ import annotations

import pyarrow as pa

from workflows.storage.fields import FLAG, INT, LAYER, LONG, REAL, SCOPE, SINGLE, TEXT, WORD, field

UNIT = field("unit", INT, "key", "unit (channel) of the layer, from 0")
QUANTILE = field("quantile", REAL, "share", "q: a unit's threshold is the smallest T with P(activation > T) <= q")
CONCEPT = field("concept", TEXT, "key", "name of a concept of the masks")
CATEGORY = field("category", TEXT, "key", "of the concept: object, part, material, colour ...")
RANK = field("rank", INT, "", "from 0, largest IoU first")

_IOU = (
    field("iou", REAL, "share", "pixels of mask and concept over pixels of either, over the images that carry a label "
          "of the category; of words, those of the images that their scope gives words"),
    field("iou_lite", REAL, "share", "the same with the mask's area only in images where it touches a label of the "
          "category, as NetDissect-Lite counts it"),
)  # fmt: skip
_SHARES = (
    field("mask_share", REAL, "share", "of the pixels of the images that carry a label of the category: the mask"),
    field("concept_share", REAL, "share", "of the same pixels: the concept"),
    field("cap", REAL, "share", "no mask of this size has a larger IoU: the smaller share over the larger"),
)
_NO_SCOPE = field("scope", TEXT, "key", "whose words; of units, on whose images, null: on all", nullable=True)

DISSECT_COLUMNS: dict[str, list[pa.Field]] = {
    "units": [
        LAYER,
        UNIT,
        QUANTILE,
        field("threshold", REAL, "activation", "T; with histogram_shift above 0, the upper end of its bin"),
        field("above", REAL, "share", "of the layer's values of this unit that lie above T, exactly"),
        field("mean", REAL, "activation", "of the unit over all positions and images"),
        field("sd", REAL, "activation", "its standard deviation"),
        field("concept", TEXT, "key", "of the largest IoU; null where the unit meets none", nullable=True),
        field("category", TEXT, "key", "of that concept", nullable=True),
        field("iou", REAL, "share", "the largest IoU; see unit_concepts"),
        field("detector", FLAG, "", "whether it is above 0.04"),
    ],
    "unit_concepts": [LAYER, UNIT, QUANTILE, RANK, CONCEPT, CATEGORY, *_IOU, *_SHARES],
    "word_concepts": [
        SCOPE,
        LAYER,
        WORD,
        RANK,
        CONCEPT,
        CATEGORY,
        *_IOU,
        *_SHARES,
        field("detector", FLAG, "", "the first of the word, and its IoU is above 0.04"),
    ],
    "word_units": [
        SCOPE,
        LAYER,
        WORD,
        UNIT,
        field("z", SINGLE, "sd", "mean of the unit over the word's columns minus its mean over all, over its standard "
              "deviation over all"),
        field("rank", INT, "", "from 0, largest z first"),
    ],
    "unions": [
        _NO_SCOPE,
        LAYER,
        field("masks", TEXT, "key", "`units` or `words`"),
        field("concept", TEXT, "key", "name of the concept; null: mean over the concepts", nullable=True),
        field("category", TEXT, "key", "of the concept", nullable=True),
        field("size", INT, "masks", "members taken so far; of a mean the most: 1 for the best single ones"),
        field("member", INT, "key", "unit or word that was taken", nullable=True),
        field("threshold", REAL, "activation", "that the unit is cut at; null for words", nullable=True),
        field("iou_chosen", REAL, "share", "on the images that it was chosen on", nullable=True),
        field("iou", REAL, "share", "on the other images, which judge"),
        field("iou_low", REAL, "share", "lower end of its 95 % bootstrap interval over the images that judge"),
        field("iou_high", REAL, "share", "upper end"),
        field("difference", REAL, "share", "of means: words minus units, same layer and images", nullable=True),
        field("difference_low", REAL, "share", "lower end of its paired 95 % interval", nullable=True),
        field("difference_high", REAL, "share", "upper end", nullable=True),
        field("images_chosen", LONG, "images", "that it was chosen on"),
        field("images_judged", LONG, "images", "that judge"),
    ],
}  # fmt: skip

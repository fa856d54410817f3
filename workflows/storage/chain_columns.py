"""Columns of the tables of a run with a hidden Markov model."""

from __future__ import annotations

import pyarrow as pa

from workflows.storage.fields import IMAGE, INT, LAYER, LONG, PAIR, REAL, SCOPE, TEXT, WORD, field

CHAIN_COLUMNS: dict[str, list[pa.Field]] = {
    "paths": [
        IMAGE,
        SCOPE,
        field("level", INT, "", "place in the chain, from 1, lowest first; the prediction comes last"),
        LAYER,
        WORD,
        field("log_probability", REAL, "nats", "log P(word | activity of all layers)"),
        field("path_log_probability", REAL, "nats", "log P(whole path | activity of all layers), same in all rows"),
        field("runner_up", INT, "key", "best other word of the layer; null where there is none", nullable=True),
        field(
            "runner_up_log_odds",
            REAL,
            "nats",
            "by how much the best path through the runner-up is less probable",
            nullable=True,
        ),
    ],
    "transitions": [
        SCOPE,
        *PAIR,
        field(
            "probability",
            REAL,
            "probability",
            "T: P(upper word | lower word) of the model; where the prediction is no variable of it (`gaussian`), the "
            "share among training images",
        ),
        field("train_images", LONG, "images", "training images whose path takes it"),
        field("validation_images", LONG, "images", "validation images whose path takes it"),
    ],
    "triage": [
        IMAGE,
        SCOPE,
        field("split", TEXT, "", "`train` (S_T) or `validation` (S_V)"),
        field("label", INT, "class", "true class"),
        field("label_name", TEXT, "", "name of the true class"),
        field("predicted", INT, "class", "class the network predicts, another one"),
        field("predicted_name", TEXT, "", "name of the predicted class"),
        field("junction", TEXT, "key", "`<lower layer>:<lower word>` where the path leaves, or `start`"),
        field("level", INT, "", "of the first layer off the true class's paths, from 1; the prediction comes last"),
        field("lower_layer", TEXT, "key", "layer of the junction; null at `start`", nullable=True),
        field("lower_word", INT, "key", "word of the junction; null at `start`", nullable=True),
        field("upper_layer", TEXT, "key", "first layer off the true class's paths"),
        field("upper_word", INT, "key", "word that the path takes there"),
        field("expected_word", INT, "key", "best word that the true class's images take there", nullable=True),
        field(
            "log_odds",
            REAL,
            "nats",
            "of the taken word over the expected one, the path below fixed and the prediction open, so it may be "
            "negative; at `output` it is the transition table's, the same for all images. Null where no correct image "
            "of the class came by, and at `output` where the prediction is no variable of the model",
            nullable=True,
        ),
    ],
    "junctions": [
        SCOPE,
        field("rank", INT, "", "from 0, most explained errors of the validation images first"),
        field("junction", TEXT, "key", "`<lower layer>:<lower word>`, or `start`"),
        field("level", INT, "", "of the layer that is entered there, from 1"),
        field("lower_layer", TEXT, "key", "layer of the junction; null at `start`", nullable=True),
        field("lower_word", INT, "key", "word of the junction; null at `start`", nullable=True),
        field("upper_layer", TEXT, "key", "layer that is entered there"),
        field("errors", LONG, "images", "misclassified validation images that leave their class's paths here"),
        field("share", REAL, "share", "of all misclassified validation images"),
        field("cumulative_share", REAL, "share", "of this and all earlier rows"),
        field("train_errors", LONG, "images", "misclassified training images that leave here"),
        field(
            "correct_leaving",
            LONG,
            "images",
            "correctly classified validation images that leave here as well; where `output` is entered they cannot, "
            "with triage.min_images = 1: they end in their own class",
        ),
        field("images", LONG, "images", "validation images whose path comes by"),
        field("mean_log_odds", REAL, "nats", "mean log-odds of the errors that have one", nullable=True),
        field("label_name", TEXT, "", "true class of the commonest confusion here", nullable=True),
        field("predicted_name", TEXT, "", "predicted class of the commonest confusion here", nullable=True),
        field("confusions", LONG, "images", "errors of the commonest confusion here"),
    ],
}

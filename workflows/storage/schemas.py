"""Columns of every table: name, type, unit, meaning. ``schema_markdown`` prints them for the documentation."""

from __future__ import annotations

import pyarrow as pa


def _field(name: str, kind: pa.DataType, unit: str, meaning: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "description": meaning})


_TEXT, _INT, _LONG, _REAL, _SINGLE, _FLAG = (
    pa.string(),
    pa.int32(),
    pa.int64(),
    pa.float64(),
    pa.float32(),
    pa.bool_(),
)

_GRAPH = _field("graph", _TEXT, "key", "`class:<id>` or `image:<id>`")
_SCOPE = _field("scope", _TEXT, "key", "classes that one dictionary explains: `joint`, `class-<id>`, `list-<name>`")
_LAYER = _field("layer", _TEXT, "key", "canonical layer name; `output` is the output layer, whose word is the class")
_WORD = _field("word", _INT, "key", "word of the layer's dictionary, from 0")
_IMAGE = _field("image", _LONG, "key", "row of the images table")
_DOMINANT = _field(
    "dominant_class", _INT, "class", "most frequent true class among the word's training columns", nullable=True
)
_DOMINANT_NAME = _field("dominant_name", _TEXT, "", "name of the dominant class", nullable=True)
_DOMINANT_SHARE = _field(
    "dominant_share", _REAL, "share", "of the dominant class among the word's columns", nullable=True
)
_PAIR = (
    _field("upper_layer", _TEXT, "key", "layer of the upper word"),
    _field("upper_word", _INT, "key", "upper word s"),
    _field("lower_layer", _TEXT, "key", "layer of the lower word"),
    _field("lower_word", _INT, "key", "lower word t"),
)

_NETWORK = _field("network", _TEXT, "key", "`name` of the run's settings", nullable=True)


def _paired(prefix: str, other: str) -> list[pa.Field]:
    """A difference of two errors on the same images, with its paired 95 % interval."""
    name = f"{prefix}difference"
    return [
        _field(name, _REAL, "share", f"error minus {other}", True),
        _field(f"{name}_low", _REAL, "share", "lower end of its paired 95 % interval", True),
        _field(f"{name}_high", _REAL, "share", "upper end (McNemar's pairs, Agresti and Min 2005)", True),
    ]


_COLUMNS: dict[str, list[pa.Field]] = {
    "images": [
        _IMAGE,
        _field("path", _TEXT, "", "file, `file.parquet#row`, or `digits#i`"),
        _field("split", _TEXT, "", "`train` (S_T) or `validation` (S_V)"),
        _field("label", _INT, "class", "true class"),
        _field("label_name", _TEXT, "", "name of the true class"),
        _field("predicted", _INT, "class", "class the network predicts", nullable=True),
        _field("predicted_name", _TEXT, "", "name of the predicted class", nullable=True),
        _field("probability", _SINGLE, "0..1", "softmax probability of the predicted class", nullable=True),
        _field("status", _TEXT, "", "`indexed` (not read yet), `ok`, or `broken`: the image takes no part"),
        _field("reason", _TEXT, "", "why the image is broken", nullable=True),
    ],
    "nodes": [
        _GRAPH,
        _SCOPE,
        _LAYER,
        _WORD,
        _field("rank", _INT, "", "place among the chosen words of the layer, from 0, best first"),
        _field("score", _REAL, "bits x count", "IG Eq. 16: sum over chosen upper words of Q[s,t] LR[s,t]"),
        _field("positions", _LONG, "columns", "how many columns of Omega are this word"),
        _field("share", _REAL, "share", "of the layer's columns of Omega that are this word"),
        _DOMINANT,
        _DOMINANT_NAME,
        _DOMINANT_SHARE,
    ],
    "edges": [
        _GRAPH,
        _SCOPE,
        *_PAIR,
        _field("count", _LONG, "pairs", "Q[s,t]: co-occurrences within Omega"),
        _field("relative_frequency", _REAL, "share", "Q[s,t] / sum_t Q[s,t] within Omega (left label)"),
        _field("log_ratio", _REAL, "bits", "log2 P(t|s)/P(t) over S_V (right label)"),
        _field("score", _REAL, "bits x count", "Q[s,t] times log_ratio"),
        _field("drawn", _TEXT, "", "`hidden` (log_ratio <= 0), `black` (up to 1) or `green` (above 1), IG Fig. 5"),
    ],
    "words": [
        _SCOPE,
        _LAYER,
        _WORD,
        _field("pi", _REAL, "probability", "mixing weight of the word in its mixture, or its marginal in the chain"),
        _field("columns", _LONG, "columns", "columns of training images that are this word"),
        _field("images", _LONG, "images", "training images with at least one such column"),
        _DOMINANT,
        _DOMINANT_NAME,
        _DOMINANT_SHARE,
        _field("reseeded", _LONG, "times", "how often the fit re-seeded the word; 0 in a hidden Markov model"),
    ],
    "exemplars": [
        _SCOPE,
        _LAYER,
        _WORD,
        _field("rank", _INT, "", "from 0, most typical first"),
        _IMAGE,
        _field("y", _INT, "position", "row of the column in the layer's map"),
        _field("x", _INT, "position", "column of the column in the layer's map"),
        _field("posterior", _SINGLE, "0..1", "of the word, or the probability of the class in layer `output`"),
        _field("log_joint", _SINGLE, "nats", "log pi_k + log density of the column"),
        _field("x0", _INT, "pixel", "left edge of the receptive field in the network's input"),
        _field("y0", _INT, "pixel", "top edge"),
        _field("x1", _INT, "pixel", "right edge, exclusive"),
        _field("y1", _INT, "pixel", "bottom edge, exclusive"),
        _field("label", _INT, "class", "true class of the image"),
        _field("label_name", _TEXT, "", "name of the true class", nullable=True),
    ],
    "heatmaps": [
        _GRAPH,
        _SCOPE,
        *_PAIR,
        _field("height", _INT, "positions", "rows of the window (of the lower map for edges into `output`)"),
        _field("width", _INT, "positions", "columns of the window"),
        _field("row_offset", _INT, "positions", "of the window's first row against stride times the upper row"),
        _field("column_offset", _INT, "positions", "of the window's first column, in the same way"),
        _field("counts", pa.list_(_LONG), "pairs", "how often the lower word sits at each offset, row by row"),
        _field("inside", pa.list_(_LONG), "pairs", "how often each offset was inside the map, row by row"),
    ],
    "layers": [
        _SCOPE,
        _LAYER,
        _field("units", _INT, "units", "D"),
        _field("words", _INT, "words", "K"),
        _field("used", _INT, "words", "words with at least one training column; only these are measured"),
        _field("dominant_share", _REAL, "share", "mean over the used words of the share of their dominant class"),
        _field(
            "within",
            _REAL,
            "layer units",
            "mean Euclidean distance between centres of words with the same dominant class; null without such a pair",
            nullable=True,
        ),
        _field("between", _REAL, "layer units", "the same between different dominant classes", nullable=True),
        _field("ratio", _REAL, "", "within / between: below 1, words of a class lie together", nullable=True),
        _field(
            "column_dominant_share",
            _REAL,
            "share",
            "of the training columns whose word's dominant class is their own: as dominant_share, but a word counts by "
            "its columns",
        ),
        _field(
            "column_ratio",
            _REAL,
            "",
            "as ratio, but over pairs of columns: words of single columns, pure by definition, weigh little",
            nullable=True,
        ),
    ],
    "paths": [
        _IMAGE,
        _SCOPE,
        _field("level", _INT, "", "place in the chain, from 1, lowest first; the prediction comes last"),
        _LAYER,
        _WORD,
        _field("log_probability", _REAL, "nats", "log P(word | activity of all layers)"),
        _field("path_log_probability", _REAL, "nats", "log P(whole path | activity of all layers), same in all rows"),
        _field("runner_up", _INT, "key", "best other word of the layer; null where there is none", nullable=True),
        _field(
            "runner_up_log_odds",
            _REAL,
            "nats",
            "by how much the best path through the runner-up is less probable",
            nullable=True,
        ),
    ],
    "transitions": [
        _SCOPE,
        *_PAIR,
        _field(
            "probability",
            _REAL,
            "probability",
            "T: P(upper word | lower word) of the model; where the prediction is no variable of it (`gaussian`), the "
            "share among training images",
        ),
        _field("train_images", _LONG, "images", "training images whose path takes it"),
        _field("validation_images", _LONG, "images", "validation images whose path takes it"),
    ],
    "triage": [
        _IMAGE,
        _SCOPE,
        _field("split", _TEXT, "", "`train` (S_T) or `validation` (S_V)"),
        _field("label", _INT, "class", "true class"),
        _field("label_name", _TEXT, "", "name of the true class"),
        _field("predicted", _INT, "class", "class the network predicts, another one"),
        _field("predicted_name", _TEXT, "", "name of the predicted class"),
        _field("junction", _TEXT, "key", "`<lower layer>:<lower word>` where the path leaves, or `start`"),
        _field("level", _INT, "", "of the first layer off the true class's paths, from 1; the prediction comes last"),
        _field("lower_layer", _TEXT, "key", "layer of the junction; null at `start`", nullable=True),
        _field("lower_word", _INT, "key", "word of the junction; null at `start`", nullable=True),
        _field("upper_layer", _TEXT, "key", "first layer off the true class's paths"),
        _field("upper_word", _INT, "key", "word that the path takes there"),
        _field("expected_word", _INT, "key", "best word that the true class's images take there", nullable=True),
        _field(
            "log_odds",
            _REAL,
            "nats",
            "of the taken word over the expected one, the path below fixed and the prediction open, so it may be "
            "negative; at `output` it is the transition table's, the same for all images. Null where no correct image "
            "of the class came by, and at `output` where the prediction is no variable of the model",
            nullable=True,
        ),
    ],
    "junctions": [
        _SCOPE,
        _field("rank", _INT, "", "from 0, most explained errors of the validation images first"),
        _field("junction", _TEXT, "key", "`<lower layer>:<lower word>`, or `start`"),
        _field("level", _INT, "", "of the layer that is entered there, from 1"),
        _field("lower_layer", _TEXT, "key", "layer of the junction; null at `start`", nullable=True),
        _field("lower_word", _INT, "key", "word of the junction; null at `start`", nullable=True),
        _field("upper_layer", _TEXT, "key", "layer that is entered there"),
        _field("errors", _LONG, "images", "misclassified validation images that leave their class's paths here"),
        _field("share", _REAL, "share", "of all misclassified validation images"),
        _field("cumulative_share", _REAL, "share", "of this and all earlier rows"),
        _field("train_errors", _LONG, "images", "misclassified training images that leave here"),
        _field(
            "correct_leaving",
            _LONG,
            "images",
            "correctly classified validation images that leave here as well; where `output` is entered they cannot, "
            "with triage.min_images = 1: they end in their own class",
        ),
        _field("images", _LONG, "images", "validation images whose path comes by"),
        _field("mean_log_odds", _REAL, "nats", "mean log-odds of the errors that have one", nullable=True),
        _field("label_name", _TEXT, "", "true class of the commonest confusion here", nullable=True),
        _field("predicted_name", _TEXT, "", "predicted class of the commonest confusion here", nullable=True),
        _field("confusions", _LONG, "images", "errors of the commonest confusion here"),
    ],
    "history": [
        _SCOPE,
        _LAYER,
        _field("restart", _INT, "", "number of the start; always 0 for mixtures"),
        _field("phase", _TEXT, "", "`generative` (likelihood) or `discriminative` (loss of the labels, IG Eq. 8)"),
        _field("step", _LONG, "minibatches", "global minibatches seen, counted through both phases"),
        _field("epoch", _INT, "", "of the phase, from 0"),
        _field("columns", _LONG, "columns", "columns seen, counted through both phases"),
        _field("held_out_log_likelihood", _REAL, "nats/column", "mean over the held-out sample of the step", True),
        _field("train_log_likelihood", _REAL, "nats/column", "mean over the global minibatch", True),
        _field("held_out_full", _REAL, "nats/column", "mean over all held-out columns", True),
        _field("reseeded", _LONG, "words", "re-seeds so far", True),
        _field("empty", _LONG, "words", "words without a column in the minibatch", True),
        _field("loss", _REAL, "nats/image", "mean cross entropy of the minibatch before the step", True),
        _field("error", _REAL, "share", "of the minibatch's images that get another label than theirs", True),
        _field("generative_loss", _REAL, "nats/image", "`loss` of a linear layer on the generative words", True),
        _field("held_out_loss", _REAL, "nats/image", "mean over all held-out images, after an epoch", True),
        _field("held_out_error_soft", _REAL, "share", "of the held-out images, by mean posteriors", True),
        _field("held_out_error_hard", _REAL, "share", "of the held-out images, by shares of hard words", True),
        _field("generative_held_out_loss", _REAL, "nats/image", "`held_out_loss` on the generative words", True),
        _field("generative_held_out_error_soft", _REAL, "share", "the same for `held_out_error_soft`", True),
    ],
    "errors": [
        _SCOPE,
        _LAYER,
        _field("words", _INT, "words", "K"),
        _field("loss", _TEXT, "", "whose words: `discriminative`, or `generative` with a linear layer of their own"),
        _field("histogram", _TEXT, "", "`soft`: mean posteriors of an image's columns; `hard`: shares of hard words"),
        _field("images", _LONG, "images", "readable validation images of the scope"),
        _field("errors", _LONG, "images", "that the linear layer on the histogram gives another label than theirs"),
        _field("error", _REAL, "share", "errors / images"),
        _field("network_errors", _LONG, "images", "that the network itself gives another class than theirs"),
        _field("network_error", _REAL, "share", "network_errors / images"),
        _field("difference", _REAL, "share", "error minus that of the generative words; null in their rows", True),
        _field("difference_low", _REAL, "share", "lower end of its paired 95 % interval", True),
        _field("difference_high", _REAL, "share", "upper end (McNemar's pairs, Agresti and Min 2005)", True),
        _field("tie", _FLAG, "", "whether the interval holds 0", True),
    ],
    "sweep": [
        _SCOPE,
        _LAYER,
        _field("given", _TEXT, "", "name of the layer in the preset"),
        _field("words", _INT, "words", "K"),
        _field("loss", _TEXT, "", "whose words: `generative`, or `discriminative` (IG Eq. 8)"),
        _field("histogram", _TEXT, "", "as in errors.parquet; null in a sweep of likelihoods alone", True),
        _field("columns", _LONG, "columns", "training columns that were fitted"),
        _field("log_likelihood", _REAL, "nats/column", "mean over the fitted columns; generative words only", True),
        _field("held_out_log_likelihood", _REAL, "nats/column", "mean over all held-out columns"),
        _field("parameters", _LONG, "numbers", "free parameters of the dictionary; generative words only", True),
        _field("bic", _REAL, "nats", "p ln n - 2 log L over the fitted columns; generative words only", True),
        _field("images", _LONG, "images", "readable validation images", True),
        _field("errors", _LONG, "images", "that the linear layer on the histogram gives another label", True),
        _field("error", _REAL, "share", "errors / images", True),
        _field("network_errors", _LONG, "images", "that the network itself gives another class", True),
        _field("network_error", _REAL, "share", "network_errors / images", True),
        *_paired("", "that of the generative words on the same images; null in their rows"),
        _field("tie", _FLAG, "", "whether that interval holds 0", True),
        *_paired("network_", "network_error"),
        _field("fewer_words", _INT, "words", "next smaller K of the sweep; null for the smallest", True),
        *_paired("fewer_", "that of the same layer, loss and histogram with `fewer_words`"),
    ],
    "parts": [
        _GRAPH,
        _SCOPE,
        _LAYER,
        _field("word", _INT, "key", "chosen word of the graph; null: all chosen words of the layer together", True),
        _field("rank", _INT, "", "place of the word in the graph, from 0, best first; null as `word`", True),
        _field("part", _TEXT, "", "`object`, or a part as the file of boxes (or its --name) calls it"),
        _field(
            "source",
            _TEXT,
            "",
            "`exemplars`: the word's columns in exemplars.parquet; `validation`: all its columns in Omega's images",
        ),
        _field("images", _LONG, "images", "with such a column and a box of the part"),
        _field("images_without", _LONG, "images", "with such a column but no box of the part: not counted here"),
        _field("positions", _LONG, "columns", "in these photos"),
        _field("inside", _LONG, "columns", "whose receptive field has its centre in a box"),
        _field("share", _REAL, "share", "inside / positions; null without positions", True),
        _field("share_low", _REAL, "share", "lower end of its 95 % interval over photos (Wilson, Kish)", True),
        _field("share_high", _REAL, "share", "upper end", True),
        _field("area", _REAL, "share", "of the cropped photos that the boxes cover; photos weigh by positions", True),
    ],
}

SCHEMAS: dict[str, pa.Schema] = {name: pa.schema([*columns, _NETWORK]) for name, columns in _COLUMNS.items()}

SORT_KEYS: dict[str, tuple[str, ...]] = {
    "images": ("image",),
    "nodes": ("graph",),
    "edges": ("graph",),
    "words": ("scope", "layer", "word"),
    "exemplars": ("scope", "layer", "word", "rank"),
    "heatmaps": ("graph",),
    "history": ("scope", "layer", "restart", "step"),
    "errors": ("scope", "layer", "words"),
    "layers": ("scope",),
    "paths": ("image", "scope", "level"),
    "transitions": ("scope", "lower_layer", "upper_layer", "lower_word", "upper_word"),
    "triage": ("image",),
    "junctions": ("scope", "rank"),
    "sweep": ("scope",),
    "parts": ("graph",),
}
"""Sort key of each table: what people filter on. Rows with equal keys keep the order they were written in."""


def schema_markdown() -> str:
    """Every table as a Markdown section with a row per column: name, type, unit, meaning."""
    sections = []
    for name, schema in SCHEMAS.items():
        lines = [f"### {name}.parquet", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        for field in schema:
            kind = f"{field.type}{' or null' if field.nullable else ''}"
            unit, meaning = (field.metadata[key].decode() for key in (b"unit", b"description"))
            lines.append(f"| `{field.name}` | {kind} | {unit} | {meaning.replace('|', chr(92) + '|')} |")
        lines += ["", f"Sorted by {', '.join(SORT_KEYS[name])}.", ""]
        sections.append("\n".join(lines))
    return "\n".join(sections)

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
        _field("step", _LONG, "minibatches", "global minibatches seen"),
        _field("epoch", _INT, "", "from 0"),
        _field("columns", _LONG, "columns", "columns seen"),
        _field("held_out_log_likelihood", _REAL, "nats/column", "mean over the held-out sample of the step"),
        _field("train_log_likelihood", _REAL, "nats/column", "mean over the global minibatch"),
        _field("held_out_full", _REAL, "nats/column", "mean over all held-out columns", nullable=True),
        _field("reseeded", _LONG, "words", "re-seeds so far"),
        _field("empty", _LONG, "words", "words without a column in the minibatch"),
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
    "layers": ("scope",),
    "paths": ("image", "scope", "level"),
    "transitions": ("scope", "lower_layer", "upper_layer", "lower_word", "upper_word"),
    "triage": ("image",),
    "junctions": ("scope", "rank"),
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

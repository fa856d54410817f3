"""mixtures + validation images -> decisions.parquet, errors.parquet: how often the words' histograms decide wrongly.

One pass over the validation images serves all scopes and layers, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
from pyarrow import dataset

from gmm_ops.discriminative.classifier import PairedDifference
from workflows.context import StageContext
from workflows.plan.scopes import item_name, read_scopes
from workflows.storage.tables import join_parts, write_table
from workflows.words.decisions import (
    NETWORK,
    WAYS,
    FittedLayer,
    decide,
    decisions_part,
    shards_to_decide,
    way_column,
)
from workflows.words.shard_names import names_left

KEY = "scope, layer, words"
"""What a row of decisions.parquet belongs to."""


def run(context: StageContext) -> None:
    """The stage: nothing without the discriminative loss; else every shard with validation images, then two tables."""
    settings, folder = context.settings, context.folder
    if settings.hmm is not None or settings.fit.loss != "discriminative":
        context.begin(0)
        return
    plan = context.plan()
    fits = [
        FittedLayer(item_name(scope.name, layer.name), scope, layer, folder)
        for scope in read_scopes(folder)
        for layer in plan.layers
    ]
    wanted = shards_to_decide(settings, plan, folder, fits)
    done = context.begin(len(wanted))
    context.progress.start(len(wanted), len(wanted) - len(names_left(wanted, done)))
    decide(context, plan, fits, wanted, folder.decisions)
    parts = [decisions_part(folder.decisions, index) for index in sorted(wanted)]
    # Parts may hold rows of scopes that an earlier command asked for.
    present = [("scope", "in", sorted({fit.scope.name for fit in fits}))]
    join_parts(folder.table("decisions"), parts, "decisions", present)
    write_table(folder.table("errors"), list(error_rows(folder.table("decisions"))), "errors", network=settings.name)


def error_rows(decisions: Path) -> Iterator[dict[str, Any]]:
    """Rows of errors.parquet from decisions.parquet: four for every scope, layer and number of words."""
    with duckdb.connect() as connection:
        rows = connection.from_arrow(dataset.dataset(str(decisions)))
        counted = rows.aggregate(f"{KEY}, {_counts()}", KEY).to_arrow_table().to_pylist()
    for counts in counted:
        for loss, histogram in WAYS:
            yield _row(counts, loss, histogram)


def _counts() -> str:
    """Images, errors, and pairs of which one loss alone is wrong; whole numbers, so blocks may come in any order."""
    counts = {"images": "true", "network_errors": f"{NETWORK} <> label"}
    for way in WAYS:
        counts[f"{way_column(*way)}_errors"] = f"{way_column(*way)} <> label"
    for histogram in ("soft", "hard"):
        ours, others = (way_column(loss, histogram) for loss in ("discriminative", "generative"))
        counts[f"{histogram}_only_discriminative"] = f"{ours} <> label AND {others} = label"
        counts[f"{histogram}_only_generative"] = f"{ours} = label AND {others} <> label"
    return ", ".join(f"count(*) FILTER (WHERE {condition}) AS {name}" for name, condition in counts.items())


def _row(counts: Mapping[str, Any], loss: str, histogram: str) -> dict[str, Any]:
    images, network = counts["images"], counts["network_errors"]
    errors = counts[f"{way_column(loss, histogram)}_errors"]
    row = {name: counts[name] for name in ("scope", "layer", "words")} | {"loss": loss, "histogram": histogram}
    row |= {"images": images, "errors": errors, "error": errors / images}
    row |= {"network_errors": network, "network_error": network / images}
    if loss == "generative":
        return row
    alone = [counts[f"{histogram}_only_{one}"] for one in ("discriminative", "generative")]
    found = PairedDifference.of_counts(images, *alone)
    interval = {"difference_low": found.low, "difference_high": found.high}
    return row | {"difference": found.difference, "tie": found.is_tie} | interval

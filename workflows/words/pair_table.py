"""The rows of pairs.parquet: every pair of words that occurs together, with its count and log ratio."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from workflows.plan.run_plan import LayerPair
from workflows.storage.tables import to_table
from workflows.words.mining import ScopeCounts


def pair_tables(counted: ScopeCounts, per_class: bool) -> Iterator[pa.Table]:
    """Parts of the table, one a pair of layers, from the output downwards.

    Args:
        counted: what one scope's validation images hold (IG Eq. 5, 6), and its log ratios (Eq. 14).
        per_class: also the rows of every predicted class, with the log ratios of all.
    """
    for pair, ratios in zip(counted.plan.pairs(), counted.ratios, strict=True):
        counts, values = counted.counts[pair.name], ratios.values.numpy()
        total = counts.total(pair.upper_words, pair.lower_words).numpy()
        upper, lower = np.nonzero(total)
        yield _table(counted.scope, pair, None, upper, lower, total[upper, lower], values)
        if per_class:
            group, upper, lower, count = counts.columns()
            yield _table(counted.scope, pair, group, upper, lower, count, values)


def _table(
    scope: str,
    pair: LayerPair,
    group: Int[np.ndarray, " P"] | None,
    upper: Int[np.ndarray, " P"],
    lower: Int[np.ndarray, " P"],
    count: Int[np.ndarray, " P"],
    ratios: np.ndarray,
) -> pa.Table:
    rows = len(count)
    keys = {"scope": scope, "upper_layer": pair.upper, "lower_layer": pair.lower}
    columns = {name: pa.repeat(value, rows) for name, value in keys.items()}
    columns |= {"class": pa.nulls(rows, pa.int32()) if group is None else pa.array(group, pa.int32())}
    columns |= {"upper_word": pa.array(upper, pa.int32()), "lower_word": pa.array(lower, pa.int32())}
    return to_table(columns | {"count": count, "log_ratio": ratios[upper, lower]}, "pairs")

"""The rows of pairs.parquet: every pair of words that occurs together, with its count and log ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from workflows.plan.run_plan import LayerPair
from workflows.storage.tables import to_table
from workflows.words.mining import ScopeCounts
from workflows.words.sureness import PairIntervals


def pair_tables(counted: ScopeCounts, per_class: bool, intervals: Sequence[PairIntervals] = ()) -> Iterator[pa.Table]:
    """Parts of the table, one a pair of layers, from the output downwards.

    Args:
        counted: what one scope's validation images hold (IG Eq. 5, 6), and its log ratios (Eq. 14).
        per_class: also the rows of every predicted class, with the log ratios of all.
        intervals: of these log ratios, one a pair of layers; or none.
    """
    for level, (pair, ratios) in enumerate(zip(counted.plan.pairs(), counted.ratios, strict=True)):
        counts, values = counted.counts[pair.name], {"log_ratio": ratios.values.numpy()}
        if intervals:
            values |= {"log_ratio_low": intervals[level].low, "log_ratio_high": intervals[level].high}
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
    values: Mapping[str, np.ndarray],
) -> pa.Table:
    rows = len(count)
    keys = {"scope": scope, "upper_layer": pair.upper, "lower_layer": pair.lower}
    columns = {name: pa.repeat(value, rows) for name, value in keys.items()}
    columns |= {"class": pa.nulls(rows, pa.int32()) if group is None else pa.array(group, pa.int32())}
    columns |= {"upper_word": pa.array(upper, pa.int32()), "lower_word": pa.array(lower, pa.int32())}
    return to_table(columns | {"count": count, **{name: one[upper, lower] for name, one in values.items()}}, "pairs")

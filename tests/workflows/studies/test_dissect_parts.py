"""What dissect is made of, piece by piece, without a run."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from workflows.studies.dissect.figures import lowest_quantile


def test_the_lowest_q_of_many_units_is_found_at_once() -> None:
    units = 20_000
    table = pa.table({"unit": np.repeat(np.arange(units), 4), "quantile": np.tile([0.04, 0.005, 0.01, 0.02], units)})
    began = time.perf_counter()
    rows = lowest_quantile(table)
    assert time.perf_counter() - began < 5, "one pass over the rows, not one for each"
    assert rows == [{"unit": unit, "quantile": 0.005} for unit in range(units)]

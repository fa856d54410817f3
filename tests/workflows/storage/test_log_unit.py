"""One change makes every log ratio one of another unit: computed, stored, labelled and drawn."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from workflows.storage.log_unit import BITS, LOG_UNIT, NATS

SEEN = """
import json
import workflows.storage.log_unit as unit
{change}
import torch
from workflows.report.legend import arrow_samples
from workflows.storage.tables import SCHEMAS
from workflows.words.mining import drawn, ratios_of
schema = SCHEMAS["edges"]
row = [[30, 10], [10, 70]]
print(json.dumps(dict(
    value=float(ratios_of(torch.tensor(row), "marginal", None, 0.0).values[0, 0]),
    drawn=[drawn(value) for value in (0.0, 0.69, 0.7, 1.0, 1.1)],
    unit=schema.field("log_ratio").metadata[b"unit"].decode(),
    meaning=schema.field("log_ratio").metadata[b"description"].decode(),
    score=SCHEMAS["nodes"].field("score").metadata[b"unit"].decode(),
    legend=list(arrow_samples().values()),
)))
"""


def seen(change: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", SEEN.format(change=change)], capture_output=True, text=True, check=True, timeout=120
    )
    return dict(json.loads(done.stdout))


@pytest.mark.slow  # two processes
def test_nats_are_one_change() -> None:
    bits, nats = seen(""), seen("unit.LOG_UNIT = unit.NATS")
    assert LOG_UNIT == BITS
    # P(0|0) = 3/4 and P(0) = 40/120
    assert (round(float(bits.pop("value")), 6), round(float(nats.pop("value")), 6)) == (1.169925, 0.81093)
    assert bits == {
        "drawn": ["hidden", "weak", "weak", "weak", "strong"],
        "unit": "bits",
        "meaning": "log2 P(t|s)/P(t) over S_V (right label)",
        "score": "bits x count",
        "legend": ["log ratio up to 1 bit", "log ratio above 1 bit"],
    }
    assert nats == {
        "drawn": ["hidden", "weak", "strong", "strong", "strong"],
        "unit": "nats",
        "meaning": "ln P(t|s)/P(t) over S_V (right label)",
        "score": "nats x count",
        "legend": ["log ratio up to 0.69 nats", "log ratio above 0.69 nats"],
    }
    assert (BITS.doubling, NATS.doubling) == ("1 bit", "0.69 nats")

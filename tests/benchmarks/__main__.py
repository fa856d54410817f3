"""``make bench``: prints a table of ratios and appends it to RESULTS.md."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")
SUITES = (
    "extract",
    "em_pass",
    "counting",
    "hmm",
    "discriminative",
    "word_slices",
    "scopes",
    "sliced_fit",
    "dissection",
    "conductance",
    "patterns",
    "classes",
    "gpu",
    "reading",
    "weak_scaling",
    "report_site",
    "completeness",
    "shortcuts",
)
"""Modules of this folder, each with ``measure(tiny=False)``; imported when run."""


def main() -> None:
    """Run the named suites, or all."""
    names = sys.argv[1:] or list(SUITES)
    unknown = sorted(set(names) - set(SUITES))
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    for name in names:
        table = markdown(import_module(f"tests.benchmarks.{name}").measure())
        print(f"\n{name}\n\n{table}", flush=True)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        heading = f"## {name}, {date.today()}, {os.cpu_count()} cores ({platform.machine()}), {device}"
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(f"\n{heading}\n\n`make bench` (`python -m tests.benchmarks {name}`)\n\n{table}\n")


def markdown(records: Sequence[Any]) -> str:
    """A table of the records, one a row."""
    rows = [asdict(record) if is_dataclass(record) else record for record in records]
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_text(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _text(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    main()

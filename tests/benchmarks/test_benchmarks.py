"""Every benchmark runs in its tiny form: the same code on few images, so that none is found broken when needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.__main__ import SUITES, markdown
from tests.benchmarks.counting import CASES
from tests.benchmarks.planted_marks import chosen_marks
from tests.benchmarks.shortcuts import SEED
from tests.network_hosts import may_make_hosts

GENERATIVE = ("generative", "generative, a variance a layer")

ROWS = {
    "extract": [
        "ResNet-20, pre, all columns, codec auto",
        "ResNet-20, post, all columns, zstd",
        "ResNet-50, photos, decoding included",
    ],
    "em_pass": ["ResNet-20 add3", "ResNet-20 add6", "ResNet-20 add9", "ResNet-50 add3", "ResNet-50 add7"],
    "counting": [
        "ResNet-20 add2 -> add4, window 11",
        "ResNet-20 add4 -> add6, window 9",
        "ResNet-20 add6 -> add8, window 15",
        "28x28 K 450 -> 14x14 K 1500, window 10",
    ],
    "hmm": ["forward-backward"] * 3 + ["Viterbi"] * 3,
    "discriminative": [
        "ResNet-20 add3",
        "ResNet-20 add6",
        "ResNet-20 add9",
        "ResNet-50 layer1.2.add",
        "ResNet-50 layer2.3.add",
    ],
    "word_slices": ["EM pass", "hard words", "discriminative gradient"],
    "scopes": ["one run of 2 scopes", "2 runs of one scope", "ratio"],
    "sliced_fit": ["generative", "discriminative"],
    "dissection": ["14x14, 1,024 units", "28x28, 512 units"],
    "conductance": ["ResNet-20", "SqueezeNet"],
    "patterns": ["28x28, N 40, 128 units", "14x14, N 20, 256 units", "7x7, N 10, 512 units"],
    "classes": [
        "10 classes x 20, generative, joint",
        "10 classes x 20, discriminative, joint and 10 of classes",
    ],
    "gpu": [
        *(
            f"words of {layer}, {precision}, as of the CPU in float32"
            for precision in ("float32", "bfloat16")
            for layer in ("layer1.2.add", "layer2.3.add", "layer3.5.add")
        ),
        "ResNet-50 forward, float32",
        "ResNet-50 forward, bfloat16",
        "EM pass",
        "EM pass over a product in float32",
        "EM pass over a product in bfloat16",
        *(f"counting, {case.name}" for case in CASES),
    ],
    "reading": ["folder, disk", "tar, disk", "folder, store", "tar, store"],
    "weak_scaling": ["extract", "fit"],
    "report_site": ["12 classes, 4 layers"],
    "completeness": [
        "k-means",
        *GENERATIVE,
        "generative, a variance a unit",
        "decision",
        "decision, from a variance a layer",
        "generative, tempered",
        "sparse code, 4 active",
        *(f"{words}: two words" for words in GENERATIVE),
        *(
            f"{words}: and {count} of the word's components"
            for words in ("k-means", *GENERATIVE, "decision")
            for count in (1, 2, 4)
        ),
        *(
            f"{words}: and {count} of the layer's components"
            for words in (*GENERATIVE, "decision")
            for count in (1, 2, 4)
        ),
        *(f"no words: {count} of the layer's components" for count in (1, 2, 4)),
    ],
    "shortcuts": [
        *(f"0, class {mark.label}: {mark.role} {mark}" for mark in chosen_marks(0, SEED)),
        "4 planted",
        "2 decoys",
        "1 unseen",
        "1 ignored",
        "words of classes without a mark",
    ],
}
"""First column of each table."""
WHOLE_RUNS = (
    "scopes",
    "sliced_fit",
    "word_slices",
    "classes",
    "gpu",
    "reading",
    "weak_scaling",
    "report_site",
    "shortcuts",
)
"""They start actors or processes of their own: half a minute of processor time even when tiny."""
LONG = ("extract", "hmm", "patterns", "em_pass", "dissection", "discriminative", "completeness")
"""They compute as long."""


@pytest.fixture
def tiny(shared_data: Path, local_ray: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets name the real data as seen from the project's root."""
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in WHOLE_RUNS + LONG)) for name in SUITES]
)
def test_the_tiny_form_gives_every_row(name: str) -> None:
    if name == "weak_scaling" and not may_make_hosts():
        pytest.skip("needs leave to make network namespaces")
    records = import_module(f"tests.benchmarks.{name}").measure(tiny=True)
    rows = [record if isinstance(record, Mapping) else asdict(record) for record in records]
    assert [next(iter(row.values())) for row in rows] == ROWS[name]
    for row in rows:
        assert_finite(row)
    assert len(markdown(records).splitlines()) == len(rows) + 2
    if name == "scopes":
        assert {row["arrays and tables that differ"] for row in rows} == {"none"}


def assert_finite(row: Mapping[str, Any]) -> None:
    numbers = {column: value for column, value in row.items() if isinstance(value, int | float)}
    assert numbers
    assert all(math.isfinite(value) for value in numbers.values()), row
    rates = [column for column in numbers if "per_second" in column or "images/s" in column or column.endswith("ratio")]
    assert all(numbers[column] > 0 for column in rates), row

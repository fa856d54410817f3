"""Detectors as figure and table, contact sheets: what they show, whatever the names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from workflows.report.concept_table import unit_table, word_table
from workflows.report.contact_sheet import SheetPicture, SheetRow, draw_contact_sheet, outlined
from workflows.report.detector_figure import detector_table, detectors, draw_detectors

TITLES = {"layer1.0.add": "add1", "layer2.0.add": "add2"}


def row(layer: str, concept: str | None, iou: float, category: str = "part") -> dict[str, object]:
    return {"layer": layer, "concept": concept, "category": category, "iou": iou, "detector": iou > 0.04}


ROWS = [
    row("layer1.0.add", "wheel", 0.09),
    row("layer1.0.add", "wheel", 0.2),
    row("layer1.0.add", "red", 0.05, "colour"),
    row("layer1.0.add", "hood", 0.03),
    row("layer2.0.add", None, 0.0),
]


def printed(table: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_detectors_are_counted_by_layer_and_category() -> None:
    found = detectors("units", ROWS, TITLES, {"layer1.0.add": 64, "layer2.0.add": 128})
    assert found.layers == ("add1", "add2")
    assert found.counts == ({"part": 2, "colour": 1}, {})
    assert (found.concepts, found.totals) == ((2, 0), (64, 128))
    assert found.best == (("wheel", 0.2), None)
    text = printed(detector_table([found]))
    assert " ".join(text.split()).endswith("units add1 3 64 2 wheel 0.20 add2 0 128 0 – –")


@pytest.mark.parametrize("name", ["wheel[front]", "wheel [/x]"])
def test_a_name_is_no_markup(name: str) -> None:
    found = detectors(f"units of {name}", [row("layer1.0.add", name, 0.2)], TITLES, {"layer1.0.add": 64})
    assert printed(detector_table([found])).count(name) == 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_figure_says_how_many_of_all(tmp_path: Path, count: int) -> None:
    panel = detectors("$units$ of <b>", ROWS, TITLES, {"layer1.0.add": 64, "layer2.0.add": 128})
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_detectors([panel] * count, png, svg, heading="cars: 車 & $x$", below="above 0.04")
    text = svg.read_text()
    assert text.count("3 of 64") == text.count("0 of 128") == count
    assert "colour" in text
    with Image.open(png) as picture:
        assert picture.width in (1653, 1654)


def test_nothing_detected_is_drawn_too(tmp_path: Path) -> None:
    panel = detectors("words", [], TITLES, {"layer1.0.add": 8})
    draw_detectors([panel], tmp_path / "a.png", tmp_path / "a.svg", heading="n", below="b")
    assert "0 of 8" in (tmp_path / "a.svg").read_text()


def test_outlines_lie_on_the_borders_of_masks() -> None:
    mask, concept = np.zeros((32, 32), bool), np.zeros((32, 32), bool)
    mask[8:16, 8:16], concept[8:16, 12:28] = True, True
    shown = outlined(SheetPicture(np.zeros((32, 32, 3), np.uint8), mask, concept), 320)
    green, red = shown[..., 1] > shown[..., 0], shown[..., 0] > shown[..., 1]
    assert green[80, 80]
    assert green[159, 159]
    assert red[159, 270]
    assert not (green | red)[120, 100], "inside"
    assert not (green | red)[70:79].any(), "outside"
    whole = outlined(SheetPicture(np.zeros((32, 32, 3), np.uint8), ~np.zeros((32, 32), bool), concept), 320)
    assert not (whole[..., 1] > whole[..., 0]).any(), "the picture's edge is no border"


def test_a_sheet_has_a_line_for_each_unit_and_word(tmp_path: Path) -> None:
    picture = SheetPicture(np.full((20, 30, 3), 90, np.uint8), np.eye(20, 30, dtype=bool), np.zeros((20, 30), bool))
    rows = [SheetRow(f"add1 unit {unit}", "IoU 0.12", (picture,) * unit) for unit in (1, 4, 9)]
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_contact_sheet("cars: wheel", rows, png, svg, concept="wheel", columns=6)
    text = svg.read_text()
    assert all(f"add1 unit {unit}" in text for unit in (1, 4, 9))
    assert text.count("<image") == 1 + 4 + 6


def test_a_unit_and_a_word_as_tables() -> None:
    best = {"rank": 0, "concept": "wheel", "category": "part", "iou": 0.123, "cap": 0.4}
    units = [
        {"quantile": 0.005, "threshold": 1.5, "mean": 0.2, "sd": 0.3},
        {"quantile": 0.01, "threshold": 1.25, "mean": 0.2, "sd": 0.3},
    ]
    concepts = [{**best, "quantile": 0.005}]
    words = [{"word": 7, "z": -1.25, "concept": ""}, {"word": 8, "z": 2.0, "concept": "hood .30"}]
    text = " ".join(printed(unit_table("add1 unit 3", units, concepts, words)).split())
    assert "add1 unit 3, mean 0.2, sd 0.3" in text
    assert "0.005 1.5 wheel part 0.12 0.40 0.01 1.25 – – –" in text
    assert "7 −1.2 – 8 2.0 hood .30" in text
    text = " ".join(printed(word_table("add1 word 7", 0.031, [best], [])).split())
    assert text.startswith("add1 word 7, 3.1 % of the training columns")
    assert "units that make it" not in text

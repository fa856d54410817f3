"""The figure of a sweep: a panel a layer, the network's own error, the bars of paired differences."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workflows.report.made_up_sweeps import HALF, likelihoods_alone, made_up_sweep
from workflows.errors import RunFolderError
from workflows.report.sweep_figure import draw_sweep_figure, sweep_curve

ERRORS = {
    "add1": {"generative": (700, 650, 600), "discriminative": (500, 450, 590)},
    "add2": {"generative": (400, 350, 300), "discriminative": (300, 250, 200)},
    "add3": {"generative": (200, 150, 110), "discriminative": (120, 100, 100)},
    "add4": {"generative": (150, 120, 100), "discriminative": (110, 95, 95)},
}


def texts(path: Path) -> list[str]:
    nodes = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(node.itertext()) for node in nodes]


def drawn(tmp_path: Path, table: object, name: str = "a") -> tuple[Path, Path]:
    paths = tmp_path / f"{name}.png", tmp_path / f"{name}.svg"
    draw_sweep_figure(table, *paths, network="made-up")  # type: ignore[arg-type]
    return paths


def test_curves_are_the_rows_of_the_table_by_number_of_words() -> None:
    table = made_up_sweep(ERRORS).take(np.random.default_rng(0).permutation(48))
    curve = sweep_curve(table, "add1", "discriminative", "soft")
    assert curve.words.tolist() == [10, 25, 50]
    assert curve.error.tolist() == [0.5, 0.45, 0.59]
    assert curve.tie.tolist() == [False, False, True]
    np.testing.assert_allclose(curve.high - curve.low, 2 * HALF)
    assert sweep_curve(table, "add1", "generative", "hard").error.tolist() == [0.705, 0.655, 0.605]
    assert np.isnan(sweep_curve(table, "add1", "generative", "soft").low).all()


def test_every_layer_has_panels_of_errors_and_of_likelihoods(tmp_path: Path) -> None:
    _, svg = drawn(tmp_path, made_up_sweep(ERRORS))
    found = texts(svg)
    for layer in ERRORS:
        assert found.count(layer) == 1
        assert f"{layer}: lowest BIC at K = 50, the largest" in found
    assert any("share of 1,000 validation images" in text for text in found)
    assert "the network's own error" in found


def test_the_networks_own_error_is_a_line_at_its_height(tmp_path: Path) -> None:
    from workflows.report.sweep_figure import _figure

    figure = _figure(made_up_sweep(ERRORS), list(ERRORS), "made-up")
    panels = figure.axes[:4]
    for panel in panels:
        dashed = [line for line in panel.lines if line.get_linestyle() == "--"]
        assert [line.get_ydata()[0] for line in dashed] == [0.085]
    bars = panels[0].collections[0].get_segments()
    np.testing.assert_allclose(bars[0][:, 1], [0.7 - 0.2 - HALF, 0.7 - 0.2 + HALF])


def test_a_sweep_of_likelihoods_alone_has_no_panel_of_errors(tmp_path: Path) -> None:
    png, svg = drawn(tmp_path, likelihoods_alone(), "b")
    found = texts(svg)
    assert "add1: lowest BIC at K = 25" in found
    assert not any("validation images" in text for text in found)
    whole, _ = drawn(tmp_path, made_up_sweep(ERRORS))
    with Image.open(png) as alone, Image.open(whole) as both:
        assert alone.height < both.height


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (drawn(tmp_path, made_up_sweep(ERRORS), name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="the sweep table is empty: run the sweep"):
        drawn(tmp_path, made_up_sweep({}))

"""Figures of relevance and ablation: what they show, and that nothing leaves the page."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workflows.report.ablation_figure import Curve, draw_ablation_figure
from workflows.report.relevance_figure import draw_relevance_figure


def texts(path: Path) -> list[str]:
    nodes = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(node.itertext()) for node in nodes]


def margins_are_white(path: Path) -> bool:
    """No drawing touches the edge of the page: what leaves it would be cut there."""
    picture = np.asarray(Image.open(path))
    edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    return all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize(("layers", "classes"), [(1, 1), (7, 10), (53, 2), (26, 150)])
def test_a_heat_map_names_layers_and_classes(tmp_path: Path, layers: int, classes: int) -> None:
    names = [f"layer{place}.0.a_rather_long_name.conv{place}" for place in range(layers)]
    titles = [f"class {place}, with synonyms" for place in range(classes)]
    sums = np.random.default_rng(0).random((layers, classes))
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_relevance_figure(sums, names, titles, png, svg, network="made $x$ up", measure="masked")
    shown = texts(svg)
    assert "class 0" in shown
    assert sum(text.startswith("class ") for text in shown) == min(classes, -(-classes // -(-classes // 60)))
    assert sum(text.startswith("layer") for text in shown) == layers
    assert any("within the class" in text for text in shown) or classes == 1
    assert margins_are_white(png)
    again = tmp_path / "b.png"
    draw_relevance_figure(sums, names, titles, again, svg, network="made $x$ up", measure="masked")
    assert again.read_bytes() == png.read_bytes()


def curves(over: tuple[object, ...], kinds: tuple[str, ...] = ("mean", "zero")) -> list[Curve]:
    random, found = np.random.default_rng(0), []
    for kind in kinds:
        for ranking, selection in (("relevance", "top"), ("relevance", "bottom"), ("random", "random")):
            values = {
                whose: tuple((float(mean), float(mean) - 0.1, float(mean) + 0.1) for mean in random.random(len(over)))
                for whose in ("own", "others")
            }
            found.append(Curve(kind, ranking, selection, over, values, {"own": 0.9, "others": 0.8}))
    return found


def test_curves_stand_beside_their_controls(tmp_path: Path) -> None:
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_ablation_figure(curves((0.01, 0.02, 0.1)), png, svg, network="made up", over="share")
    shown = texts(svg)
    assert {"relevance, top", "relevance, bottom", "random", "plain network"} <= set(shown)
    assert sum("silenced units say" in text for text in shown) == 4
    assert margins_are_white(png)


def test_single_layers_lie_along_the_page(tmp_path: Path) -> None:
    layers = tuple(f"layer{place}.0.conv{place}" for place in range(17))
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_ablation_figure(curves(layers, ("mean",)), png, svg, network="made up", over="layers", share=0.1)
    shown = texts(svg)
    assert set(layers) <= set(shown)
    assert "made up: accuracy without 10 % of the units of one layer" in shown
    assert margins_are_white(png)

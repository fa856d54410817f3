"""The page of how far runs agree: what it says, what it leaves out; and graphs with what other runs say to them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.workflows.report.test_graph_figure import view_of
from workflows.report.agreement_figure import draw_agreement_figure
from workflows.report.graph_figure import graph_page


def row(layer: str, other: str, label: int | None, value: float | None) -> dict[str, Any]:
    names = ("word_iou", "word_iou_chance", "matched_share", "matched_chance", "columns_iou", "columns_shuffled")
    return {"layer": layer, "run": "seed $0$", "other_run": other, "class": label, **dict.fromkeys(names, value)}


@pytest.mark.parametrize(("layers", "others"), [(1, 1), (9, 4)])
def test_layers_and_runs_are_named_and_nothing_leaves_the_page(tmp_path: Path, layers: int, others: int) -> None:
    names = {f"layer{place}.0.add": f"add{place}" for place in range(layers)}
    rows = [
        row(layer, f"a rather long name of seed {other}", label, None if label == 1 else 0.4)
        for layer in names
        for other in range(others)
        for label in (None, 0, 1)
    ]
    paths = tmp_path / "a.png", tmp_path / "a.svg"
    draw_agreement_figure(rows, names, "made <b> up", "joint", paths)
    nodes = ElementTree.parse(paths[1]).iter("{http://www.w3.org/2000/svg}text")
    texts = ["".join(node.itertext()) for node in nodes]
    assert f"made <b> up: do {others + 1} runs agree?" in texts
    assert sum(text.startswith("add") for text in texts) == 3 * layers
    assert any("seed $0$" in text for text in texts)
    picture = np.asarray(Image.open(paths[0]))
    assert all((edge == 255).all() for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]))


def test_a_graph_says_how_many_other_runs_cover_a_node() -> None:
    view = view_of(None)
    covered = [
        tuple(replace(node, covered=(node.rank, 4), chosen_again=0.1) if depth else node for node in layer)
        for depth, layer in enumerate(view.layers)
    ]
    view = replace(view, layers=tuple(covered))
    page = graph_page(view)
    texts = [text for _, text, _ in page.boxes()]
    assert any("Consensus graph of class" in text for text in texts)
    assert sum(" · in 1 of 4 runs" in text for text in texts) == len(view.layers) - 1
    framed = [one for one in page.figure.get_children() if one.get_label() == "card" and one.get_edgecolor()[3] > 0]
    assert len(framed) == sum(node.rank < 2 for layer in view.layers[1:] for node in layer)
    said = " ".join(text for kind, text, _ in page.boxes() if kind == "legend")
    assert "In 1 of 2 runs: so many others' graphs cover more than half of its columns" in said
    assert "resamplings" not in said

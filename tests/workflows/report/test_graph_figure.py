from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.workflows.report.made_up_graphs import (
    CIFAR_NAMES,
    generated_pictures,
    made_up_tables,
    made_up_word_maps,
    save_pictures,
)
from workflows.report.graph_figure import GraphStyle, draw_class_graph, draw_image_graph, graph_page, place_graph
from workflows.report.graph_view import ExemplarView, GraphView, NodeView
from workflows.report.page import DPI, Page
from workflows.report.pictures import PictureFolder
from workflows.report.thumbnails import RED, thumbnail
from workflows.report.view_tables import build_graph_view

LABELS = [i % 10 for i in range(40)]
IMAGENET_NAMES = (
    "sports car, sport car",
    "three-toed sloth, ai, Bradypus tridactylus",
    "cat",
    "tiger, Panthera tigris",
)
A4 = (1654, 2339)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, generated_pictures(40, 32))
    return PictureFolder(folder)


def view_of(
    pictures: PictureFolder | None,
    graph: str = "class:3",
    side: int = 32,
    labels: list[int] | None = None,
    names: tuple[str, ...] = CIFAR_NAMES,
    exemplars: int = 6,
    titles: dict[str, str] | None = None,
    **options: object,
) -> GraphView:
    tables = made_up_tables(labels or LABELS, side, graph=graph, class_names=names, **options)
    maps = made_up_word_maps(tables, side) if graph.startswith("image") else None
    return build_graph_view(
        tables,
        graph,
        scope="joint",
        network="made_up",
        class_names=names,
        pictures=pictures,
        word_maps=maps,
        exemplars=exemplars,
        layer_titles=titles,
    )


def overlaps(page: Page) -> list[str]:
    """Every two texts or pictures that share more than half a pixel both ways."""
    boxes = page.boxes()
    ends = np.array([box.extents for _, _, box in boxes]).reshape(-1, 4).T
    wide, high = (
        np.minimum.outer(ends[after], ends[after]) - np.maximum.outer(ends[before], ends[before])
        for before, after in ((0, 2), (1, 3))
    )
    shared = np.argwhere(np.triu((wide > 0.5) & (high > 0.5), 1))  # of the hundreds of thousands of pairs of a page
    return [
        f"{boxes[a][0]} {boxes[a][1]!r} and {boxes[b][0]} {boxes[b][1]!r}: {wide[a, b]:.1f} x {high[a, b]:.1f} pixels"
        for a, b in shared
    ]


def outside(page: Page) -> list[str]:
    return [
        f"{kind} {text!r}"
        for kind, text, box in page.boxes()
        if box.x0 < 0 or box.y0 < 0 or box.x1 > page.width_pixels or box.y1 > page.height_pixels
    ]


SIZES = [(n_layers, top) for n_layers in (1, 2, 4, 5, 6) for top in (1, 2, 3, 4, 5)]
# What the sizes between add is more of the same.
CORNERS = ((1, 1), (1, 5), (2, 3), (4, 2), (5, 4), (6, 1), (6, 3), (6, 5))


@pytest.mark.parametrize("graph", ["class:3", "image:5"])
@pytest.mark.parametrize(
    ("n_layers", "top"), [pytest.param(*one, marks=[] if one in CORNERS else pytest.mark.slow) for one in SIZES]
)
def test_nothing_overlaps_and_nothing_leaves_the_page(pictures, graph: str, n_layers: int, top: int) -> None:
    page = graph_page(view_of(pictures, graph, n_layers=n_layers, top=top, log_ratios=(2.0, 1.0)))
    assert overlaps(page) == []
    assert outside(page) == []
    if n_layers < 6 or top < 4:  # six layers of four or five words print at 95 % on A4
        assert page.width_pixels <= A4[0]
        assert page.height_pixels <= A4[1]
    assert page.height_pixels <= 1.07 * A4[1]


@pytest.mark.parametrize("options", [
    {"names": IMAGENET_NAMES, "labels": [i % 4 for i in range(40)], "graph": "class:1"},
    {"names": IMAGENET_NAMES, "labels": [i % 4 for i in range(40)], "graph": "image:7", "top": 5},
    {"titles": {"layer3.1.add": "features.denseblock3.denselayer24.concatenation.add"}},
    {"heat": False, "top": 5},
    {"distinct": 2},
    {"exemplars": 1},
    {"exemplars": 3, "top": 2},
    {"exemplars": 9},
    {"exemplars": 12, "graph": "image:5"},
    {"log_ratios": (14.0, 2.0), "top": 5},
    {"log_ratios": (-2.0, 0.1)},
    {"top": 8},
])  # fmt: skip
def test_unusual_graphs_do_not_overlap_either(pictures, options: dict) -> None:
    page = graph_page(view_of(pictures, **options))
    assert overlaps(page) == []
    assert outside(page) == []


def kinds(page: Page) -> dict[str, int]:
    found: dict[str, int] = {}
    for kind, _, _ in page.boxes():
        found[kind] = found.get(kind, 0) + 1
    return found


def test_everything_that_belongs_in_a_class_graph_is_there(pictures) -> None:
    view = view_of(pictures, n_layers=4)
    page = graph_page(view)
    drawn = view.drawn_edges()
    assert 0 < len(drawn) < len(view.edges)
    found = kinds(page)
    assert found["thumbnail"] == found["label"] == 13 * 6
    assert found["frequency"] == found["log ratio"] == found["heat map"] == len(drawn)
    texts = [text for _, text, _ in page.boxes()]
    for node in (node for layer in view.layers[1:] for node in layer):
        assert f"{node.layer} · word {node.word}" in texts
        assert f"mostly {node.dominant_class} ({node.dominant_share:.0%})".replace("%", " %") in texts
    for edge in drawn:
        assert f"{edge.log_ratio:.2f}" in texts
    assert "Inference graph of class cat" in texts
    assert "from the 10 validation images predicted cat" in " ".join(texts)


def test_numbers_stand_left_and_right_of_their_own_heat_map(pictures) -> None:
    boxes = graph_page(view_of(pictures)).boxes()
    left = [box for kind, _, box in boxes if kind == "frequency"]
    heat = [box for kind, _, box in boxes if kind == "heat map"]
    right = [box for kind, _, box in boxes if kind == "log ratio"]
    for a, b, c in zip(left, heat, right, strict=True):
        assert 0 < b.x0 - a.x1 < 14
        assert 0 < c.x0 - b.x1 < 14
        assert b.y0 < (a.y0 + a.y1) / 2 < b.y1


def cubic(points: list[tuple[float, float]], steps: int = 200) -> np.ndarray:
    t = np.linspace(0, 1, steps)[:, None]
    a, b, c, d = (np.array(point) for point in points)
    return (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d


@pytest.mark.parametrize("graph", ["class:3", "image:5"])
@pytest.mark.parametrize("top", [2, 3, 5])
def test_no_arrow_passes_through_a_card_or_another_chip(pictures, graph: str, top: int) -> None:
    plan = place_graph(view_of(pictures, graph, n_layers=5, top=top, log_ratios=(2.0, 0.5)))
    assert len(plan.edges) == top + 4 * top * top
    for place in plan.edges:
        stem, bend, first, second, foot, tip = place.vertices
        straight = np.linspace(stem, bend, 50)
        line = np.concatenate([straight, cubic([bend, first, second, foot]), np.linspace(foot, tip, 20)])
        barriers = [other.chip for other in plan.edges if other is not place] + [n.card for n in plan.nodes.values()]
        for box in barriers:
            within = (line[:, 0] > box.x) & (line[:, 0] < box.right) & (line[:, 1] > box.y) & (line[:, 1] < box.bottom)
            assert not within.any()
        lower, upper = plan.nodes[place.edge.lower].card, plan.nodes[place.edge.upper].card
        assert lower.x < place.x < lower.right or place.chip.x > lower.x - 4
        assert upper.x < place.end_x < upper.right
        assert upper.bottom < place.end < place.bend < place.start == lower.y


@pytest.mark.parametrize("seed", range(6))
def test_stems_and_heads_keep_the_order_of_the_words_they_join(pictures, seed: int) -> None:
    plan = place_graph(view_of(pictures, top=4, log_ratios=(0.2, 1.0), seed=seed))
    for one, two in combinations(plan.edges, 2):
        upper = [plan.nodes[place.edge.upper].card.x for place in (one, two)]
        lower = [plan.nodes[place.edge.lower].card.x for place in (one, two)]
        if one.edge.lower == two.edge.lower:
            assert (one.x < two.x) == (upper[0] < upper[1])
        if one.edge.upper == two.edge.upper:
            assert (one.end_x < two.end_x) == (lower[0] < lower[1])


def test_rectangles_on_the_highest_layers_patches_below(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    save_pictures(folder, [np.full((32, 32, 3), 60 + image, dtype=np.uint8) for image in range(40)])
    view = view_of(PictureFolder(folder), n_layers=3, log_ratios=(-3.0, 0.1))  # no arrows: red is rectangles only
    for rectangle_layers in (0, 1, 2, 3):
        style = GraphStyle(rectangle_layers)
        plan, page = place_graph(view, style), np.asarray(Image.open(io.BytesIO(graph_page(view, style).png())))
        for depth, layer in enumerate(view.layers):
            cards = [plan.nodes[node.key].card for node in layer]
            top, bottom = (round(y * DPI / 72) for y in (cards[0].y, cards[0].bottom))
            has_red = (page[top:bottom] == np.array(RED)).all(axis=2).any()
            assert has_red == (0 < depth <= rectangle_layers)


def test_small_pictures_are_never_blurred(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], dtype=np.uint8)
    folder = tmp_path / "p"
    save_pictures(folder, [colours[rng.integers(0, 4, (32, 32))] for _ in range(40)])
    view = view_of(PictureFolder(folder), n_layers=1)
    plan = place_graph(view)
    page = np.asarray(Image.open(io.BytesIO(graph_page(view).png())))
    for box in plan.nodes[view.root.key].thumbnails:
        x0, y0, side = (round(v * DPI / 72) for v in (box.x, box.y, box.width))
        shown = page[y0 : y0 + side, x0 : x0 + side].reshape(-1, 3)
        assert {tuple(c) for c in np.unique(shown, axis=0)} == {tuple(c) for c in colours}


def test_thumbnails_stand_upright_in_the_order_of_rank(pictures) -> None:
    view = view_of(pictures, n_layers=1)
    plan = place_graph(view)
    page = np.asarray(Image.open(io.BytesIO(graph_page(view).png())))
    for node in (node for layer in view.layers for node in layer):
        for exemplar, box in zip(node.exemplars, plan.nodes[node.key].thumbnails, strict=True):
            x, y, side = (round(value * DPI / 72) for value in (box.x, box.y, box.width))
            expected = thumbnail(exemplar, side, "whole" if node.layer == "output" else "rectangle")
            np.testing.assert_array_equal(page[y : y + side, x : x + side], expected)


def test_repeated_exemplars_are_marked_and_explained(pictures) -> None:
    page = graph_page(view_of(pictures, distinct=4, n_layers=2))
    marks = [text for kind, text, _ in page.boxes() if kind == "label" and text.startswith("↻ ")]
    assert len(marks) == 7 * 2
    legend = " ".join(text for kind, text, _ in page.boxes() if kind == "legend")
    assert "↻, faded: an image shown again, for want of more." in legend
    assert "↻" not in " ".join(text for _, text, _ in graph_page(view_of(pictures, n_layers=2)).boxes())


def test_the_legend_says_only_what_the_figure_shows(pictures) -> None:
    def legend(view: GraphView, style: GraphStyle | None = None) -> str:
        return " ".join(text for kind, text, _ in graph_page(view, style).boxes() if kind == "legend")

    whole = legend(view_of(pictures))
    assert "from a lower word to the upper word it speaks for" in whole
    assert "relative frequency in the class's images; right: log ratio in bits" in whole
    assert "Red rectangle" in whole
    assert "Lower layers: the receptive field itself" in whole
    assert "Red dots" not in whole
    assert "Red dots" in legend(view_of(pictures, "image:5"))
    assert "Red rectangle" not in legend(view_of(pictures), GraphStyle(0))
    assert "Lower layers" not in legend(view_of(pictures, n_layers=2))
    assert "Small map" not in legend(view_of(pictures, heat=False))
    assert "Under a picture: its true label" in whole
    without = tuple(
        tuple(replace(node, exemplars=unlabelled(node)) for node in layer) for layer in view_of(pictures).layers
    )
    said = legend(replace(view_of(pictures), layers=without))
    assert "true label" not in said
    assert "the class most often predicted for images of its columns" in said


def unlabelled(node: NodeView) -> tuple[ExemplarView, ...]:
    return tuple(replace(exemplar, label="") for exemplar in node.exemplars)


def test_an_image_graph_names_truth_prediction_and_positions(pictures) -> None:
    view = view_of(pictures, "image:5")
    texts = [text for _, text, _ in graph_page(view).boxes()]
    assert "Inference graph of image 5, predicted cat" in texts
    assert "predicted cat (87 %), true label dog" in texts
    assert sum("of positions" in text for text in texts) == 12
    assert kinds(graph_page(view))["image"] == 13


def test_files_are_written_reproducibly_with_escaped_text(tmp_path: Path, pictures) -> None:
    names = tuple('<b>&"evil" $x_1$' if name == "cat" else name for name in CIFAR_NAMES)
    view = view_of(pictures, names=names, n_layers=2)
    draw_class_graph(view, tmp_path / "a.png", tmp_path / "a.svg")
    draw_class_graph(view, tmp_path / "b.png", tmp_path / "b.svg")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    svg = (tmp_path / "a.svg").read_bytes()
    assert svg == (tmp_path / "b.svg").read_bytes()
    assert b"dc:date" not in svg
    drawn = ElementTree.fromstring(svg)
    texts = ["".join(node.itertext()).strip() for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert 'Inference graph of class <b>&"evil" $x_1$' in texts
    assert b"<b>" not in svg
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}image"))) == kinds(graph_page(view))["thumbnail"] + len(
        view.drawn_edges()
    )
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "RGB"
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)


def test_the_svg_holds_the_pictures_of_the_png_where_it_does(pictures) -> None:
    page = graph_page(view_of(pictures, n_layers=2))
    png = np.asarray(Image.open(io.BytesIO(page.png())))
    images = list(ElementTree.fromstring(page.svg()).iter("{http://www.w3.org/2000/svg}image"))
    assert len(images) > 42
    for image in images:
        scale_x, skew, askew, scale_y, x, y = map(float, image.attrib["transform"][len("matrix(") : -1].split())
        assert (skew, askew, scale_x, scale_y) == pytest.approx((0, 0, 72 / DPI, -72 / DPI))
        encoded = image.attrib["{http://www.w3.org/1999/xlink}href"].partition(",")[2]
        upright = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))[::-1]
        left, bottom = round(x * DPI / 72), round(y * DPI / 72)
        height, width = upright.shape[:2]
        np.testing.assert_array_equal(png[bottom - height : bottom, left : left + width], upright)


def test_each_kind_of_graph_has_its_own_call(tmp_path: Path, pictures) -> None:
    with pytest.raises(ValueError, match="image:5 is an image graph: draw it with draw_image_graph"):
        draw_class_graph(view_of(pictures, "image:5"), tmp_path / "a.png", tmp_path / "a.svg")
    with pytest.raises(ValueError, match="class:3 is no image graph: draw it with draw_class_graph"):
        draw_image_graph(view_of(pictures), tmp_path / "a.png", tmp_path / "a.svg")
    draw_image_graph(view_of(pictures, "image:5", n_layers=1), tmp_path / "a.png", tmp_path / "a.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_a_class_without_words_is_still_drawn(pictures) -> None:
    view = view_of(pictures)
    alone = replace(view, layers=view.layers[:1], edges=())
    assert overlaps(graph_page(alone)) == []
    assert overlaps(graph_page(view_of(None, n_layers=2))) == []


def test_threads_draw_the_same_files(pictures) -> None:
    views = [view_of(pictures, n_layers=1, top=2, seed=seed) for seed in range(4)]
    expected = [(page.png(), page.svg()) for page in map(graph_page, views)]
    drawn: dict[int, tuple[bytes, bytes]] = {}

    def draw(index: int) -> None:
        page = graph_page(views[index])
        drawn[index] = page.png(), page.svg()

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[index] for index in range(4)] == expected


def test_the_report_loads_neither_pyplot_nor_torch_nor_ray() -> None:
    modules = "graph_figure, fit_figure, terminal, view_tables"
    code = (
        f"import sys\nfrom workflows.report import {modules}\n"
        "print(sorted({'matplotlib.pyplot', 'torch', 'ray', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["cifar", "animals"])
def test_real_pictures(shared_data: Path, tmp_path: Path, kind: str) -> None:
    if kind == "cifar":
        rows = pq.read_table(shared_data / "cifar10" / "train-00000-of-00008.parquet").slice(0, 60)
        decoded = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows.to_pylist()]
        labels, names, side = rows["label"].to_pylist(), CIFAR_NAMES, 32
    else:
        files = sorted((shared_data / "imagenet_animals" / "n02129604").glob("*.jpg"))[:12]
        decoded = [Image.open(file).convert("RGB").resize((224, 224)) for file in files]
        labels, names, side = [3] * len(files), IMAGENET_NAMES, 224
    save_pictures(tmp_path / "pictures", [np.asarray(picture) for picture in decoded])
    view = view_of(PictureFolder(tmp_path / "pictures"), side=side, labels=labels, names=names)
    draw_class_graph(view, tmp_path / "graph.png", tmp_path / "graph.svg")
    assert overlaps(graph_page(view)) == []
    with Image.open(tmp_path / "graph.png") as picture:
        assert (abs(picture.width - A4[0]) <= 1, picture.height <= A4[1]) == (True, True)
        assert len(np.unique(np.asarray(picture).astype(np.uint32) @ [1, 256, 65536])) > 5000
    ElementTree.parse(tmp_path / "graph.svg")


def test_what_other_images_might_not_show_is_dashed_and_said(pictures: PictureFolder) -> None:
    unsure, sure = view_of(pictures, unsure=True), view_of(pictures)
    page = graph_page(unsure)
    arrows = [one for one in page.figure.get_children() if one.get_label() == "arrow" and _is_dashed(one)]
    assert len(arrows) == sum(edge.is_unsure for edge in unsure.drawn_edges()) > 0
    framed = [one for one in page.figure.get_children() if one.get_label() == "card" and one.get_edgecolor()[3] > 0]
    assert len(framed) == sum(node.is_unstable for layer in unsure.layers for node in layer) == 4
    said = " ".join(text for kind, text, _ in page.boxes() if kind == "legend")
    assert "Dashed arrow: the 95 % interval of its log ratio reaches 0." in said
    assert "White card in a dashed frame: fewer than half of 200 resamplings" in said
    assert overlaps(page) == []
    without = " ".join(text for kind, text, _ in graph_page(sure).boxes() if kind == "legend")
    assert "ashed" not in without


def _is_dashed(arrow: Any) -> bool:
    return arrow.get_linestyle() not in ("-", "solid")

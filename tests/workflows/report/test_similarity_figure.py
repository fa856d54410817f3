"""Matrices of all layers: the right words in the right order, named where there is room, nothing on top of another."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from tests.workflows.report.made_up_graphs import CIFAR_NAMES
from tests.workflows.report.test_fit_figure import svg_texts
from tests.workflows.report.test_graph_figure import outside, overlaps
from workflows.report.page import Page
from workflows.report.palette import class_colour, rgb
from workflows.report.similarity_figure import (
    ClassBlock,
    LayerSimilarity,
    class_blocks,
    draw_similarity_figure,
    named_blocks,
    similarity_page,
)

MANY_NAMES = tuple(f"three-toed sloth {label}, ai, Bradypus tridactylus" for label in range(1000))


def layer(words: int, n_classes: int, title: str = "add1", unused: int = 0, seed: int = 0) -> LayerSimilarity:
    """Words in clusters of their class."""
    rng = np.random.default_rng(seed)
    dominant = rng.integers(0, n_classes, words)
    centres = rng.normal(size=(n_classes, 6))[dominant] + 0.5 * rng.normal(size=(words, 6))
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    dominant[rng.choice(words, unused, replace=False)] = -1
    return LayerSimilarity(title, distances, dominant, rng.uniform(0.1, 1, words), 0.417, 0.632)


def page_of(layers: list[LayerSimilarity], names: tuple[str, ...] = CIFAR_NAMES) -> Page:
    return similarity_page(layers, names, network="made_up", scope="joint")


def texts(page: Page, kind: str) -> list[str]:
    return [text for found, text, _ in page.boxes() if found == kind]


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize(("words", "names"), [(1, CIFAR_NAMES), (40, CIFAR_NAMES), (300, MANY_NAMES)])
def test_nothing_overlaps_and_nothing_leaves_the_page(n_layers: int, words: int, names: tuple[str, ...]) -> None:
    layers = [layer(words, len(names), f"relu{number}", seed=number) for number in range(n_layers)]
    page = page_of(layers, names)
    assert overlaps(page) == []
    assert outside(page) == []
    assert page.width_pixels == 1653
    if n_layers <= 6:
        assert page.height_pixels <= 2339


def test_1500_words_of_1000_classes_name_the_largest_blocks() -> None:
    deep = layer(1500, 1000, "features.denseblock3.denselayer24.concatenation.add", unused=100)
    page = page_of([deep, layer(450, 1000)], MANY_NAMES)
    assert overlaps(page) == []
    assert outside(page) == []
    assert len(texts(page, "class")) == 40
    counts = np.bincount(deep.dominant[deep.dominant >= 0], minlength=1000)
    blocks = class_blocks(deep.dominant[deep.order])
    named = named_blocks(blocks, 20)
    assert min(counts[block.label] for block in named) >= sorted(counts)[-20]
    assert [block.label for block in named] == sorted(block.label for block in named)


def test_words_stand_by_class_then_share_unused_are_left_out() -> None:
    dominant, share = np.array([2, 0, -1, 2, 0, 1]), np.array([0.4, 0.3, 0.0, 0.9, 0.3, 0.2])
    view = LayerSimilarity("a", np.zeros((6, 6)), dominant, share, 0.42, None)
    assert view.order.tolist() == [1, 4, 5, 3, 0]
    assert class_blocks(dominant[view.order]) == [ClassBlock(0, 0, 2), ClassBlock(1, 2, 3), ClassBlock(2, 3, 5)]
    assert texts(page_of([view]), "title") == [
        "a · 5 of 6 words used",
        "dominant share 42 % · within / between –",
    ]


def test_the_title_holds_the_numbers() -> None:
    page = page_of([layer(40, 10, "relu3")])
    assert texts(page, "title") == ["relu3 · 40 words", "dominant share 42 % · within / between 0.63"]
    assert set(texts(page, "class")) <= set(CIFAR_NAMES)
    assert texts(page, "heading")[1] == "made_up · scope joint"


def test_cells_have_colours_of_distances_strips_of_classes() -> None:
    view = layer(12, 4)
    page = page_of([view])
    picture = np.asarray(Image.open(io.BytesIO(page.png())))[::-1]  # boxes count from the bottom
    matrix = next(box for kind, _, box in page.boxes() if kind == "matrix")
    side, cell = matrix.width, matrix.width / 12
    assert side % 12 == 0
    order = view.order
    pairs = view.distances[np.triu_indices(12, 1)]
    low = np.percentile(pairs, 2)
    high = 2 * np.median(pairs) - low
    for row in range(12):
        for column in range(12):
            level = (view.distances[order[row], order[column]] - low) / (high - low)
            wanted = np.rint(np.array(colormaps["viridis"](np.clip(level, 0, 1))[:3]) * 255)
            y, x = int(matrix.y1 - (row + 0.5) * cell), int(matrix.x0 + (column + 0.5) * cell)
            np.testing.assert_allclose(picture[y, x], wanted, atol=1)
    left, top = (box for kind, _, box in page.boxes() if kind == "classes")
    for place, word in enumerate(order):
        wanted = rgb(class_colour(int(view.dominant[word]), 10))
        y, x = int(left.y1 - (place + 0.5) * cell), int(top.x0 + (place + 0.5) * cell)
        assert tuple(picture[y, int(left.x0) + 2]) == tuple(picture[int(top.y0) + 2, x]) == wanted


def test_both_files_are_reproducible_and_the_svg_keeps_its_text(tmp_path: Path) -> None:
    layers = [layer(20, 10, "<relu1>"), layer(20, 10, "relu2", seed=1)]
    for name in ("a", "b"):
        paths = tmp_path / f"{name}.png", tmp_path / f"{name}.svg"
        draw_similarity_figure(layers, CIFAR_NAMES, *paths, network="n", scope="joint")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "<relu1> · 20 words" in svg_texts(tmp_path / "a.svg")


def test_centres_in_one_place_are_drawn_too() -> None:
    view = LayerSimilarity("a", np.zeros((3, 3)), np.array([0, 0, 1]), np.ones(3), 1.0, None)
    assert overlaps(page_of([view])) == []

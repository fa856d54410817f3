from __future__ import annotations

import io
import re

import pytest
from rich.console import Console, RenderableType

from tests.workflows.report.made_up_graphs import CIFAR_NAMES, made_up_tables
from workflows.report.graph_view import GraphView
from workflows.report.numbers import frequency, log_ratio, percent
from workflows.report.terminal import graph_table
from workflows.report.view_tables import build_graph_view

LABELS = [i % 10 for i in range(40)]


def printed(renderable: RenderableType, width: int, colour: bool = False) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=colour, color_system="truecolor" if colour else None).print(
        renderable
    )
    return stream.getvalue().splitlines()


def view_of(graph: str = "class:3", names: tuple[str, ...] = CIFAR_NAMES, **options: object) -> GraphView:
    tables = made_up_tables(LABELS, 32, graph=graph, class_names=names, **options)
    return build_graph_view(tables, graph, scope="joint", network="n", class_names=names)


@pytest.mark.parametrize("width", [80, 100])
def test_a_class_graph_fits_and_shows_words_and_edges_whole(width: int) -> None:
    view = view_of()
    lines = printed(graph_table(view), width)
    assert max(len(line) for line in lines) <= width
    assert lines[0] == "Inference graph of class cat, from the 10 validation images predicted cat"
    assert not any("…" in line for line in lines)
    body = [line.split() for line in lines]
    for node in (node for layer in view.layers[1:] for node in layer):
        parts = [node.dominant_class, *percent(node.dominant_share).split(), *percent(node.share).split()]
        assert any(str(node.word) in line and all(part in line for part in parts) for line in body)
    for edge in view.drawn_edges():
        numbers = [frequency(edge.relative_frequency), log_ratio(edge.log_ratio)]
        assert any(line[-2:] == numbers for line in body)
    rows = [line for line in body if line[-1:] and line[-1].replace(".", "").isdigit()]
    assert len([line for line in rows if "." in line[-1]]) == len(view.drawn_edges())


def test_long_names_give_way_and_numbers_do_not() -> None:
    names = tuple(f"three-toed sloth number {i} of a long row, ai, Bradypus" for i in range(10))
    lines = printed(graph_table(view_of(names=names)), 80)
    assert max(len(line) for line in lines) <= 80
    header = next(line for line in lines if "log ratio" in line)
    assert header.split() == ["layer", "word", "mostly", "positions", "speaks", "for", "freq.", "log", "ratio"]
    assert any("…" in line for line in lines)


def test_names_are_never_read_as_markup() -> None:
    names = tuple("[red]cat[/red]" if name == "cat" else name for name in CIFAR_NAMES)
    assert "[red]cat[/red]" in printed(graph_table(view_of(names=names)), 100)[0]


def test_green_edges_are_green() -> None:
    view = view_of(n_layers=2)
    lines = printed(graph_table(view), 80, colour=True)
    for edge in view.drawn_edges():
        text = log_ratio(edge.log_ratio)
        green = re.compile(rf"\x1b\[32m *{re.escape(text)}\x1b")
        assert any(green.search(line) for line in lines) == (edge.drawn == "strong")


def test_an_image_graph_names_truth_and_prediction() -> None:
    assert printed(graph_table(view_of("image:5")), 80)[0] == (
        "Inference graph of image 5: predicted cat (87 %), true label dog"
    )


def test_what_other_images_might_not_show_is_marked() -> None:
    view = view_of(unsure=True)
    lines = printed(graph_table(view), 80)
    assert max(len(line) for line in lines) <= 80
    unsure = [edge for edge in view.drawn_edges() if edge.log_ratio <= 0.8]
    assert 0 < len(unsure) < len(view.drawn_edges())
    assert sum(line.rstrip().endswith("?") for line in lines) == len(unsure)
    for layer in view.layers[1:]:
        assert [node.is_unstable for node in layer] == [False, False, True]
        assert any(f" {layer[-1].word}? " in line for line in lines)
    assert lines[-2:] == [
        "word ?: fewer than half of 200 resamplings of the images choose it",
        "log ratio ?: its 95 % interval reaches 0",
    ]
    assert not any("?" in line for line in printed(graph_table(view_of()), 80))

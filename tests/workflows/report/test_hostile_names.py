"""Names of classes, layers, parts, scopes and runs come from users: every figure and table shows them as they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from tests.workflows.report.made_up_graphs import RESNET_LAYERS, made_up_tables
from tests.workflows.report.made_up_paths import made_up_junction, made_up_path, made_up_path_junctions
from tests.workflows.report.made_up_sweeps import made_up_sweep
from tests.workflows.report.test_fit_figure import history, svg_texts
from tests.workflows.report.test_parts_report import TITLES, made_up_parts
from tests.workflows.report.test_similarity_figure import layer
from tests.workflows.report.test_transition_figure import drawn_paths
from tests.workflows.report.test_transition_figure import view_of as transition_view
from workflows.report.fit_figure import draw_fit_figure
from workflows.report.graph_figure import draw_class_graph
from workflows.report.graph_view import GraphView
from workflows.report.junction_figure import draw_junction_figure
from workflows.report.parts_report import draw_parts_figure, parts_table
from workflows.report.path_figure import draw_path_figure
from workflows.report.path_table import path_table
from workflows.report.similarity_figure import draw_similarity_figure
from workflows.report.sweep_figure import draw_sweep_figure
from workflows.report.sweep_verdicts import sweep_table, sweep_verdicts, verdict_lines
from workflows.report.terminal import graph_table
from workflows.report.transition_figure import draw_transition_graph
from workflows.report.view_tables import build_graph_view

FORMULA = r"_$\x$<&"
"""For matplotlib a label to hide and a formula that it cannot read, for XML a tag and an entity."""

MARKUP = ("[b] :cat:", "[/b]")
"""For rich a style and an emoji, and the end of a style that never began."""

ERRORS = {"generative": (9, 8, 7), "discriminative": (8, 7, 6)}


def graph_view(name: str) -> GraphView:
    names = (name,) * 10
    tables = made_up_tables([i % 10 for i in range(40)], 32, class_names=names)
    titles = dict.fromkeys(RESNET_LAYERS, name)
    return build_graph_view(tables, "class:3", scope="joint", network=name, class_names=names, layer_titles=titles)


def draw_parts(name: str, png: Path, svg: Path) -> None:
    titles = dict.fromkeys(TITLES, name)
    draw_parts_figure(
        made_up_parts(parts=("object", name)), png, svg, network=name, class_names=(name,) * 2, layer_titles=titles
    )


def draw_path(name: str, png: Path, svg: Path) -> None:
    names = (name,) * 10
    path = made_up_path(names=names)
    draw_path_figure(path, made_up_path_junctions(path, [1], [30, 20], names=names), png, svg)


def draw_similarity(name: str, png: Path, svg: Path) -> None:
    draw_similarity_figure([layer(40, 10, name)], (name,) * 10, png, svg, network=name, scope=name)


def draw_transitions(name: str, png: Path, svg: Path) -> None:
    draw_transition_graph(transition_view(drawn_paths(50, 2, 5), names=(name,) * 10), png, svg)


FIGURES: dict[str, Callable[[str, Path, Path], None]] = {
    "fit": lambda name, png, svg: draw_fit_figure(history(), png, svg, layer_titles=dict.fromkeys("abc", name)),
    "graph": lambda name, png, svg: draw_class_graph(graph_view(name), png, svg),
    "junction": lambda name, png, svg: draw_junction_figure(
        made_up_junction([30, 20], names=(name,) * 10, errors=4), name, png, svg
    ),
    "parts": draw_parts,
    "path": draw_path,
    "similarity": draw_similarity,
    "sweep": lambda name, png, svg: draw_sweep_figure(made_up_sweep({name: ERRORS}), png, svg, network=name),
    "transitions": draw_transitions,
}

TABLES: dict[str, Callable[[str], list[RenderableType]]] = {
    "graph": lambda name: [graph_table(graph_view(name))],
    "parts": lambda name: [
        parts_table(made_up_parts(parts=("object", name), scopes=("joint", name)), (name,) * 2, {"layer1": name})
    ],
    "path": lambda name: [path_table(made_up_path(names=(name,) * 10))],
    "sweep": lambda name: [sweep_table(made_up_sweep({name: ERRORS}))],
    "verdicts": lambda name: [*verdict_lines(sweep_verdicts(made_up_sweep({name: ERRORS})))],
}


def printed(shown: list[RenderableType]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(*shown, sep="\n")
    return stream.getvalue()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_shows_names_as_they_are(figure: str, tmp_path: Path) -> None:
    shown = []
    for name, file in (("plain", "plain"), (FORMULA, "formula")):
        png, svg = tmp_path / f"{file}.png", tmp_path / f"{file}.svg"
        FIGURES[figure](name, png, svg)
        assert png.stat().st_size > 5000
        shown.append([text.count(name) for text in svg_texts(svg)])
    assert np.sum(shown[0]) > 0
    assert shown[1] == shown[0], "wherever another name stands, and as often"


@pytest.mark.parametrize("name", MARKUP)
@pytest.mark.parametrize("table", TABLES)
def test_a_table_shows_names_as_they_are(table: str, name: str) -> None:
    plain, hostile = printed(TABLES[table]("plain")), printed(TABLES[table](name))
    assert hostile.count(name) == plain.count("plain") > 0

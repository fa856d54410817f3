from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.workflows.report.made_up_graphs import (
    CIFAR_NAMES,
    generated_pictures,
    made_up_tables,
    made_up_word_maps,
    save_pictures,
)
from workflows.errors import RunFolderError
from workflows.report.graph_view import EdgeView, GraphView, NodeView
from workflows.report.pictures import PictureFolder, picture_path
from workflows.report.view_tables import GraphTables, build_graph_view

LABELS = [i % 10 for i in range(40)]


def view_of(tables: GraphTables, graph: str = "class:3", **options: object) -> GraphView:
    return build_graph_view(tables, graph, scope="joint", network="n", class_names=CIFAR_NAMES, **options)


def test_a_class_graph_is_ordered_from_the_output_down() -> None:
    tables = made_up_tables(LABELS, 32, n_layers=3)
    view = view_of(tables)
    assert [layer[0].layer for layer in view.layers] == ["output", "layer2.2.add", "layer2.0.add", "layer1.1.add"]
    assert [node.rank for node in view.layers[2]] == [0, 1, 2]
    assert view.class_name == "cat"
    assert view.omega == 10
    assert len(view.edges) == tables.edges.num_rows == 3 + 9 + 9
    assert {edge.drawn for edge in view.drawn_edges()} <= {"weak", "strong"}
    row = tables.nodes.to_pylist()[2]
    node = next(node for node in view.layers[1] if node.word == row["word"])
    assert node.dominant_class == CIFAR_NAMES[row["dominant_class"]]
    assert node.share == row["share"]
    assert [len(node.exemplars) for layer in view.layers for node in layer] == [6] * 10


def test_other_graphs_scopes_and_criteria_are_left_out() -> None:
    one, other = made_up_tables(LABELS, 32), made_up_tables(LABELS, 32, graph="class:7", seed=9)
    both = GraphTables(
        *(
            pa.concat_tables([getattr(one, name), getattr(other, name)])
            for name in ("nodes", "edges", "exemplars", "heatmaps")
        ),
        images=one.images,
    )
    foreign = both.nodes.set_column(1, both.nodes.schema.field("scope"), pa.array(["list-a"] * both.nodes.num_rows))
    effect = both.nodes.set_column(2, both.nodes.schema.field("criterion"), pa.array(["effect"] * both.nodes.num_rows))
    view = view_of(replace(both, nodes=pa.concat_tables([both.nodes, foreign, effect])))
    assert [node.key for layer in view.layers for node in layer] == [
        node.key for layer in view_of(one).layers for node in layer
    ]


def test_an_edge_carries_its_heat_map_as_a_rate() -> None:
    tables = made_up_tables(LABELS, 32, n_layers=2)
    row = tables.heatmaps.to_pylist()[-1]
    key = (row["upper_layer"], row["upper_word"]), (row["lower_layer"], row["lower_word"])
    edge = next(edge for edge in view_of(tables).edges if (edge.upper, edge.lower) == key)
    assert edge.heat.shape == (11, 11)
    assert edge.heat[5, 5] == row["counts"][5 * 11 + 5] / row["inside"][5 * 11 + 5]
    assert np.isnan(edge.heat[0, :2]).all()
    assert np.isfinite(edge.heat[1:]).all()
    assert all(edge.heat is None for edge in view_of(replace(tables, heatmaps=None)).edges)


def test_fewer_than_six_images_are_repeated_and_marked() -> None:
    view = view_of(made_up_tables(LABELS, 32, distinct=4))
    for node in view.layers[1]:
        assert [item.repeated for item in node.exemplars] == [False] * 4 + [True] * 2
        assert [item.image for item in node.exemplars[4:]] == [item.image for item in node.exemplars[:2]]
    assert len(view_of(made_up_tables(LABELS, 32), exemplars=2).root.exemplars) == 2


def test_an_image_graph_has_dots_and_the_image(tmp_path: Path) -> None:
    save_pictures(tmp_path, generated_pictures(40, 32))
    tables = made_up_tables(LABELS, 32, graph="image:5", n_layers=2)
    maps = made_up_word_maps(tables, 32)
    view = view_of(tables, "image:5", pictures=PictureFolder(tmp_path), word_maps=maps)
    assert view.image is not None
    assert (view.image.image, view.image.true_name, view.image.predicted_name) == (5, "dog", "cat")
    np.testing.assert_array_equal(view.image.picture, generated_pictures(40, 32)[5])
    node = view.layers[1][0]
    word_map = maps[node.layer]
    assert len(node.dots) == (word_map.words == node.word).sum() > 0
    assert {tuple(dot) for dot in node.dots} == {
        (word_map.column_centres[x], word_map.row_centres[y])
        for y in range(len(word_map.words))
        for x in range(len(word_map.words))
        if word_map.words[y, x] == node.word
    }
    assert view.omega is None


def test_code_edges_draw_what_enters_the_class() -> None:
    tables = made_up_tables(LABELS, 32, log_ratios=(-1.0, 0.1))
    assert view_of(tables).drawn_edges() == ()
    drawn = view_of(tables, code_edges=True).drawn_edges()
    assert [edge.upper[0] for edge in drawn] == ["output"] * 3
    assert {edge.drawn for edge in drawn} == {"weak"}


def test_unknown_values_of_a_word_are_kept_as_unknown() -> None:
    tables = made_up_tables(LABELS, 32, n_layers=1)
    index = tables.nodes.schema.get_field_index("dominant_class")
    empty = tables.nodes.set_column(
        index, tables.nodes.schema.field(index), pa.nulls(tables.nodes.num_rows, pa.int32())
    )
    assert view_of(replace(tables, nodes=empty)).layers[1][0].dominant_class == ""


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ("class:8", "graph 'class:8' of scope 'joint' is not in the nodes table; it holds class:3"),
        ("image:1", "class:3"),
    ],
)
def test_an_unknown_graph_is_refused_with_what_there_is(graph: str, words: str) -> None:
    with pytest.raises(RunFolderError, match=words):
        view_of(made_up_tables(LABELS, 32), graph)


def test_an_image_that_the_images_table_lacks_is_refused() -> None:
    tables = made_up_tables(LABELS, 32, graph="image:5")
    with pytest.raises(RunFolderError, match="image 5 of graph 'image:5' is not in the images table"):
        view_of(replace(tables, images=tables.images.slice(0, 3)), "image:5")


def test_nodes_that_no_edge_reaches_keep_their_place() -> None:
    """Algorithm 1 keeps the best Z whatever their score: words absent from Omega stand there without edges."""
    tables = made_up_tables(LABELS, 32, n_layers=3)
    view = view_of(replace(tables, edges=tables.edges.slice(0, 0)))
    assert [layer[0].layer for layer in view.layers] == [layer[0].layer for layer in view_of(tables).layers]
    assert not view.edges


def test_a_missing_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path)
    with pytest.raises(RunFolderError, match=r"12\.png' is missing: run the draw stage again"):
        folder.read(12)
    picture_path(tmp_path, 13).write_bytes(b"no picture")
    with pytest.raises(RunFolderError, match=r"13\.png' is broken .*delete it"):
        folder.read(13)


def test_the_picture_folder_keeps_only_the_latest(tmp_path: Path) -> None:
    pictures = generated_pictures(4, 8)
    save_pictures(tmp_path, pictures)
    folder = PictureFolder(tmp_path, kept=2)
    for image in (0, 1, 2, 0):
        np.testing.assert_array_equal(folder.read(image), pictures[image])
    picture_path(tmp_path, 0).unlink()
    np.testing.assert_array_equal(folder.read(0), pictures[0])
    assert not folder.read(0).flags.writeable
    folder.read(1)
    folder.read(2)
    with pytest.raises(RunFolderError):
        folder.read(0)


def _node(layer: str, word: int) -> NodeView:
    return NodeView(layer, word, 0, 1.0, 1, 0.1, "cat", 0.5)


@pytest.mark.parametrize(
    ("layers", "edge", "words"),
    [
        (((_node("output", 1), _node("output", 2)),), None, "top layer must be one node"),
        (((_node("output", 1),), (_node("a", 1), _node("a", 1))), None, "occurs twice"),
        (((_node("output", 1),), (_node("a", 1),)), (("a", 1), ("output", 1)), "no neighbouring layers"),
        (((_node("output", 1),), (_node("a", 1),)), (("output", 1), ("a", 2)), "no neighbouring layers"),
    ],
)
def test_a_view_that_is_no_layered_graph_is_refused(layers, edge, words: str) -> None:
    edges = () if edge is None else (EdgeView(*edge, 1, 0.1, 1.0, 1.0, "weak"),)
    with pytest.raises(ValueError, match=words):
        GraphView("class:1", "joint", "n", "cat", layers, edges)

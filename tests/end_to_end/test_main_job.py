"""The main job on real digits, against what the slow twins make of the stored word maps."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.end_to_end.small_digits import SCOPE, TABLES, TRAINING_IMAGE, activations, command, stored_maps, word_maps
from tests.references import cooccurrence as slow_counts
from tests.references import exemplars as slow_exemplars
from tests.references import inference_graph as slow_graph
from tests.references import mixture as slow_mixture
from workflows.data.packaged import load_digits
from workflows.networks.architectures import digits_resnet
from workflows.plan.run_plan import OUTPUT, LayerPair, Plan
from workflows.storage.graphs import graph_names, load_graph
from workflows.storage.mixtures import load_mixture
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import SCHEMAS, read_table

TOP = 3
Group = int


@dataclass(frozen=True)
class Recount:
    """Everything the graphs rest on, counted again by double loops over the stored word maps.

    Attributes:
        maps: layer -> (N, H, W) hard words of all images; the output's word is the predicted class.
        by_class: pair -> predicted class -> dense counts over S_V.
        total: pair -> dense counts over S_V.
    """

    root: Path
    plan: Plan
    predicted: np.ndarray
    maps: dict[str, torch.Tensor]
    by_class: dict[str, dict[Group, np.ndarray]]
    total: dict[str, np.ndarray]

    def of_images(self, pair: LayerPair, images: list[int]) -> list[list[int]]:
        upper, lower = self.maps[pair.upper][images], self.maps[pair.lower][images]
        return slow_counts.pair_counts(upper, lower, pair.window, pair.upper_words, pair.lower_words).tolist()

    def omega(self, graph: str) -> list[int]:
        kind, _, number = graph.partition(":")
        if kind == "image":
            return [int(number)]
        validation = range(self.plan.train_images, self.plan.images)
        return [image for image in validation if self.predicted[image] == int(number)]

    def counts(self, graph: str, pair: LayerPair) -> list[list[int]]:
        kind, _, number = graph.partition(":")
        if kind == "class":
            return self.by_class[pair.name][int(number)].tolist()
        return self.of_images(pair, [int(number)])


@pytest.fixture(scope="module")
def recount(digits_run: Path) -> Recount:
    plan = Plan.read(RunFolder.open(digits_run))
    images = read_table(digits_run / "images.parquet")
    predicted = images["predicted"].to_numpy().astype(np.int64)
    maps = {layer: torch.from_numpy(words) for layer, words in word_maps(digits_run).items()}
    maps[OUTPUT] = torch.from_numpy(predicted)[:, None, None]
    by_class: dict[str, dict[int, np.ndarray]] = {}
    for pair in plan.pairs():
        groups = torch.from_numpy(predicted[plan.train_images :])
        upper, lower = maps[pair.upper][plan.train_images :], maps[pair.lower][plan.train_images :]
        shape = pair.upper_words, pair.lower_words
        dense: dict[int, np.ndarray] = defaultdict(lambda shape=shape: np.zeros(shape, np.int64))
        for group, s, t, count in slow_counts.group_rows(upper, lower, pair.window, groups):
            dense[group][s, t] = count
        by_class[pair.name] = dict(dense)
    total = {name: sum(dense.values()) for name, dense in by_class.items()}
    return Recount(digits_run, plan, predicted, maps, by_class, total)


def rows(root: Path, table: str, **wanted: Any) -> list[dict[str, Any]]:
    filters = [(key, "=", value) for key, value in wanted.items()]
    return read_table(root / f"{table}.parquet", filters=filters or None).to_pylist()


def test_every_table_has_its_documented_schema(digits_run: Path) -> None:
    for table in TABLES:
        schema = pq.read_schema(digits_run / f"{table}.parquet")
        assert schema.names == SCHEMAS[table].names
        for field in SCHEMAS[table]:
            assert schema.field(field.name).type == field.type, (table, field.name)
            assert schema.field(field.name).metadata == field.metadata, (table, field.name)
        assert read_table(digits_run / f"{table}.parquet").num_rows > 0
    for table in ("nodes", "edges"):
        assert pq.read_schema(digits_run / f"{table}.parquet").metadata[b"log_base"] == b"2"


def test_images_are_class_ordered_and_predicted_by_the_network(digits_run: Path, digits_weights: Path) -> None:
    plan, images = Plan.read(RunFolder.open(digits_run)), rows(digits_run, "images")
    assert [row["image"] for row in images] == list(range(625))
    assert [row["split"] for row in images] == ["train"] * 500 + ["validation"] * 125
    for first, stop in ((0, plan.train_images), (plan.train_images, plan.images)):
        labels = [row["label"] for row in images[first:stop]]
        assert labels == sorted(labels)
    logits = bare_logits(digits_weights, [row["path"] for row in images])
    assert [row["predicted"] for row in images] == logits.argmax(1).tolist()
    chance = torch.softmax(logits.double(), 1).amax(1).numpy()
    np.testing.assert_allclose([row["probability"] for row in images], chance, rtol=1e-4)


def bare_logits(weights: Path, paths: list[str]) -> torch.Tensor:
    """The network as trained: no taps, no fused norms, one batch."""
    network = digits_resnet().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    picked = load_digits().pixels[[int(path.partition("#")[2]) for path in paths]]
    with torch.inference_mode():
        return network((torch.from_numpy(picked).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)


def test_words_are_the_winners_of_the_stored_columns(digits_run: Path) -> None:
    folder, maps = RunFolder.open(digits_run), stored_maps(digits_run)
    for layer, columns in activations(digits_run).items():
        mixture = load_mixture(folder.mixture(SCOPE, layer))
        words = mixture.log_pi.tolist(), mixture.mean.tolist(), mixture.variance.tolist()
        checked = np.random.default_rng(0).choice(columns.shape[0] * columns.shape[1], 60, replace=False)
        for image, position in zip(*np.unravel_index(checked, columns.shape[:2]), strict=True):
            column = columns[image, position].astype(float).tolist()
            word, posterior, log_joint = (
                maps[layer, field][image].flat[position] for field in ("word", "posterior", "log_joint")
            )
            joints = slow_mixture.log_joints(column, *words)
            assert joints[word] == pytest.approx(max(joints), abs=1e-3)
            assert posterior == pytest.approx(slow_mixture.posterior(column, *words)[word], abs=1e-3)
            assert log_joint == pytest.approx(joints[word], abs=1e-2)


def test_cooccurrence_is_the_double_loop_over_the_stored_maps(recount: Recount) -> None:
    folder = RunFolder.open(recount.root)
    for pair in recount.plan.pairs():
        stored = read_pair_counts(folder.cooccurrence(SCOPE, pair.lower, pair.upper))
        total = stored.total(pair.upper_words, pair.lower_words).numpy()
        assert total.sum() > 0
        np.testing.assert_array_equal(total, recount.total[pair.name])
        sparse = zip(*(column.tolist() for column in stored.columns()), strict=True)
        expected = [
            (group, int(s), int(t), int(dense[s, t]))
            for group, dense in sorted(recount.by_class[pair.name].items())
            for s, t in np.argwhere(dense)
        ]
        assert list(sparse) == expected


def test_every_graph_is_algorithm_1_on_the_recounted_words(recount: Recount) -> None:
    names = graph_names(recount.root)
    wrong = [i for i in range(500, 625) if recount.predicted[i] != rows(recount.root, "images", image=i)[0]["label"]]
    assert sorted(names) == sorted(
        [f"class:{label}" for label in range(10)] + [f"image:{image}" for image in [TRAINING_IMAGE, *wrong]]
    )
    assert wrong, "the small network should misclassify some image, or this test misses the image graphs"
    for name in names:
        assert_is_algorithm_1(recount, name)


def assert_is_algorithm_1(recount: Recount, graph: str) -> None:
    nodes, edges = rows(recount.root, "nodes", graph=graph), rows(recount.root, "edges", graph=graph)
    root = int(graph.partition(":")[2]) if graph.startswith("class") else int(recount.predicted[int(graph[6:])])
    assert [(node["layer"], node["word"]) for node in nodes[:1]] == [(OUTPUT, root)]
    upper_words = [root]
    for pair in recount.plan.pairs():
        counts = recount.counts(graph, pair)
        ratios = slow_graph.probability_ratios(recount.total[pair.name].tolist())
        bits = {key: slow_graph.log_ratio(ratio) for key, ratio in ratios.items()}
        value, subset = slow_graph.best_subset(upper_words, counts, bits, TOP)
        chosen = [node for node in nodes if node["layer"] == pair.lower]
        assert {node["word"] for node in chosen} == set(subset), (graph, pair.name)
        assert sum(node["score"] for node in chosen) == pytest.approx(value, rel=1e-9)
        assert [node["rank"] for node in chosen] == list(range(len(chosen)))
        scores = [node["score"] for node in chosen]
        assert scores == sorted(scores, reverse=True)
        found = [edge for edge in edges if edge["lower_layer"] == pair.lower]
        assert_edges(found, upper_words, [node["word"] for node in chosen], counts, bits)
        upper_words = [node["word"] for node in chosen]
    assert_positions(recount, graph, nodes)


def assert_edges(
    found: list[dict[str, Any]],
    upper_words: list[int],
    lower_words: list[int],
    counts: list[list[int]],
    bits: dict[tuple[int, int], float],
) -> None:
    present = {(s, t) for s in upper_words for t in lower_words if counts[s][t] and (s, t) in bits}
    assert {(edge["upper_word"], edge["lower_word"]) for edge in found} == present
    for edge in found:
        s, t = edge["upper_word"], edge["lower_word"]
        assert edge["count"] == counts[s][t]
        assert edge["relative_frequency"] == pytest.approx(counts[s][t] / sum(counts[s]), rel=1e-12)
        assert edge["log_ratio"] == pytest.approx(bits[s, t], rel=1e-9, abs=1e-12)
        assert edge["score"] == pytest.approx(counts[s][t] * bits[s, t], rel=1e-9, abs=1e-9)
        drawn = "hidden" if bits[s, t] <= 0 else "weak" if bits[s, t] <= 1 else "strong"
        assert edge["drawn"] == drawn


def assert_positions(recount: Recount, graph: str, nodes: list[dict[str, Any]]) -> None:
    omega = recount.omega(graph)
    for node in nodes:
        columns = recount.maps[node["layer"]][omega]
        positions = int((columns == node["word"]).sum())
        assert (node["positions"], node["share"]) == (positions, positions / columns.numel())


def test_heat_maps_count_the_offsets_of_every_edge(recount: Recount) -> None:
    image = next(name for name in graph_names(recount.root) if name.startswith("image"))
    for graph in ("class:3", image):
        omega = recount.omega(graph)
        found = rows(recount.root, "heatmaps", graph=graph)
        assert len(found) == len(rows(recount.root, "edges", graph=graph))
        for pair in recount.plan.pairs():
            of_pair = [row for row in found if row["lower_layer"] == pair.lower]
            words = torch.tensor([[row["upper_word"], row["lower_word"]] for row in of_pair])
            counts, inside = slow_counts.offset_histogram(
                recount.maps[pair.upper][omega], recount.maps[pair.lower][omega], pair.window, words
            )
            for row, edge_counts, edge_inside in zip(of_pair, counts, inside, strict=True):
                assert (row["height"], row["width"]) == tuple(edge_counts.shape)
                assert row["counts"] == edge_counts.flatten().tolist()
                assert row["inside"] == edge_inside.flatten().tolist()
                assert (row["row_offset"], row["column_offset"]) == (
                    pair.window.rows.offset,
                    pair.window.columns.offset,
                )


def test_words_tell_what_the_training_word_maps_hold(recount: Recount) -> None:
    folder, train = RunFolder.open(recount.root), recount.plan.train_images
    labels = np.array([row["label"] for row in rows(recount.root, "images")])[:train]
    for layer in recount.plan.layers:
        found = rows(recount.root, "words", layer=layer.name)
        assert [row["word"] for row in found] == list(range(layer.words))
        pi = load_mixture(folder.mixture(SCOPE, layer.name)).log_pi.exp().tolist()
        assert [row["pi"] for row in found] == pytest.approx(pi)
        maps = recount.maps[layer.name][:train].numpy()
        for row in found:
            members = (maps == row["word"]).reshape(train, -1).sum(1)
            by_label = [int(members[labels == label].sum()) for label in range(10)]
            assert (row["columns"], row["images"]) == (members.sum(), (members > 0).sum())
            if row["columns"]:
                assert row["dominant_class"] == by_label.index(max(by_label))
                assert row["dominant_share"] == pytest.approx(max(by_label) / sum(by_label))
    assert sum(row["columns"] for row in rows(recount.root, "words", layer=OUTPUT)) == train


def test_exemplars_are_the_most_typical_training_columns(recount: Recount) -> None:
    maps, train, side = stored_maps(recount.root), recount.plan.train_images, recount.plan.input_height
    for layer in recount.plan.layers:
        fields = (maps[layer.name, field][:train].tolist() for field in ("word", "posterior", "log_joint"))
        expected = slow_exemplars.exemplars(*fields, list(range(train)), 6)
        for word in range(layer.words):
            found = rows(recount.root, "exemplars", layer=layer.name, word=word)
            assert [row["rank"] for row in found] == list(range(len(found)))
            keys = ("image", "y", "x", "posterior", "log_joint")
            assert [tuple(row[key] for key in keys) for row in found] == expected.get(word, [])
            for row in found:
                y0, x0, y1, x1 = layer.pixels.bounds(row["y"], row["x"], side, side)
                assert (row["y0"], row["x0"], row["y1"], row["x1"]) == (y0, x0, y1, x1)
                assert row["label"] == rows(recount.root, "images", image=row["image"])[0]["label"]


def test_the_output_shows_the_surest_training_images_a_class(recount: Recount) -> None:
    images = rows(recount.root, "images", split="train")
    for label in range(10):
        members = [row for row in images if row["predicted"] == label]
        surest = sorted(members, key=lambda row: (-row["probability"], row["image"]))[:6]
        found = rows(recount.root, "exemplars", layer=OUTPUT, word=label)
        assert [row["image"] for row in found] == [row["image"] for row in surest]


def test_history_follows_every_fit_to_its_end(digits_run: Path) -> None:
    for layer in Plan.read(RunFolder.open(digits_run)).layers:
        history = rows(digits_run, "history", layer=layer.name)
        assert [row["step"] for row in history] == list(range(1, len(history) + 1))
        assert all(math.isfinite(row["held_out_log_likelihood"]) for row in history)
        # The fit learns: the held-out columns are better explained at the end than by the first words.
        assert history[-1]["held_out_log_likelihood"] > history[0]["held_out_log_likelihood"] + 1
        epochs = [row["epoch"] for row in history if row["held_out_full"] is not None]
        assert epochs == list(range(history[-1]["epoch"] + 1)), "all held-out columns are judged at the end of each"


def test_users_load_any_graph_with_networkx(recount: Recount) -> None:
    for name in graph_names(recount.root):
        graph = load_graph(recount.root, name)
        assert isinstance(graph, nx.DiGraph)
        assert graph.number_of_nodes() == len(rows(recount.root, "nodes", graph=name))
        assert graph.number_of_edges() == len(rows(recount.root, "edges", graph=name))
        root = next(node for node in graph if node[0] == OUTPUT)
        assert graph.graph["layers"].split(",") == [OUTPUT, "layer3.0.add", "layer2.0.add", "layer1.0.add"]
        assert graph.in_degree(root) == 0
        assert nx.is_directed_acyclic_graph(graph)
        for upper, lower, edge in graph.edges(data=True):
            row = rows(
                recount.root, "edges", graph=name, upper_layer=upper[0], upper_word=upper[1],
                lower_layer=lower[0], lower_word=lower[1],
            )  # fmt: skip
            assert [edge["count"]] == [one["count"] for one in row]


def test_every_graph_has_a_png_and_an_svg(digits_run: Path) -> None:
    names = [name.replace(":", "-") for name in graph_names(digits_run)]
    figures = {path.name for path in (digits_run / "figures").iterdir()}
    names += ["similarity", "fit"]
    assert figures == {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
    for name in names:
        with Image.open(digits_run / "figures" / f"{name}.png") as picture:
            picture.load()
            pixels = np.asarray(picture.convert("L"))
        assert min(pixels.shape) > 300
        assert pixels.std() > 5, f"{name} is blank"
        drawing = ElementTree.parse(digits_run / "figures" / f"{name}.svg").getroot()  # raises where not well-formed
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(drawing.iter())) > 50


def test_status_and_show_read_the_run(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["status", str(digits_run)]) == 0
    told = capsys.readouterr().out
    for stage in ("index", "extract", "fit", "words", "count", "mine", "draw"):
        assert any(stage in line and "done" in line for line in told.splitlines()), stage
    assert command(["show", str(digits_run), "--class", "3"]) == 0
    told = capsys.readouterr().out
    assert str(digits_run / "figures" / "class-3.png") in told
    for node in rows(digits_run, "nodes", graph="class:3"):
        assert str(node["word"]) in told
    assert command(["show", str(digits_run), "--image", str(TRAINING_IMAGE)]) == 0
    assert str(digits_run / "figures" / f"image-{TRAINING_IMAGE}.png") in capsys.readouterr().out


def test_the_same_command_again_does_nothing(
    digits_run: Path, digits_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.end_to_end.small_digits import run_arguments

    before = {
        path: path.stat().st_mtime_ns for path in digits_run.rglob("*") if path.is_file() and path.name != ".lock"
    }
    assert command(run_arguments(digits_run, digits_weights, "runtime.actors=2")) == 0
    assert "done" not in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in digits_run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before

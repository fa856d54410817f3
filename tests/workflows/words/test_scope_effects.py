"""Graphs by effect in a whole run: effects against differences, sums against loops, both criteria, resuming."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from gmm_ops.trust.word_choices import judging_half
from tests.conftest import BuildOnce
from tests.end_to_end.killing import ledger
from tests.end_to_end.small_digits import SCOPE, TRAINING_IMAGE, command, copy_until, run_arguments
from tests.references import effects as twin
from tests.workflows.networks.sample_networks import PartlyTraceable, with_random_statistics
from tests.workflows.site.test_site import graphs
from workflows.data.network_inputs import NetworkInputs
from workflows.errors import DataError, NetworkError
from workflows.figures.site_build import build_site
from workflows.networks.loading import load_network
from workflows.networks.rewriting_choice import EVERY_CHANGE
from workflows.networks.taps import TappedNetwork
from workflows.networks.unit_layers import UnitNetwork
from workflows.plan.run_plan import OUTPUT
from workflows.plan.scope import Scope
from workflows.plan.scopes import read_scopes
from workflows.run import Run, open_run
from workflows.storage.effect_parts import CHANGES, read_effect_part
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.storage.tables import read_table
from workflows.words.effects_worker import EffectsWorker, WordMeans, refuse_without_effects
from workflows.words.scope_effects import ScopeEffects, effect_images
from workflows.words.word_maps import read_words

pytestmark = pytest.mark.usefixtures("local_ray")
TABLES = ("nodes", "edges", "heatmaps")
CLASSES = "mine.classes=['3','5']"
ENDS = ("upper_layer", "upper_word", "lower_layer", "lower_word")
IMAGES = "mine.images=['misclassified:2','{}']"
FIGURES = "draw.figures=['class:3']"


@pytest.fixture(scope="session")
def both_run(build_once: BuildOnce, digits_run: Path, digits_weights: Path) -> Path:
    """The run on digits with graphs by both criteria; for reading only."""

    def run(root: Path) -> None:
        copy_until(digits_run, root, "count")
        fields = ("mine.criterion=both", CLASSES, IMAGES.format(TRAINING_IMAGE), FIGURES)
        assert command(run_arguments(root, digits_weights, *fields)) == 0

    return build_once("both", run)


def effects_of(run: Run, change: str = "shift") -> ScopeEffects:
    settings = run.settings.model_copy(update={"mine": run.settings.mine.model_copy(update={"intervention": change})})
    (scope,) = read_scopes(run.folder)
    images = ImageColumns.read(run.folder, 0, run.plan.images)
    return ScopeEffects.of(run.folder, settings, run.plan, scope, images)


def rows_of(effects: ScopeEffects) -> list[dict[str, float]]:
    shards = sorted({int(image) // effects.per_shard for image in effects.images})
    parts = [read_effect_part(effects.folder.effect_part(SCOPE, shard)) for shard in shards]
    return [row for part in parts for row in pa.table(part).to_pylist()]


def test_effects_are_differences_of_the_logit(both_run: Path) -> None:
    run = open_run(both_run)
    plan, settings = run.plan, run.settings
    size = plan.input_height, plan.input_width
    shape = settings.preprocessing.channels, *size
    network = UnitNetwork.load(settings.network, plan.weights, shape, replace(plan.rewriting, fused=False))
    network.module.double()
    rows, image = rows_of(effects_of(run)), plan.train_images + 3
    ((_, pixels),) = NetworkInputs(settings, run.folder, size, torch.device("cpu"))([image], 1)
    label = int(ImageColumns.read(run.folder, image, image + 1).predicted[0])
    for layer in plan.layers:
        known = WordMeans.load(run.folder, SCOPE, layer.name, torch.device("cpu"))
        words = read_words(run.folder, SCOPE, layer.name, image, image + 1)[0].numpy()
        own = [row for row in rows if (row["layer"], row["image"]) == (layer.name, image)]
        assert [row["word"] for row in own] == np.unique(words).tolist()
        assert [row["columns"] for row in own] == np.unique(words, return_counts=True)[1].tolist()
        maps = maps_of(network, layer.name, pixels.double())
        centre = known.centre.double().numpy()[:, None, None]
        for row in own[:: max(1, len(own) // 4)]:
            mean = known.means[row["word"]].double().numpy()[:, None, None]
            gaps = {"shift": np.broadcast_to(mean - centre, maps.shape), "mean": maps - centre}
            for change in CHANGES:
                given = layer.name, pixels.double(), label, words == row["word"], gaps[change]
                assert row[change] == pytest.approx(twin.effect(network, *given), rel=2e-3, abs=2e-4)


def maps_of(network: UnitNetwork, layer: str, pixels: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(network.tapped([layer])(pixels)[1][0][0].numpy())


@pytest.mark.parametrize("change", CHANGES)
def test_sums_are_those_of_loops_and_halves_add_up(both_run: Path, change: str) -> None:
    run = open_run(both_run)
    effects, plan = effects_of(run, change), run.plan
    every, classes = np.arange(plan.images), len(plan.class_names)
    halves = np.where(effects.omegas < 0, -1, 2 * effects.omegas + judging_half(every, 0))
    group = {image: int(halves[image]) for image in effects.images.tolist()}
    expected = twin.sums(rows_of(effects), group, change)
    parts, whole = effects.sums(halves, 2 * classes), effects.by_class
    for place, layer in enumerate(plan.layers):
        found = parts[place].numpy()
        assert {key[1:] for key in expected if key[0] == layer.name} == set(
            zip(*np.nonzero(~np.isnan(found)), strict=True)
        )
        for (name, one, word), value in expected.items():
            if name == layer.name:
                assert found[one, word] == pytest.approx(value, rel=1e-9, abs=1e-9)
        pair = np.nan_to_num(found[0::2]) + np.nan_to_num(found[1::2])
        assert np.allclose(pair, np.nan_to_num(whole[place].numpy()), rtol=1e-12, atol=1e-12)


def test_both_criteria_are_in_one_run(both_run: Path, digits_run: Path) -> None:
    run = open_run(both_run)
    for table in TABLES:
        rows = run.table(table)
        assert set(rows["criterion"].to_pylist()) == {"likelihood", "effect"}
        ours = read_table(both_run / f"{table}.parquet", filters=[("criterion", "=", "likelihood")])
        graphs = set(ours["graph"].to_pylist())
        before = [row for row in read_table(digits_run / f"{table}.parquet").to_pylist() if row["graph"] in graphs]
        assert ours.to_pylist() == before, "graphs by likelihood are those of a run without effects"
    assert run.graphs() == run.graphs(criterion="likelihood")
    assert set(run.graphs(criterion="effect")) == set(run.graphs()) - {f"image:{TRAINING_IMAGE}"}
    effects = effects_of(run)
    for name in run.graphs(criterion="effect"):
        scores, graph = effects.scores(GraphId.parse(name)), run.graph(name, criterion="effect")
        assert scores is not None
        assert graph.graph["criterion"] == "effect"
        for layer, values in zip(reversed(run.plan.layers), scores, strict=True):
            best = torch.sort(values.nan_to_num(-torch.inf), descending=True, stable=True)
            nodes = sorted((known["rank"], word) for (of, word), known in graph.nodes(data=True) if of == layer.name)
            assert [word for _, word in nodes] == best.indices[: run.settings.mine.top].tolist()


def test_what_readers_tell(
    both_run: Path, digits_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = {path.name for path in (both_run / "figures").glob("*.png")}
    assert {"class-3.png", "effect-class-3.png"} <= figures
    assert {item for item in ledger(both_run, "draw").items if ":" in str(item)} == {"class:3", "effect:class:3"}
    assert command(["show", str(both_run), "--class", "3", "--criterion", "effect"]) == 0
    told = capsys.readouterr().out
    assert "Inference graph of class 3, by effect" in told
    assert "words by effect that are words by likelihood too: add3" in told
    assert command(["show", str(both_run), "--class", "3", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["criterion"] == "likelihood"
    assert {row["criterion"] for row in content["nodes"]} == {"likelihood"}
    assert [one["layer"] for one in content["criteria"]] == [layer for layer in reversed(open_run(both_run).layers())]
    path = tmp_path / "three.json"
    arguments = [
        "export",
        str(both_run),
        "--class",
        "3",
        "--criterion",
        "effect",
        "--format",
        "json",
        "--out",
        str(path),
    ]
    assert command(arguments) == 0
    assert json.loads(path.read_text())["graph"]["criterion"] == "effect"
    assert command(["report", str(both_run), "--criterion", "effect", "--out", str(tmp_path / "site")]) == 0
    graphs = len(open_run(both_run).graphs(criterion="effect"))
    assert f"{graphs} graphs" in capsys.readouterr().out
    assert "graphs by effect" in (tmp_path / "site" / "index.html").read_text()
    with pytest.raises(DataError, match="criterion: must be likelihood, by which the run has graphs, got 'effect'"):
        open_run(digits_run).graph("class:3", criterion="effect")


def test_trust_judges_graphs_of_both_criteria(
    both_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(both_run, tmp_path / "run"))
    monkeypatch.setattr("workflows.studies.trust.command.LEAST_PREDICTED", 5)
    asked = ["--class", "3", "--interventions", "shift", "--top", "3", "--draws", "1"]
    assert command(["trust", str(root), *asked]) == 0
    assert "graphs by effect" in capsys.readouterr().out
    run = open_run(root)
    rows = [row for row in run.table("effects").to_pylist() if row["class"] == 3 and row["half"] == "all"]
    for criterion in ("likelihood", "effect"):
        nodes = run.table("nodes", filters=[("graph", "=", "class:3"), ("criterion", "=", criterion)]).to_pylist()
        for layer in run.layers():
            own = [row for row in rows if (row["criterion"], row["layer"]) == (criterion, layer)]
            (graph,) = (row for row in own if row["selection"] == "graph")
            assert graph["words"] == [row["word"] for row in nodes if row["layer"] == layer]
            assert graph["excess"] is not None
            single = {tuple(row["words"]) for row in own if row["selection"] == "word"}
            assert single == {(word,) for word in graph["words"]}, "each by itself, beside random columns"
        edges = run.table("edges", filters=[("graph", "=", "class:3"), ("criterion", "=", criterion)]).to_pylist()
        tested = run.table("edge_effects", filters=[("criterion", "=", criterion)]).to_pylist()
        ends = [tuple(row[name] for name in ENDS) for row in tested if row["class"] == 3]
        assert sorted(ends) == sorted(
            tuple(row[name] for name in ENDS) for row in edges if row["upper_layer"] != OUTPUT
        )
        assert any(row["class"] is None for row in tested), "of all edges together too"
    assert (root / "figures" / "trust-class-3.png").stat().st_size > 20_000
    assert (root / "figures" / "trust-effect-class-3.png").stat().st_size > 20_000
    _site_says_what_trust_found(run, tmp_path / "site")


def _site_says_what_trust_found(run: Run, out: Path) -> None:
    for criterion in ("likelihood", "effect"):
        build_site(run, out, ["3"], criterion=criterion)
        (used,) = (one["used"] for one in graphs(out).values() if one["graph"] == "class:3")
        wanted = {"class": 3, "half": "judged", "criterion": criterion, "selection": "graph"}
        rows = [row for row in run.table("effects").to_pylist() if wanted.items() <= row.items()]
        assert [(layer, drop) for layer, drop, *_ in used["layers"]] == [
            (row["layer"], pytest.approx(row["drop"], rel=1e-3)) for row in rows
        ]
        assert (used["top"], used["intervention"], used["images"]) == (3, "shift", rows[0]["images"])
        assert {row[0] for row in used["words"]} == set(run.layers())
        assert [len(row) for row in used["complete"]] == [3] * len(run.layers())


def test_lost_effects_are_made_again_and_likelihood_needs_none(
    both_run: Path, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(both_run, tmp_path / "run"))
    lost = sorted((root / "effects" / SCOPE).iterdir())[1]
    before, kept = pq.read_table(lost), [path.stat().st_mtime_ns for path in sorted(lost.parent.iterdir())]
    lost.unlink()
    fields = (CLASSES, IMAGES.format(TRAINING_IMAGE), FIGURES)
    assert command(run_arguments(root, digits_weights, "mine.criterion=both", *fields)) == 0
    told = capsys.readouterr().out
    assert f"effects: effects/{SCOPE}/{lost.name} missing or damaged, 1 item is done again" in told
    assert f"has no effects on images {TRAINING_IMAGE}, of training: no graph by effect" in told
    assert pq.read_table(lost).equals(before)
    assert sum(path.stat().st_mtime_ns in kept for path in sorted(lost.parent.iterdir())) == len(kept) - 1
    assert command(run_arguments(root, digits_weights, *fields)) == 0
    assert set(read_table(root / "nodes.parquet")["criterion"].to_pylist()) == {"likelihood"}
    assert not (root / "figures" / "effect-class-3.png").exists()


def test_a_run_by_effect_alone_shows_its_graphs(both_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(both_run, tmp_path / "run"))
    fields = ("mine.criterion=effect", CLASSES, IMAGES.format(TRAINING_IMAGE), FIGURES)
    assert command(run_arguments(root, digits_weights, *fields)) == 0
    run = open_run(root)
    assert run.criterion() == "effect"
    assert run.graph("class:3").graph["criterion"] == "effect"
    drawn = {path.name for path in (root / "figures").glob("*class-*.png")}
    assert drawn == {"effect-class-3.png"}


def test_a_network_whose_weights_are_gone_is_refused(both_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(both_run)
    plan = replace(run.plan, weights=str(both_run / "gone.pt"))
    with pytest.raises(NetworkError, match=r"network.weights"):
        EffectsWorker(run.settings, plan, run.folder, read_scopes(run.folder))


def test_a_network_that_cannot_be_traced_is_refused_first(both_run: Path) -> None:
    run = open_run(both_run)
    with pytest.raises(NetworkError, match="must have operations that can be traced to ask its units"):
        refuse_without_effects(PartlyTraceable(), run.settings, run.plan)
    layers = (*run.plan.layers, replace(run.plan.layers[0], name="flatten"))
    network = load_network(run.settings.network.model_copy(update={"weights": run.plan.weights}))
    with pytest.raises(NetworkError, match=r"network\.layers: must be a layer of the network that gives a map"):
        refuse_without_effects(network, run.settings, replace(run.plan, layers=layers))
    refuse_without_effects(network, run.settings, run.plan)


def test_columns_are_those_that_words_were_learned_on() -> None:
    # A convolution in front of a normalisation, and a ReLU that overwrites it.
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5),
        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    network, names = with_random_statistics(network), ["0", "2", "4"]
    images = torch.rand(2, 3, 8, 8)
    units = UnitNetwork(network, (3, 8, 8), replace(EVERY_CHANGE, fused=False))
    _, found = units.tapped(names)(images)
    _, maps = TappedNetwork(network, names)(images)
    for one, layer in zip(found, maps.values(), strict=True):
        assert torch.allclose(one, layer, atol=1e-5)


def test_training_images_have_no_effects(both_run: Path) -> None:
    run = open_run(both_run)
    (scope,) = read_scopes(run.folder)
    images = ImageColumns.read(run.folder, 0, run.plan.images)
    kept = effect_images(scope, run.plan, images)
    assert kept.min() >= run.plan.train_images
    assert len(kept) == (images.predicted[run.plan.train_images :] >= 0).sum()
    assert effects_of(run).scores(GraphId("image", TRAINING_IMAGE)) is None


def test_a_scope_of_a_class_keeps_what_it_explains(both_run: Path) -> None:
    run = open_run(both_run)
    images = ImageColumns.read(run.folder, 0, run.plan.images)
    scope = Scope("class-3", (3, 5), rest=False, explains=(3,))
    validation = np.arange(run.plan.images) >= run.plan.train_images
    assert (
        effect_images(scope, run.plan, images).tolist() == np.flatnonzero(validation & (images.predicted == 3)).tolist()
    )
    effects = ScopeEffects.of(run.folder, run.settings, run.plan, scope, images)
    # Omega of the class are images of the scope; one of another class has a graph of its own alone.
    assert set(images.label[effects.omegas == 3].tolist()) <= {3, 5}

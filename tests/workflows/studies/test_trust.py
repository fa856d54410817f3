"""Trust of the small digits run, end to end; its tables against images changed one at a time, column by column."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from gmm_ops.graphs.windows import Window
from gmm_ops.trust.column_changes import as_many_others
from gmm_ops.trust.word_choices import draw_keys, judging_half
from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import command
from tests.references import trust as slow
from tests.workflows.studies.test_relevance import unit_network
from tests.workflows.studies.trusted_run import ARGUMENTS, DRAWS, ENOUGH, LEAST, trusting
from workflows.asking.image_parts import ImageShard
from workflows.asking.study import Asked
from workflows.data.network_inputs import NetworkInputs
from workflows.errors import RunError, SettingsError
from workflows.networks.interventions import Interventions, replaced
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.mixtures import load_mixture
from workflows.storage.schemas import SCHEMAS
from workflows.storage.tables import read_table, write_table
from workflows.studies.trust.answers import effect_table
from workflows.studies.trust.command import run_trust
from workflows.studies.trust.first_order import FirstOrderWorker
from workflows.studies.trust.request import LEAST_PREDICTED, TrustRequest, intervention_names, top_numbers
from workflows.studies.trust.subjects import ScopeSubjects
from workflows.studies.trust.word_rows import others_percentile
from workflows.words.mining import ScopeCounts
from workflows.words.word_maps import read_words

LABEL = 3


@pytest.fixture(scope="module")
def root(build_once: BuildOnce, digits_run: Path) -> Path:
    return build_once("digits-trusted", trusting(digits_run))


@dataclass
class ByHand:
    """The class's images, one at a time."""

    root: Path

    def __post_init__(self) -> None:
        self.run = open_run(self.root)
        self.plan, self.layers = self.run.plan, [layer.name for layer in self.run.plan.layers]
        known = ImageColumns.read(self.run.folder, 0, self.plan.images)
        omega = np.flatnonzero(known.predicted == LABEL)
        self.images, self.labels = omega[omega >= self.plan.train_images], known.label
        self.units = unit_network(self.root)
        self.network = Interventions(self.units)
        size = self.plan.input_height, self.plan.input_width
        self.inputs = NetworkInputs(self.run.settings, self.run.folder, size, torch.device("cpu"))

    def pixels(self, image: int) -> Tensor:
        ((_, pixels),) = self.inputs([int(image)], 1)
        return pixels

    def words(self, layer: int, image: int) -> Tensor:
        return read_words(self.run.folder, "joint", self.layers[layer], image, image + 1).long()

    def dictionary(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        mixture = load_mixture(self.run.folder.mixture("joint", self.layers[layer]))
        return mixture.mean.numpy(), (mixture.log_pi.exp() @ mixture.mean).numpy()

    def axes(self, layer: int) -> np.ndarray:
        mixture = load_mixture(self.run.folder.mixture("joint", self.layers[layer]))
        return slow.principal_axes(mixture.mean.numpy(), mixture.log_pi.exp().numpy(), 4)

    def changed(self, maps: Tensor, layer: int, image: int, where: Tensor, change: str) -> Tensor:
        words = torch.where(where, self.words(layer, image), -1)
        axes = self.axes(layer) if change in ("components", "axes") else None
        found = slow.changed(maps.numpy(), words.numpy(), *self.dictionary(layer), change, axes)
        return torch.from_numpy(found).float()

    def logits(self, layer: int, image: int, where: Tensor, change: str) -> tuple[Tensor, Tensor]:
        """Of the network, and with columns changed."""
        name, pixels = self.layers[layer], self.pixels(image)
        (pause,) = self.network.pauses(pixels, [(name,)])
        maps = pause.value(name)
        assert maps is not None
        return self.network(pixels)[0], pause.rest({name: replaced(self.changed(maps, layer, image, where, change))})[0]

    def drop(self, layer: int, image: int, where: Tensor, change: str) -> float:
        plain, after = self.logits(layer, image, where, change)
        return float(plain[LABEL] - after[LABEL])


@pytest.fixture(scope="module")
def by_hand(root: Path) -> ByHand:
    return ByHand(root)


def rows_of(root: Path, table: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = read_table(root / f"{table}.parquet").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.parametrize(("change", "layer"), [("shift", 2), ("mean", 1)])
def test_drops_are_those_of_images_changed_one_at_a_time(root: Path, by_hand: ByHand, change: str, layer: int) -> None:
    wanted = {"class": LABEL, "layer": by_hand.layers[layer], "intervention": change, "top": 2}
    (graph,) = rows_of(root, "effects", **wanted, selection="graph", half="all")
    (random,) = rows_of(root, "effects", **wanted, selection="random", half="all")
    own, others = [], []
    for image in by_hand.images.tolist():
        words = by_hand.words(layer, image)
        where = torch.isin(words, torch.tensor(graph["words"]))
        own.append(by_hand.drop(layer, image, where, change))
        for draw in range(DRAWS):
            keys = draw_keys(np.array([image]), words.numel(), draw, by_hand.run.settings.seed + layer)
            drawn = as_many_others(where, words >= 0, keys.view(words.shape).float())
            assert int(drawn.sum()) == min(int(where.sum()), int((~where).sum()))
            others.append(by_hand.drop(layer, image, drawn, change))
    assert graph["drop"] == pytest.approx(np.mean(own), abs=1e-3)
    assert random["drop"] == pytest.approx(np.mean(others), abs=1e-3)
    assert graph["excess"] == pytest.approx(np.mean(own) - np.mean(others), abs=1e-3)
    assert graph["excess_low"] <= graph["excess"] <= graph["excess_high"]
    assert random["behind"] == pytest.approx(graph["excess"])
    assert graph["images"] == len(by_hand.images)


def test_other_words_are_judged_on_images_that_did_not_choose(root: Path, by_hand: ByHand) -> None:
    effects = rows_of(root, "effects", **{"class": LABEL})
    assert read_table(root / "effects.parquet").schema.equals(SCHEMAS["effects"])
    judged = judging_half(by_hand.images, by_hand.run.settings.seed)
    assert 0 < judged.sum() < len(judged)
    assert {row["images"] for row in effects if row["half"] == "judged"} == {int(judged.sum())}
    assert {row["half"] for row in effects if row["selection"] == "effect"} == {"judged"}
    names = {"graph", "random", "frequent", "matched", "log_ratio", "lowest", "straight", "effect"}
    assert {row["selection"] for row in effects if row["top"] == 1} == names
    assert {row["selection"] for row in effects if row["top"] == 2} == {*names, "word"}
    top = by_hand.layers[-1]
    for wanted in ({"top": 1}, {"top": 2}):
        some = [row for row in effects if row["layer"] == top and row["top"] == wanted["top"]]
        words = {row["selection"]: row["words"] for row in some if row["selection"] in ("graph", "straight")}
        assert words["graph"] == words["straight"], "the highest layer lies right under the output"
    assert all(row["excess"] is not None for row in effects if row["selection"] in ("graph", "word"))
    assert all(row["behind"] is not None for row in effects if row["selection"] not in ("graph", "word"))


def test_graphs_are_those_of_the_run(root: Path, by_hand: ByHand) -> None:
    nodes = by_hand.run.table("nodes").to_pylist()
    top = by_hand.run.settings.mine.top
    counted = ScopeCounts.load(by_hand.run.folder, by_hand.run.settings, by_hand.plan, "joint")
    subject = ScopeSubjects(counted, by_hand.run.settings, (top,)).subject(
        LABEL, by_hand.images, np.ones(len(by_hand.images), bool)
    )
    for layer, name in enumerate(by_hand.layers):
        own = [row for row in nodes if (row["graph"], row["layer"]) == (f"class:{LABEL}", name)]
        assert subject.ranked["likelihood", top][layer].chosen == tuple(row["word"] for row in own)
        scores = subject.ranked["likelihood", top][layer].scores
        assert subject.score_share(layer, ("likelihood", top), ()) == 0.0, "a selection may be empty"
        assert [float(scores[row["word"]]) for row in own] == pytest.approx([row["score"] for row in own])
        maps = (by_hand.words(layer, image).flatten() for image in by_hand.images)
        counts = torch.stack([torch.bincount(one, minlength=len(scores)) for one in maps]).sum(dim=0)
        assert torch.equal(subject.counts[layer], counts)


def test_curves_begin_with_all_and_end_with_nothing(root: Path, by_hand: ByHand) -> None:
    curves = rows_of(root, "effect_curves", **{"class": LABEL, "layer": by_hand.layers[1], "ranking": "score"})
    deletion, insertion = ([row for row in curves if row["direction"] == one] for one in ("deletion", "insertion"))
    assert [row["kept"] for row in (deletion[0], deletion[-1])] == [1.0, pytest.approx(0.0, abs=1e-6)]
    assert [row["kept"] for row in (insertion[0], insertion[-1])] == [pytest.approx(0.0, abs=1e-6), 1.0]
    (graph,) = rows_of(
        root, "effects", **{"class": LABEL, "layer": by_hand.layers[1]}, intervention="shift", top=2, half="judged",
        selection="graph",
    )  # fmt: skip
    judged = by_hand.images[judging_half(by_hand.images, by_hand.run.settings.seed)]
    every = [by_hand.drop(1, image, by_hand.words(1, image) >= 0, "shift") for image in judged.tolist()]
    (second,) = [row for row in deletion if row["k"] == 2]
    assert second["kept"] == pytest.approx(1 - graph["drop"] / np.mean(every), abs=1e-3)
    points = [(row["k"], row["kept"]) for row in deletion]
    assert deletion[0]["area"] == pytest.approx(slow.area(*map(np.array, zip(*points, strict=True))), abs=1e-6)


def test_layers_are_replaced_whole(root: Path, by_hand: ByHand) -> None:
    layer = 1
    rows = rows_of(root, "completeness", **{"class": LABEL, "layer": by_hand.layers[layer]})
    for row in rows:
        same, right, gaps, wholes = [], [], [], []
        for image in by_hand.images.tolist():
            every = by_hand.words(layer, image) >= 0
            plain, after = by_hand.logits(layer, image, every, row["kind"])
            _, centre = by_hand.logits(layer, image, every, "mean")
            same.append(int(after.argmax()) == LABEL)
            right.append(int(after.argmax()) == int(by_hand.labels[image]))
            gaps.append(float(after[LABEL] - centre[LABEL]))
            wholes.append(float(plain[LABEL] - centre[LABEL]))
        assert row["same_decision"] == pytest.approx(np.mean(same))
        assert row["accuracy"] == pytest.approx(np.mean(right))
        assert row["recovered"] == pytest.approx(sum(gaps) / sum(wholes), abs=1e-3)
    overall = [row for row in rows_of(root, "completeness") if row["class"] is None]
    assert len(overall) == len(rows) * len(by_hand.layers)
    assert all(row["images"] > len(by_hand.images) for row in overall)


def test_all_classes_together_are_the_mean_over_their_images(root: Path, by_hand: ByHand) -> None:
    where = {"layer": by_hand.layers[1], "intervention": "mean", "top": 1, "half": "all", "selection": "graph"}
    *classes, overall = sorted(rows_of(root, "effects", **where), key=lambda row: row["class"] is None)
    images = [row["images"] for row in classes]
    assert (overall["class"], overall["images"], overall["words"]) == (None, sum(images), None)
    for name in ("drop", "excess"):
        assert overall[name] == pytest.approx(np.average([row[name] for row in classes], weights=images))
    edges = rows_of(root, "edge_effects", lower_layer=by_hand.layers[0])
    (all_edges,) = [row for row in edges if row["class"] is None]
    own = [row for row in edges if row["class"] is not None and row["positions"]]
    positions = [row["positions"] for row in own]
    assert (all_edges["upper_word"], all_edges["positions"]) == (None, sum(positions))
    assert all_edges["excess"] == pytest.approx(np.average([row["excess"] for row in own], weights=positions))


def test_edges_are_tested_inside_windows(root: Path, by_hand: ByHand) -> None:
    edges = rows_of(root, "edge_effects", **{"class": LABEL, "lower_layer": by_hand.layers[1]})
    edge = max(edges, key=lambda row: row["positions"] * (row["lost"] or 0))
    window = by_hand.plan.layers[2].window
    assert isinstance(window, Window)
    name, upper_name = by_hand.layers[1:3]
    mixture, positions, lost = load_mixture(by_hand.run.folder.mixture("joint", upper_name)), 0, 0
    for image in by_hand.images.tolist():
        words, upper = by_hand.words(1, image), by_hand.words(2, image) == edge["upper_word"]
        inside = torch.from_numpy(slow.windowed(upper.numpy(), window, *words.shape[1:]))
        (pause,) = by_hand.network.pauses(by_hand.pixels(image), [(name,)])
        maps = pause.value(name)
        assert maps is not None
        changed = by_hand.changed(maps, 1, image, inside & (words == edge["lower_word"]), "shift")
        found = mixture.assign(pause.upto(upper_name, {name: replaced(changed)})).word
        positions += int(upper.sum())
        if bool((inside & (words == edge["lower_word"])).any()):
            lost += int((found[upper] != edge["upper_word"]).sum())
    assert edge["positions"] == positions
    assert edge["lost"] == pytest.approx(lost / positions, abs=1.5 / positions)
    assert edge["excess"] == pytest.approx(edge["lost"] - edge["control"])


def test_words_have_effects_from_one_backward_pass(root: Path, by_hand: ByHand) -> None:
    layer = 2
    rows = rows_of(root, "word_effects", **{"class": LABEL, "layer": by_hand.layers[layer]})
    means, centre = by_hand.dictionary(layer)
    body = by_hand.units.tapped([by_hand.layers[layer]])
    effects = []
    for image in by_hand.images.tolist():
        pixels = by_hand.pixels(image).requires_grad_()
        logits, (tap,) = body(pixels)
        (gradient,) = torch.autograd.grad(logits[0, LABEL], tap)
        words, maps = by_hand.words(layer, image), tap.detach()
        changed = slow.changed(maps.numpy(), words.numpy(), means, centre, "mean")
        effects.append(slow.first_order(gradient.numpy(), maps.numpy(), changed, words.numpy(), len(means))[0])
    expected = np.mean(effects, axis=0)
    for row in rows:
        assert row["first_order_mean"] == pytest.approx(expected[row["word"]], abs=1e-4)
    assert sum(row["in_graph"] for row in rows) == 2
    (one, *_) = [row for row in rows if row["in_graph"]]
    (alone,) = rows_of(
        root, "effects", **{"class": LABEL, "layer": by_hand.layers[layer]}, intervention="shift", half="all",
        selection="word", words=[one["word"]],
    )  # fmt: skip
    assert alone["drop"] == pytest.approx(one["drop_shift"])
    others = [
        row for row in rows_of(root, "word_effects", layer=by_hand.layers[layer]) if row["drop_shift"] is not None
    ]
    rest = [row["drop_shift"] for row in others if (row["class"], row["word"]) != (LABEL, one["word"])]
    assert one["control_shift"] == pytest.approx(np.percentile(rest, 95))
    assert np.isnan(others_percentile(np.array([1.0]), 95)).all()


def test_shards_change_no_more_than_rounding(by_hand: ByHand) -> None:
    run, groups = by_hand.run, {int(image): place % 2 for place, image in enumerate(by_hand.images)}
    worker = FirstOrderWorker(run.settings, run.plan, run.folder, "joint", ("shift",), groups)
    images = tuple(int(image) for image in by_hand.images[:4])
    whole = worker(ImageShard(0, images)).by_group(2)
    parts = (worker(ImageShard(0, images[:1])) + worker(ImageShard(1, images[1:]))).by_group(2)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_same_again_is_told_and_not_computed(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LEAST, ENOUGH)
    before = {path: path.stat().st_mtime_ns for path in (root / "effects.parquet", root / "completeness.parquet")}
    assert command(["trust", str(root), "--class", "8", "--class", "3", *ARGUMENTS, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["classes"] == 2
    assert sorted(summary["probes"]) == ["3", "8"]
    tables = {"effects", "effect_curves", "edge_effects", "completeness", "word_effects", "shortcuts"}
    assert set(summary["tables"]) == tables
    assert "trust has answered this before" in captured.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (root / "figures" / f"trust-class-{LABEL}.png").stat().st_size > 20_000


def test_class_scopes_are_told_by_their_means(root: Path) -> None:
    rows = [row for row in rows_of(root, "effects") if row["class"] is not None]
    for row in rows:
        row["scope"] = f"class-{row['class']}"
    written = io.StringIO()
    Console(file=written, width=80).print(effect_table(rows, "likelihood"))
    assert "means over the classes of 2 scopes" in written.getvalue()
    first = next(row for row in rows if row["selection"] == "graph")
    wanted = {name: first[name] for name in ("layer", "intervention", "top", "selection")} | {"half": "judged"}
    drops = [row["drop"] for row in rows if wanted.items() <= row.items()]
    assert len(drops) == 2
    line = next(line for line in written.getvalue().splitlines() if line.startswith(first["layer"]))
    assert f"{np.mean(drops):.2f}" in line.split()


def ask(root: Path, **request: Any) -> dict[str, Any]:
    return run_trust(Asked(root, Console(file=io.StringIO(), width=120)), TrustRequest(**request))


def test_bad_requests_are_told_by_their_words() -> None:
    with pytest.raises(SettingsError, match="--interventions: must be shift or mean, or both with a comma, got 'zero'"):
        TrustRequest(interventions=intervention_names("shift,zero"))
    with pytest.raises(SettingsError, match="--draws: must be at least 1, got 0; 5 draws are the control"):
        TrustRequest(draws=0)
    with pytest.raises(SettingsError, match="--top: must be numbers of words a layer of at least 1, got 3, 0; take 3"):
        TrustRequest(tops=(3, 0))
    with pytest.raises(SettingsError, match="--top: must be numbers of words a layer, such as 3 or 1,2,3,5, got three"):
        top_numbers(["three"])
    with pytest.raises(SettingsError, match="--class: must name a class, or all; got none"):
        TrustRequest(classes=())
    assert top_numbers(["3,1", "3", "5"]) == (3, 1, 5)


def test_a_class_of_few_images_is_refused(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All classes of the small run have fewer than 20."""
    monkeypatch.setattr(LEAST, LEAST_PREDICTED)
    with pytest.raises(
        SettingsError, match=r"--class: must have at least 20 validation images predicted as it, got 3 \("
    ):
        ask(digits_run, classes=("3",))
    with pytest.raises(SettingsError, match="ask for another class, or validate on more images"):
        ask(digits_run)


def test_images_on_one_half_are_refused_before_any_pass(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LEAST, 1)
    asked = Asked(digits_run, Console(file=io.StringIO(), width=120), images=1)
    told = r"both halves of every class, one that chooses and one that judges, got (0 and 1|1 and 0) of class '3'"
    with pytest.raises(SettingsError, match=told):
        run_trust(asked, TrustRequest(classes=("3",)))


def test_graphs_that_were_mined_anew_make_it_stale(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LEAST, ENOUGH)
    copy = Path(shutil.copytree(root, tmp_path / "run"))
    edges = copy / "edges.parquet"
    write_table(edges, read_table(edges).to_pylist()[1:], "edges")
    with pytest.raises(RunError, match="edges"):
        ask(copy, classes=("3", "8"), tops=(2, 1), draws=DRAWS)


def test_a_run_without_its_weights_is_refused(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "run")
    weights, plan = open_run(copy).plan.weights, copy / "plan.json"
    plan.write_text(plan.read_text().replace(Path(weights).name, "gone.pt"))
    with pytest.raises(RunError, match=r"gone\.pt"):
        ask(copy, classes=("3",))

"""Ablation of the small digits run, end to end; its tallies against images classified one intervention at a time."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from gmm_ops.units.ablation import AblationTally
from tests.end_to_end.small_digits import command
from tests.workflows.studies.test_relevance import answer_by_hand, made_detectors, unit_network
from workflows.asking.study import Asked
from workflows.asking.unit_tables import why_old
from workflows.data.network_inputs import NetworkInputs
from workflows.errors import DataError, NetworkError, RunFolderError, SettingsError
from workflows.networks.loading import load_network
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.schemas import SCHEMAS
from workflows.storage.tables import read_table, to_table
from workflows.studies.ablate.ablations import AblateRequest, plan_ablations, share_numbers, word_of
from workflows.studies.ablate.command import run_ablate, tables_read
from workflows.studies.ablate.rows import ablation_rows, means_over_classes, unit_class_rows

pytestmark = pytest.mark.slow

LAYER = "layer2.0.conv1"
SPLIT = {"split": "train", "images": 5, "masked_images": 0}


def asked(root: Path, **how: Any) -> Asked:
    return Asked(root, Console(file=io.StringIO(), width=120), images=40, **how)


def made_relevance(root: Path, classes: tuple[int, ...] = (3, 8), **changes: Any) -> None:
    """A table of relevance by chance, as the study writes it."""
    random, rows = np.random.default_rng(0), []
    for label in classes:
        for layer in unit_network(root).convolutions():
            for unit in range(layer.units):
                value = float(random.random())
                rows.append(
                    {"class": label, "class_name": str(label), "layer": layer.name, "depth": layer.depth, "unit": unit,
                     "signed": value - 0.5, "absolute": value, "measure": "absolute", "share": value,
                     "specific": value if len(classes) > 1 else None, "activation": 1 - value, **SPLIT, **changes}
                )  # fmt: skip
    pq.write_table(to_table(rows, "relevance", network="digits"), root / "relevance.parquet")


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("ablate") / "run")
    made_relevance(root)
    arguments = ["--class", "3", "--class", "8", "--shares", "3,20", "--layers", "all", "--layers", LAYER]
    replace = ["--replace", "mean", "--replace", "zero", "--ranking", "relevance", "--ranking", "activation"]
    assert command(["ablate", str(root), *arguments, *replace, "--images", "40"]) == 0
    return root


def rows_of(root: Path, **wanted: Any) -> list[dict[str, Any]]:
    rows = read_table(root / "ablations.parquet").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def images_of(root: Path, split: str) -> tuple[list[int], np.ndarray, torch.Tensor]:
    """Those that the study looks at: ids, labels, and what the network sees."""
    from workflows.data.image_index import balanced_rows

    run = open_run(root)
    labels = ImageColumns.read(run.folder, 0, run.plan.images).label
    own = np.arange(run.plan.images)
    own = own[(own >= run.plan.train_images) == (split == "validation")]
    images = [int(image) for image in own[balanced_rows(labels[own], 40, run.settings.seed)]]
    size = run.plan.input_height, run.plan.input_width
    inputs = NetworkInputs(run.settings, run.folder, size, torch.device("cpu"))
    return images, labels[images], torch.cat([batch for _, batch in inputs(images, 40)])


@pytest.mark.parametrize("replaced_by", ["zero", "mean"])
def test_silenced_units_are_those_of_the_networks_own_code(root: Path, replaced_by: str) -> None:
    """The plain network with a hook on the normalisation whose outputs are the units."""
    run = open_run(root)
    network = load_network(run.settings.network.model_copy(update={"weights": run.plan.weights}))
    _, labels, batch = images_of(root, "validation")
    share = np.array(
        read_table(root / "relevance.parquet", filters=[("class", "=", 3), ("layer", "=", LAYER)])["share"]
    )
    units = torch.from_numpy(np.argsort(-share, kind="stable")[: round(0.2 * 32)])

    plain, values = network(batch).argmax(dim=1).numpy() == labels, torch.zeros(32)
    if replaced_by == "mean":
        seen: list[torch.Tensor] = []
        looks = network.layer2[0].bn1.register_forward_hook(lambda _module, _inputs, maps: seen.append(maps))
        network(images_of(root, "train")[2])
        looks.remove()
        values = seen[0].mean(dim=(0, 2, 3))

    def hook(_module: object, _inputs: object, maps: torch.Tensor) -> torch.Tensor:
        maps = maps.clone()
        maps[:, units] = values[units, None, None]
        return maps

    network.layer2[0].bn1.register_forward_hook(hook)
    under = network(batch).argmax(dim=1).numpy() == labels
    key = {"layers": LAYER, "ranking": "relevance", "selection": "top", "replaced_by": replaced_by, "share": 0.2}
    (row,) = rows_of(root, **key, **{"class": 3})
    own = labels == 3
    assert (row["own_images"], row["others_images"]) == (own.sum(), (~own).sum())
    assert row["own_before"] == pytest.approx(plain[own].mean())
    assert row["own_accuracy"] == pytest.approx(under[own].mean())
    assert row["others_accuracy"] == pytest.approx(under[~own].mean())
    assert row["others_fall"] == pytest.approx(plain[~own].mean() - under[~own].mean())
    assert row["own_accuracy_low"] <= row["own_accuracy"] <= row["own_accuracy_high"]
    assert (row["silenced"], row["units"]) == (6, 32)


def test_controls_stand_beside_every_selection(root: Path) -> None:
    assert read_table(root / "ablations.parquet").schema.equals(SCHEMAS["ablations"])
    rows = rows_of(root)
    # 2 groups of layers, 2 shares, 2 replacements: top and bottom of 2 rankings, 3 random draws; 2 classes
    assert len(rows) == 2 * 2 * 2 * 2 * (2 * 2 + 3)
    everywhere = rows_of(root, layers="all", share=0.03)
    assert {row["silenced"] for row in everywhere} == {1 + 1 + 1 + 1 + 2}, "inner convolutions of 16, 16, 32, 32, 64"
    tops = {row["others_accuracy"] for row in rows_of(root, ranking="relevance", selection="top")}
    assert len(tops) > 1
    random = [row for row in rows if row["ranking"] == "random"]
    assert {row["draw"] for row in random} == {0, 1, 2}
    assert {row["selection"] for row in random} == {"random"}
    for name in ("ablate.png", "ablate-layers.png"):
        assert (root / "figures" / name).stat().st_size > 5000


def test_units_of_several_classes_help_and_hurt(root: Path) -> None:
    rows = read_table(root / "unit_classes.parquet").to_pylist()
    relevance = read_table(root / "relevance.parquet").to_pydict()
    assert rows == [
        {**row, "network": "digits"}
        for row in sorted(
            unit_class_rows(relevance, [str(label) for label in range(10)]),
            key=lambda row: (row["depth"], row["unit"], row["class"]),
        )
    ]
    for row in rows:
        assert row["rank"] < max(1, round(0.1 * 64))
        assert row["effect"] == ("helps" if row["signed"] > 0 else "hurts")
        assert row["helped"] + row["hurt"] == row["classes"] <= 2
    assert {row["class"] for row in rows} == {3, 8}


def test_means_over_classes_have_students_interval() -> None:
    key = {"layers": "all", "ranking": "random", "selection": "random", "replaced_by": "mean", "share": 0.1}
    key |= {"silenced": 1, "units": 10}
    rows = [
        {**key, "class": label, **{f"{whose}_{what}": value + draw for whose in ("own", "others")
                                   for what in ("before", "accuracy", "fall")}}
        for label, value in enumerate((0.2, 0.3, 0.4, 0.5, 0.6))
        for draw in (0.0, 0.1)
    ]  # fmt: skip
    (found,) = means_over_classes(rows)
    assert found["own_accuracy"].mean == pytest.approx(0.45)
    assert found["own_accuracy"].high - 0.45 == pytest.approx(2.776445 * 0.1 * (2.5 / 5) ** 0.5, rel=1e-5)
    assert found["classes"] == 5
    few = [{**row, "own_accuracy_low": 0.1, "own_accuracy_high": 0.8} for row in rows if row["class"] < 2]
    (found,) = means_over_classes(few)
    assert (found["own_accuracy"].low, found["own_accuracy"].high) == pytest.approx((0.1, 0.8)), "of the images"


def made_words(root: Path, layer: str, units: int = 16) -> None:
    """Word 4 of a layer as dissect would have written it: units in their own order."""
    columns = {"scope": ["joint"] * units, "layer": [layer] * units, "word": [4] * units, "unit": list(range(units))}
    pq.write_table(pa.table({**columns, "z": [float(unit) for unit in range(units)]}), root / "word_units.parquet")


def test_words_rank_the_units_of_their_layer(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "run")
    folder, network = RunFolder.open(copy), unit_network(copy)
    request = AblateRequest(("3",), ("word:add1:4",), shares=(0.25,), replacements=("zero",))
    with pytest.raises(RunFolderError, match="--ranking word: must have the table word_units, got none; ask for it fi"):
        run_ablate(asked(copy), request)
    made_words(copy, "layer1.0.add")
    found = plan_ablations(folder, network, request, {3: "3"}, seed=0)
    assert {(one.layers, one.labels, one.silenced) for one in found} == {("layer1.0.add", None, 4)}
    units = {one.selection: one.silencing.units["layer1.0.add"].tolist() for one in found}
    assert (units["top"], units["bottom"]) == ([12, 13, 14, 15], [0, 1, 2, 3])
    with pytest.raises(DataError, match="--ranking: must be a word of the dictionary, got word 9 of layer"):
        run_ablate(asked(copy), AblateRequest(("3",), ("word:add1:9",)))
    made_words(copy, "layer2.0.bn1", units=32)
    for name in ("layer2.0.bn1", LAYER):  # a normalisation is folded into its convolution
        request = AblateRequest(("3",), (f"word:{name}:4",), shares=(0.25,), replacements=("zero",))
        found = plan_ablations(folder, network, request, {3: "3"}, seed=0)
        assert {(one.layers, one.silenced) for one in found} == {(LAYER, 8)}
    with pytest.raises(
        SettingsError, match=r"a word of a layer between .* the logits, got 'conv1', which is the first"
    ):
        plan_ablations(folder, network, AblateRequest(("3",), ("word:conv1:4",)), {3: "3"}, seed=0)
    with pytest.raises(SettingsError, match="got 'relu', which shows the units of 'conv1', and that is the first"):
        plan_ablations(folder, network, AblateRequest(("3",), ("word:relu:4",)), {3: "3"}, seed=0)


def test_detectors_rank_the_layers_that_dissect_knows(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "run")
    made_detectors(copy, [("layer2.0.relu", unit, "3", unit / 100) for unit in range(10)])
    request = AblateRequest(("3",), ("dissect", "dissect"), layers=("all", "each", LAYER), shares=(0.1,))
    folder, network = RunFolder.open(copy), unit_network(copy)
    found = plan_ablations(folder, network, request, {3: "3"}, seed=0)
    top = [one for one in found if one.selection == "top"]
    assert [one.layers for one in top] == ["scored", LAYER]
    assert [one.silencing.units[LAYER].tolist() for one in top] == [[7, 8, 9]] * 2
    other = [("layer3.0.bn1", unit, label, 0.3) for unit in range(9) for label in ("3", "8")]
    made_detectors(copy, [*other, ("layer2.0.relu", 9, "3", 0.2)])
    request = AblateRequest(("3", "8"), ("dissect",), layers=("all", "each"), shares=(0.1,))
    found = plan_ablations(folder, network, request, {3: "3", 8: "8"}, seed=0)
    rows = list(ablation_rows(found, AblationTally.zero(len(found), 10), [3, 8], [str(label) for label in range(10)]))
    keys = [(row["class"], row["layers"], row["selection"], row["draw"], row["silenced"]) for row in rows]
    assert len(set(keys)) == len(keys), "scored are two layers of class 3, and one of class 8"
    draws = 1 + 1 + 3  # top, bottom, random
    layers = {3: ("scored", LAYER, "layer3.0.conv1"), 8: ("scored", "layer3.0.conv1")}
    assert {(key[0], key[1]) for key in keys} == {(label, name) for label, some in layers.items() for name in some}
    assert len(keys) == draws * 5, "each has its controls, of its own layers"


def test_what_dissect_does_not_tell_is_named(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "run")
    request, folder, network = AblateRequest(("3",), ("dissect",)), RunFolder.open(copy), unit_network(copy)
    made_detectors(copy, [("conv1", 1, "3", 0.2)])
    with pytest.raises(
        SettingsError, match=r"--layers: must have a convolution between .* 'dissect' .*, got conv1; name"
    ):
        plan_ablations(folder, network, request, {3: "3"}, seed=0)
    made_detectors(copy, [("layer1.0.add", 1, "3", 0.2)])
    with pytest.raises(RunFolderError, match=r"in convolutions, got layer1.0.add, .*--layers layer\d.*,layer\d"):
        plan_ablations(folder, network, request, {3: "3"}, seed=0)
    with pytest.raises(
        RunFolderError, match=r"what dissect says of 'cat', got no concept of that name in .*parquet; gi"
    ):
        plan_ablations(folder, network, request, {3: "cat"}, seed=0)


def test_tables_of_before_are_refused(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "run")
    folder, network = RunFolder.open(copy), unit_network(copy)
    made_relevance(copy)
    made_detectors(copy, [(LAYER, 1, "3", 0.2)])
    made_words(copy, LAYER)
    rankings = {"relevance": "relevance", "dissect": "dissect", f"word:{LAYER}:4": "dissect"}
    for study in ("relevance", "dissect"):
        answer_by_hand(copy, study)
    for ranking in rankings:
        assert plan_ablations(folder, network, AblateRequest(("3",), (ranking,)), {3: "3"}, seed=0)
    with (copy / "plan.json").open("ab") as file:
        file.write(b" ")
    for ranking, study in rankings.items():
        words = f"an old one, for plan.json changed since {study} was asked; ask for it again: inference-graphs {study}"
        with pytest.raises(RunFolderError, match=words):
            plan_ablations(folder, network, AblateRequest(("3",), (ranking,)), {3: "3"}, seed=0)
    for study in ("relevance", "dissect"):
        answer_by_hand(copy, study, finished=False)
    for ranking, study in rankings.items():
        with pytest.raises(RunFolderError, match=rf"an old one, for {study} is unfinished \(1 of 2 shards are done\)"):
            plan_ablations(folder, network, AblateRequest(("3",), (ranking,)), {3: "3"}, seed=0)
    assert why_old(folder, "unions") == "dissect is unfinished (1 of 2 shards are done)"


def test_units_of_classes_come_with_their_table(digits_run: Path, tmp_path: Path) -> None:
    """Whatever units are ranked by, unit_classes is of the table of relevance: another one is a change."""
    copy = shutil.copytree(digits_run, tmp_path / "run")
    folder, request = RunFolder.open(copy), AblateRequest(("3",), ("word:add1:4", "dissect"))
    made_words(copy, "layer1.0.add")
    assert tables_read(folder, request) == ["word_units"]
    made_relevance(copy)
    assert tables_read(folder, request) == ["relevance", "word_units"]


def test_missing_tables_name_their_command(digits_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_run, tmp_path / "run")
    with pytest.raises(
        RunFolderError, match=r"must have the table of relevance, got none; .*inference-graphs relevance"
    ):
        run_ablate(asked(copy), AblateRequest(("3",)))
    with pytest.raises(
        RunFolderError, match=r"--ranking dissect: must have what dissect says of '3', got none; ask for it"
    ):
        run_ablate(asked(copy), AblateRequest(("3",), ("dissect",)))
    made_relevance(copy, (8,))
    with pytest.raises(RunFolderError, match=r"must have the relevance for class '3', got a table without it"):
        run_ablate(asked(copy), AblateRequest(("3",)))
    with pytest.raises(RunFolderError, match="--ranking specific: must have relevance for two classes at least"):
        run_ablate(asked(copy), AblateRequest(("8",), ("specific",)))
    made_relevance(copy, split="validation")
    with pytest.raises(RunFolderError, match=r"relevance: must be of training images \(S_T\).*, got validation; ask"):
        run_ablate(asked(copy), AblateRequest(("3",)))
    made_relevance(copy)
    made_words(copy, "layer1.0.add")
    with pytest.raises(NetworkError, match="--layers: must be a convolution, got 'add1', which is none"):
        run_ablate(asked(copy), AblateRequest(("3",), layers=("add1",)))
    with pytest.raises(SettingsError, match="--layers: must be an inner convolution, got 'conv1', which is the first"):
        run_ablate(asked(copy), AblateRequest(("3",), layers=("conv1",)))
    few = Asked(copy, Console(file=io.StringIO()), images=5)
    with pytest.raises(
        SettingsError, match=r"--images: must be at least 10, got 5: .* 10 classes, and 5 of those aske"
    ):
        run_ablate(few, AblateRequest(("all",), ("word:add1:4",)))
    told = " ".join(few.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "ranked by word:add1:4 on all images that dissect looked at, training and validation; validation" in told
    with pytest.raises(DataError, match="--class: there is no class 'cat'"):
        run_ablate(asked(copy), AblateRequest(("cat",)))
    assert not (copy / "ablate").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": ()}, "--class: must name a class, or all; got none"),
        ({"rankings": ("size",)}, "--ranking: must be relevance, specific, dissect, activation or word:<layer>:<word>"),
        ({"rankings": ("word:add3",)}, "such as word:add3:7, got 'word:add3'"),
        ({"replacements": ("one",)}, "--replace: must be mean or zero, got 'one'"),
        ({"shares": (1.2,)}, "--shares: must be percentages above 0, up to 100, got 120"),
        ({"shares": ()}, "--shares: must be percentages above 0, up to 100, got none"),
    ],
)
def test_bad_requests_are_refused_by_their_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        AblateRequest(**{"classes": ("3",), **arguments})


def test_percentages_and_words_are_read() -> None:
    assert share_numbers("10,1,3") == (0.01, 0.03, 0.1)
    with pytest.raises(SettingsError, match="--shares: must be percentages with commas, such as 1,2,3,10, got 'few'"):
        share_numbers("few")
    assert word_of("word:layer1.0.add:12") == ("layer1.0.add", 12)
    assert word_of("relevance") is None

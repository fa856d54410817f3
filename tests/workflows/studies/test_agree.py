"""Agreement of two fits of the small digits run, end to end; its tables against slow loops, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import command, copy_until, run_arguments, word_maps
from tests.references import agreement as slow
from workflows.asking.study import Asked
from workflows.errors import DataError, RunError, RunFolderError, SettingsError
from workflows.plan.run_plan import Plan
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.schemas import SCHEMAS
from workflows.storage.tables import read_table, write_table
from workflows.studies.agree.command import AgreeRequest, run_agree
from workflows.studies.agree.compared_runs import graph_words, run_names

pytestmark = pytest.mark.slow

TOP, CLASS = "layer3.0.add", 3
UNREAD = shutil.ignore_patterns("activations", "figures", "heatmaps.parquet", "pairs.parquet")


@pytest.fixture(scope="module")
def other(digits_run: Path, digits_weights: Path, build_once: BuildOnce, local_ray: object) -> Path:
    """The same images, columns and settings, fitted from another seed."""

    def build(root: Path) -> None:
        copy_until(digits_run, root, "extract")
        record = json.loads((root / "run.json").read_text())
        record["settings"]["seed"] = 1
        (root / "run.json").write_text(json.dumps(record))
        arguments = run_arguments(root, digits_weights, "seed=1", "runtime.actors=2", until="mine")
        assert command(arguments) == 0

    return build_once("digits-seed", build)


@pytest.fixture(scope="module")
def root(digits_run: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(
        digits_run, tmp_path_factory.mktemp("agree") / "zero", ignore=shutil.ignore_patterns("activations")
    )
    assert command(["agree", str(root), str(other), "--class", str(CLASS), "--class", "8"]) == 0
    return root


def asked(root: Path, **how: Any) -> Asked:
    return Asked(root, Console(file=io.StringIO(), width=120), **how)


def copy_of(run: Path, root: Path) -> Path:
    return Path(shutil.copytree(run, root, ignore=UNREAD))


def rows_of(root: Path, table: str, **key: Any) -> list[dict[str, Any]]:
    rows = read_table(root / f"{table}.parquet").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in key.items())]


def omega(root: Path) -> np.ndarray:
    """Validation images that the network, which both runs have, predicts as the class."""
    plan = Plan.read(RunFolder.open(root))
    predicted = ImageColumns.read(RunFolder.open(root), 0, plan.images).predicted
    return np.flatnonzero((predicted == CLASS) & (np.arange(plan.images) >= plan.train_images))


def test_graphs_agree_as_far_as_loops_say(root: Path, other: Path) -> None:
    images, graphs = omega(root), [graph_words(open_run(one), "joint")[CLASS] for one in (root, other)]
    maps = [word_maps(one) for one in (root, other)]
    assert read_table(root / "agreement.parquet").schema.equals(SCHEMAS["agreement"])
    for layer in maps[0]:
        (row,) = rows_of(root, "agreement", layer=layer, **{"class": CLASS})
        own = [one[layer][images] for one in maps]
        words = [one[layer] for one in graphs]
        expected = slow.covered_overlap(*own, *words)
        assert (row["columns_iou"], row["columns_shuffled"]) == pytest.approx(expected)
        assert row["columns_iou_low"] <= row["columns_iou"] <= row["columns_iou_high"]
        assert 0 <= row["columns_chance"] < 0.5
        assert (row["run"], row["other_run"], row["images"]) == ("zero", "run", len(images))
        assert (row["words"], row["other_words"]) == (3, 3)
        matches = {one["word"]: one for one in rows_of(root, "word_matches", layer=layer)}
        matched = [word for word in words[0] if word in matches and matches[word]["other_word"] in words[1]]
        assert row["matched_share"] == pytest.approx(len(matched) / 3)
        assert row["matched_chance"] == pytest.approx(3 / {"layer1.0.add": 20, "layer2.0.add": 25, TOP: 30}[layer])
        assert row["same_share"] == pytest.approx(sum(matches[word]["iou"] > 0.5 for word in matched) / 3)


def test_matches_of_words_are_those_of_loops_over_all_images(root: Path, other: Path) -> None:
    plan = Plan.read(RunFolder.open(root))
    first, second = (word_maps(one)[TOP][plan.train_images :] for one in (root, other))
    rows = rows_of(root, "word_matches", layer=TOP)
    assert len({row["other_word"] for row in rows}) == len(rows) > 10
    for row in rows[::4]:
        assert row["iou"] == pytest.approx(slow.overlap(first, second, row["word"], row["other_word"]))
        assert row["columns"] == (first == row["word"]).sum()
        assert row["other_columns"] == (second == row["other_word"]).sum()
    (whole,) = rows_of(root, "agreement", layer=TOP, **{"class": None})
    assert whole["word_iou"] == pytest.approx(sum(row["iou"] for row in rows) / 30)
    assert whole["word_iou"] > 2 * whole["word_iou_chance"]
    assert whole["same_share"] == pytest.approx(sum(row["iou"] > 0.5 for row in rows) / 30)
    assert (whole["images"], whole["columns_iou"]) == (125, None)


def test_nodes_are_covered_as_loops_say(root: Path, other: Path) -> None:
    images, graphs = omega(root), [graph_words(open_run(one), "joint")[CLASS] for one in (root, other)]
    maps = [word_maps(one) for one in (root, other)]
    rows = rows_of(root, "consensus", **{"class": CLASS})
    assert [row["layer"] for row in rows[:9:3]] == [TOP, "layer2.0.add", "layer1.0.add"]
    assert {row["run"] for row in rows} == {"zero", "run"}
    for row in rows:
        one = int(row["run"] == "run")
        own, there = maps[one][row["layer"]][images], maps[1 - one][row["layer"]][images]
        assert row["word"] == graphs[one][row["layer"]][row["rank"]]
        share, chance = slow.node_covered(own, there, row["word"], graphs[1 - one][row["layer"]])
        assert (row["columns_covered"], row["columns_chance"]) == pytest.approx((share, chance))
        assert (row["runs"], row["covered_runs"], row["stable"]) == (1, int(share > 0.5), share > 0.5)


def test_pages_say_what_they_show(root: Path) -> None:
    page = (root / "figures" / f"agree-class-{CLASS}.svg").read_text()
    assert f"Consensus graph of class {CLASS}" in page
    assert " of 1 runs" in page
    layers = (root / "figures" / "agree.svg").read_text()
    assert "do 2 runs agree?" in layers
    for text in ("add1", "add3", "Graph words matched in the other graph", "a pair of runs"):
        assert text in layers


def test_a_copy_agrees_in_everything_and_answers_once(digits_run: Path, tmp_path: Path) -> None:
    one, two = copy_of(digits_run, tmp_path / "a" / "run"), copy_of(digits_run, tmp_path / "b" / "run")
    shutil.copy(digits_run / "heatmaps.parquet", one)
    assert run_names([open_run(one), open_run(two)]) == ["a/run", "b/run"]
    found = run_agree(asked(one, images=40), AgreeRequest((two,), classes=("3",)))
    assert [layer["matched_share"] for layer in found["layers"]] == [1, 1, 1]
    assert [layer["columns_iou"] for layer in found["layers"]] == [1, 1, 1]
    assert found["images"] == 40
    assert {row["covered_share"] for row in rows_of(one, "consensus")} <= {1.0, None}
    before = (one / "agreement.parquet").stat().st_mtime_ns
    assert run_agree(asked(one, images=40), AgreeRequest((two,), classes=("3",))) == found
    assert (one / "agreement.parquet").stat().st_mtime_ns == before
    words = read_table(two / "words.parquet")
    write_table(two / "words.parquet", words.slice(1), "words")
    with pytest.raises(RunFolderError, match=r"agree: must be asked of the run that it was begun with, but .*words"):
        run_agree(asked(one, images=40), AgreeRequest((two,), classes=("3",)))


def changed(root: Path, column: str, value: Any, split: str = "validation") -> None:
    """Another value in a column of the images of a split."""
    table = read_table(root / "images.parquet")
    rows = zip(table[column].to_pylist(), table["split"].to_pylist(), strict=True)
    values = pa.array([value(old) if of == split else old for old, of in rows], table.schema.field(column).type)
    place = table.column_names.index(column)
    write_table(root / "images.parquet", table.set_column(place, table.schema.field(column), values), "images")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("path", "elsewhere{}".format, r"validation images in common, got none \(path in images.parquet\)"),
        ("label", lambda old: (old + 1) % 10, "must be told runs on the same images, got 'digits#.*' with label"),
    ],
)
def test_other_images_are_refused(digits_run: Path, tmp_path: Path, column: str, value: Any, words: str) -> None:
    one, two = copy_of(digits_run, tmp_path / "one"), copy_of(digits_run, tmp_path / "two")
    changed(two, column, value)
    with pytest.raises(DataError, match=words):
        run_agree(asked(one), AgreeRequest((two,)))
    assert not (one / "agree").exists()


def test_what_fits_not_together_is_refused(digits_run: Path, tmp_path: Path) -> None:
    one, two = copy_of(digits_run, tmp_path / "one"), copy_of(digits_run, tmp_path / "two")

    def refused(kind: type[RunError], words: str, *others: Path, **request: Any) -> None:
        with pytest.raises(kind, match=words):
            run_agree(asked(one), AgreeRequest(others, **request))

    refused(SettingsError, "agree: must be told at least two run folders, each once, got '.*one' twice", two, one)
    refused(SettingsError, "got '.*one' alone; name another run")
    refused(SettingsError, "--scope: must be a scope of every run, got 'class-3', which '.*one'", two, scope="class-3")
    refused(DataError, "there is no class 'eleven'", two, classes=("eleven",))
    plan = (two / "plan.json").read_text()
    (two / "plan.json").write_text(plan.replace('"9"', '"nine"'))
    refused(DataError, r"the same class_names \(plan.json\), got others in '.*two'", two)
    (two / "plan.json").write_text(plan)
    nodes = read_table(two / "nodes.parquet").to_pylist()
    write_table(two / "nodes.parquet", [row for row in nodes if row["graph"] != "class:3"], "nodes")
    refused(DataError, "--class: must be a class whose graph every run has, got '3', of which", two, classes=("3",))
    (two / "ledgers" / "mine.jsonl").unlink()
    refused(RunFolderError, "agree: must have a run that is done up to its stage 'mine', got '.*two'", two)
    assert not (one / "agree").exists()

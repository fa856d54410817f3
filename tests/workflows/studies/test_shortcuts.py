"""``trust --shortcuts`` of the small digits run: the table against loops over word maps, and what lies on objects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.small_digits import command
from tests.references import shortcuts as slow
from tests.workflows.studies.trusted_run import ENOUGH, LEAST
from workflows.run import Run, open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.schemas import SCHEMAS
from workflows.storage.tables import read_table, write_table
from workflows.studies.trust import shortcuts
from workflows.studies.trust.shortcuts import shares_on_object, shortcut_rows
from workflows.words.word_maps import read_words

ASKED = ["--class", "3", "--class", "8", "--interventions", "mean,shift", "--top", "2", "--draws", "1"]
MADE = ("effects", "word_effects", "completeness")


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("shortcuts") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LEAST, ENOUGH)
        assert command(["trust", str(root), *ASKED]) == 0
        assert not (root / "shortcuts.parquet").exists()
        before = {name: (root / f"{name}.parquet").stat().st_mtime_ns for name in MADE}
        assert command(["trust", str(root), *ASKED, "--shortcuts"]) == 0
        after = {name: (root / f"{name}.parquet").stat().st_mtime_ns for name in MADE}
        assert before == after, "made of the answer, which is not computed again"
        yield root


def by_hand(run: Run, row: dict[str, Any], word_effects: list[dict[str, Any]]) -> dict[str, Any]:
    """What the word maps say of a word, image by image, and what word_effects has of it."""
    known, words = ImageColumns.read(run.folder, 0, run.plan.images), {one.name: one.words for one in run.plan.layers}
    validation = np.arange(run.plan.train_images, run.plan.images)
    maps = read_words(run.folder, "joint", row["layer"], int(validation[0]), run.plan.images).numpy()
    groups = np.where(known.predicted[validation] == row["class"], 0, 1)
    images, holding, places = slow.counted(groups, maps, 2, words[row["layer"]])
    (effect,) = [
        one for one in word_effects if all(one[name] == row[name] for name in ("scope", "class", "layer", "word"))
    ]
    own = holding[:, row["word"]]
    return {
        "ratio": slow.log_ratio(own[0], images[0], own[1], images[1]),
        "entropy": slow.entropy(places[0, row["word"]]),
        "drop": effect["drop_mean"],
        "control": effect["control_mean"],
        "on_object": row["share_on_object"],
        "shares": (own[0] / images[0], own[1] / images[1]),
    }


def test_the_table_is_that_of_loops(root: Path) -> None:
    run, table = open_run(root), read_table(root / "shortcuts.parquet")
    assert table.schema.equals(SCHEMAS["shortcuts"])
    effects = run.table("word_effects").to_pylist()
    known = {(row["class"], row["layer"], row["word"]) for row in effects if row["drop_mean"] is not None}
    rows = table.to_pylist()
    assert {(row["class"], row["layer"], row["word"]) for row in rows} == known
    assert {row["intervention"] for row in rows} == {"mean"}, "the first that is asked"
    for label in (3, 8):
        own = sorted((row for row in rows if row["class"] == label), key=lambda row: row["rank"])
        assert [row["rank"] for row in own] == list(range(len(own)))
        expected = [by_hand(run, row, effects) for row in own]
        judged = slow.ranked(expected)
        assert sorted(slow.ranks(judged)) == slow.ranks(judged), "best first"
        for row, hand, (looks, used, weight) in zip(own, expected, judged, strict=True):
            assert (row["image_share"], row["other_share"]) == pytest.approx(hand["shares"])
            assert (row["log_ratio"], row["positional_entropy"]) == pytest.approx((hand["ratio"], hand["entropy"]))
            assert (row["looks"], row["weight"]) == pytest.approx((looks, weight))
            assert row["used"] == used
            assert row["share_on_object"] is None, "neither boxes nor dissect was asked"


def test_blocks_of_classes_give_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(shortcut_rows(open_run(root), "shift"))
    monkeypatch.setattr(shortcuts, "_CELLS", 1)
    assert list(shortcut_rows(open_run(root), "shift")) == whole


def test_boxes_and_masks_tell_what_lies_on_the_object(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "run")
    run = open_run(copy)
    first, second = [row for row in run.table("shortcuts").to_pylist() if row["class"] == 3 and row["looks"] > 0][:2]
    box = {"graph": "class:3", "scope": "joint", "layer": first["layer"], "word": first["word"], "rank": 0}
    box |= {"part": "object", "images": 3, "images_without": 0, "positions": 8, "inside": 2, "area": 0.4}
    others = [{**box, "source": "exemplars", "share": 0.9}, {**box, "source": "validation", "part": "head", "share": 1}]
    write_table(run.folder.table("boxes"), [{**box, "source": "validation", "share": 0.25}, *others], "boxes")
    mask = {"scope": "joint", "rank": 0, "category": "object", "iou_lite": 0.2, "cap": 1.0, "detector": True}
    mask |= {"iou": 0.2, "mask_share": 0.3, "concept_share": 0.3}  # the overlap is 0.1: a third of the mask
    masks = [
        {**mask, "layer": second["layer"], "word": second["word"], "concept": run.plan.class_names[3].upper()},
        {**mask, "layer": first["layer"], "word": first["word"], "concept": run.plan.class_names[3]},
        {**mask, "layer": first["layer"], "word": first["word"], "concept": "wheel"},
    ]
    write_table(run.folder.table("word_concepts"), masks, "word_concepts")
    rows = run.table("shortcuts").to_pylist()
    known = shares_on_object(run, [("joint", row["class"], row["layer"], row["word"]) for row in rows])
    in_masks = {first["layer"], second["layer"]}
    apart = {
        ("joint", 3, row["layer"], row["word"]): 0.0 for row in rows if row["class"] == 3 and row["layer"] in in_masks
    }
    assert len(apart) > 2, "words that meet no mask of the class lie off the object"
    assert known == apart | {
        ("joint", 3, first["layer"], first["word"]): 0.25,
        ("joint", 3, second["layer"], second["word"]): pytest.approx(1 / 3),
    }, "boxes go before masks, and concepts of other names say nothing"
    for row in shortcut_rows(run, "mean"):
        if (row["class"], row["layer"], row["word"]) == (3, first["layer"], first["word"]):
            assert row["looks"] == pytest.approx(1.75 * first["looks"])
            assert row["share_on_object"] == 0.25


def test_another_answer_takes_the_old_ranking_away(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LEAST, ENOUGH)
    copy = shutil.copytree(root, tmp_path / "run")
    old = copy / "figures" / "trust-class-77.png"
    old.touch()
    assert command(["trust", str(copy), *ASKED[:2], *ASKED[4:], "--interventions", "shift"]) == 0
    assert not (copy / "shortcuts.parquet").exists()
    assert not old.exists(), "nor pages of classes that are asked no more"
    assert not (copy / "figures" / "trust-shortcuts.png").exists()


def test_people_and_programs_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["trust", str(root), *ASKED, "--shortcuts", "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert "shortcuts" in summary["tables"]
    assert "trust has answered this before" in captured.err
    assert "the first words of each class by looks and use" in captured.err
    assert str(root / "shortcuts.parquet") in captured.err
    assert (root / "figures" / "trust-shortcuts.png").stat().st_size > 20_000

"""dissect on the small run of digits: tables equal the slow twin, figures, names of words, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import FIRST_LAYER, command
from tests.references.dissection import Lite, lite_tally, nearest, threshold
from tests.workflows.studies.made_masks import (
    CONCEPTS,
    IMAGES,
    SIDE,
    copy_with_one_graph,
    digit_masks,
    dissecting,
    masks_option,
)
from workflows.asking import image_parts
from workflows.asking.registry import STUDIES
from workflows.run import Run, open_run
from workflows.storage.arrays import read_rows
from workflows.words.word_maps import read_words

NAMES = [name for name, _ in CONCEPTS.values()]
CATEGORY = [0, 0, 0, 1]


@pytest.fixture(scope="module")
def dissected(build_once: BuildOnce, digits_run: Path) -> Path:
    """The study on some images."""
    return build_once("digits-dissected", dissecting(digits_run))


def summary(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert command(["dissect", str(root), *masks_option(root), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def looked_at(run: Run) -> list[int]:
    """The images of the study, by its own rule: readable, with masks, spread over the classes."""
    from workflows.data.image_index import balanced_rows

    table = run.table("images", ["label"])
    labels = np.array(table["label"].to_pylist())[::2]
    return (2 * balanced_rows(labels, IMAGES, run.settings.seed)).tolist()


def labels_of(run: Run, images: list[int]) -> list[np.ndarray]:
    """Layers of labels of each image, one a concept."""
    paths = run.table("images", ["path"])["path"].to_pylist()
    return [np.stack([mask * key for key, mask in digit_masks(paths[image]).items()]) for image in images]


def maps_of(run: Run, layer: str, images: list[int]) -> np.ndarray:
    plan = run.plan.layer(layer)
    columns = read_rows(run.folder.activations(layer), 0, run.plan.images)[images].astype(np.float16)
    return columns.reshape(len(images), plan.height, plan.width, plan.units).transpose(0, 3, 1, 2).astype(np.float64)


def assert_rows_are_the_twins(rows: list[dict[str, object]], twin: Lite, kind: str) -> None:
    """Rows of concepts: the best three of every mask, by the twin's IoU, in its order."""
    paper, lite = twin.iou(CATEGORY, paper=True), twin.iou(CATEGORY, paper=False)
    for mask in range(len(paper)):
        own = sorted((row for row in rows if row[kind] == mask), key=lambda row: row["rank"])
        order = [concept for concept in np.argsort(-paper[mask], kind="stable")[:3] if paper[mask, concept] > 0]
        assert [row["concept"] for row in own] == [NAMES[concept] for concept in order]
        np.testing.assert_allclose([row["iou"] for row in own], paper[mask, order], rtol=1e-14)
        np.testing.assert_allclose([row["iou_lite"] for row in own], lite[mask, order], rtol=1e-14)
        assert all(row["iou"] <= row["cap"] + 1e-12 for row in own)


def test_units_are_the_slow_twins(dissected: Path) -> None:
    run = open_run(dissected)
    images = looked_at(run)
    assert len(images) == IMAGES
    layer = run.plan.layers[-1].name
    maps, labels = maps_of(run, layer, images), labels_of(run, images)
    units = run.table("units", filters=[("layer", "=", layer)]).to_pylist()
    concepts = run.table("unit_concepts", filters=[("layer", "=", layer)]).to_pylist()
    for share in (0.005, 0.04):
        own = [row for row in units if row["quantile"] == share]
        limits = [threshold(maps[:, unit].ravel(), share) for unit in range(maps.shape[1])]
        assert [row["threshold"] for row in own] == limits
        twin = lite_tally(maps, labels, np.array(limits), CATEGORY)
        assert_rows_are_the_twins([row for row in concepts if row["quantile"] == share], twin, "unit")
        best = twin.iou(CATEGORY, paper=True).max(axis=1)
        np.testing.assert_allclose([row["iou"] for row in own], best, rtol=1e-14)
        assert [row["detector"] for row in own] == (best > 0.04).tolist()
    np.testing.assert_allclose([row["mean"] for row in own], maps.mean(axis=(0, 2, 3)), rtol=1e-9)


def test_words_are_the_slow_twins(dissected: Path) -> None:
    run = open_run(dissected)
    images = looked_at(run)
    for layer in (FIRST_LAYER, run.plan.layers[-1].name):
        words = read_words(run.folder, "joint", layer, 0, run.plan.images).numpy()[images]
        twin = lite_tally(words, labels_of(run, images), np.zeros(run.plan.layer(layer).words), CATEGORY, word=True)
        rows = run.table("word_concepts", filters=[("layer", "=", layer)]).to_pylist()
        assert_rows_are_the_twins(rows, twin, "word")


def test_units_that_make_a_word(dissected: Path) -> None:
    run = open_run(dissected)
    images, layer = looked_at(run), run.plan.layers[-1].name
    columns = maps_of(run, layer, images).transpose(0, 2, 3, 1).reshape(-1, run.plan.layers[-1].units)
    words = read_words(run.folder, "joint", layer, 0, run.plan.images).numpy()[images].ravel()
    rows = run.table("word_units", filters=[("layer", "=", layer)]).to_pylist()
    assert len(rows) == len(np.unique(words)) * columns.shape[1]
    for word in np.unique(words)[:3]:
        own = sorted((row for row in rows if row["word"] == word), key=lambda row: row["unit"])
        spread = columns.std(axis=0)
        away = columns[words == word].mean(axis=0) - columns.mean(axis=0)
        expected = np.divide(away, spread, out=np.zeros_like(away), where=spread > 0)
        np.testing.assert_allclose([row["z"] for row in own], expected, atol=1e-5)
        ranked = sorted(own, key=lambda row: row["rank"])
        assert (np.diff([row["z"] for row in ranked]) <= 0).all()


def test_unions_of_words_are_those_of_their_pixels(dissected: Path) -> None:
    run = open_run(dissected)
    images, layer = np.array(looked_at(run)), run.plan.layers[-1].name
    judged = images >= run.plan.train_images
    words = read_words(run.folder, "joint", layer, 0, run.plan.images).numpy()[images]
    wide = np.stack([nearest(one, (32, 32)) for one in words])
    labels = np.stack(labels_of(run, images.tolist()))
    wanted = [("layer", "=", layer), ("masks", "=", "words")]
    rows = [row for row in run.table("unions", filters=wanted).to_pylist() if row["concept"] is not None]
    assert {row["concept"] for row in rows} == set(NAMES)
    for concept, name in enumerate(NAMES):
        own = sorted((row for row in rows if row["concept"] == name), key=lambda row: row["size"])
        for size, row in enumerate(own, start=1):
            assert row["size"] == size
            mask = np.isin(wide, [one["member"] for one in own[:size]])
            for half, column in ((~judged, "iou_chosen"), (judged, "iou")):
                both = (mask & (labels[:, concept] > 0))[half].sum()
                assert row[column] == pytest.approx(both / (mask | (labels[:, concept] > 0))[half].sum(), abs=1e-12)
            assert row["iou_low"] <= row["iou"] <= row["iou_high"]
    means = [row for row in run.table("unions").to_pylist() if row["concept"] is None and row["masks"] == "words"]
    whole = next(row for row in means if row["layer"] == layer and row["size"] > 1)
    last = {row["concept"]: row["iou"] for row in sorted(rows, key=lambda row: row["size"])}
    assert whole["iou"] == pytest.approx(np.mean(list(last.values())), abs=1e-9)
    assert whole["difference_low"] <= whole["difference"] <= whole["difference_high"]


@pytest.mark.slow  # resample says the same of shards and actors
def test_other_shards_give_the_same_bits(
    dissected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: object
) -> None:
    monkeypatch.setattr(image_parts, "SHARDS", 1)
    root = Path(shutil.copytree(dissected, tmp_path / "run"))
    assert command(["dissect", str(root), *masks_option(dissected), "--anew"]) == 0
    for name in STUDIES["dissect"].tables:
        assert open_run(root).table(name).equals(open_run(dissected).table(name)), name


def test_the_answer_says_what_was_found(dissected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = summary(dissected, capsys)
    assert (told["images"], told["absent"], told["histogram_shift"], told["concepts"]) == (
        IMAGES,
        ["digits#99999"],
        0,
        4,
    )
    units = [one for one in told["layers"] if one["masks"] == "units"]
    assert [one["layer"] for one in units] == list(open_run(dissected).layers())
    table = open_run(dissected).table("units").to_pylist()
    counted = sum(row["detector"] for row in table if row["quantile"] == 0.005 and row["layer"] == units[0]["layer"])
    assert units[0]["detectors"] == counted
    assert {one["single"] for one in told["unions"]} == {True, False}


def test_figures_are_drawn_and_graphs_bear_names(dissected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = dissected / "figures"
    for name in ("dissect", "dissect-sheet-ink"):
        with Image.open(figures / f"{name}.png") as picture:
            assert picture.width in (1653, 1654), "the width of A4"
        assert (figures / f"{name}.svg").exists()
    run = open_run(dissected)
    nodes = run.table("nodes", filters=[("graph", "=", "class:3")]).to_pylist()
    named = run.table("word_concepts", filters=[("rank", "=", 0)]).to_pylist()
    of = {(row["layer"], row["word"]): row for row in named}
    shown = [of[node["layer"], node["word"]] for node in nodes if (node["layer"], node["word"]) in of]
    assert shown
    assert command(["show", str(dissected), "--class", "3"]) == 0
    text = capsys.readouterr().out
    assert "covers" in text
    svg = (figures / f"{run.figure('class:3').stem}.svg").read_text()
    concept, iou = shown[0]["concept"], shown[0]["iou"]
    assert f"{concept} {iou:.2f}".replace(" 0.", " .") in svg


def test_a_unit_and_a_word_in_the_terminal(dissected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(dissected)
    layer = run.plan.layers[-1]
    for kind in ("unit", "word"):
        assert command(["show", str(dissected), f"--{kind}", f"{layer.given}:1"]) == 0
        text = capsys.readouterr().out
        assert f"{layer.name} {kind} 1" in text
        assert command(["show", str(dissected), f"--{kind}", f"{layer.name}:1", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content[kind] == 1
        assert (
            content[f"{kind}_concepts"]
            == run.table(f"{kind}_concepts", filters=[("layer", "=", layer.name), (kind, "=", 1)]).to_pylist()
        )
        assert len(content["word_units"]) == 8
    assert command(["show", str(dissected), "--unit", "add9"]) == 2
    assert "--unit: must be LAYER:UNIT, such as add13:17, got 'add9'" in " ".join(capsys.readouterr().err.split())
    assert command(["show", str(dissected), "--word", f"{layer.given}:99"]) == 2
    assert "has no word 99; its words are 0 to" in " ".join(capsys.readouterr().err.split())
    assert command(["show", str(dissected), "--word", "nowhere:1"]) == 2
    assert "the study dissect has no layer 'nowhere'; it has layer1.0.add" in " ".join(capsys.readouterr().err.split())


def test_a_run_beside_another(
    dissected: Path, digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(dissected, tmp_path / "run"))
    assert command(["dissect", str(root), *masks_option(dissected), "--compare", str(digits_run)]) == 2
    assert "must be a run that is dissected, got one that is not; give" in " ".join(capsys.readouterr().err.split())
    again = ["dissect", str(root), *masks_option(dissected), "--compare", str(dissected), "--sheet", "upper half"]
    assert command(again) == 0
    assert "dissect has answered this before" in " ".join(capsys.readouterr().out.split())
    assert (root / "figures" / "dissect-compare.png").exists()
    assert [path.name for path in (root / "figures").glob("dissect-sheet-upper*.png")]
    assert command(["dissect", str(root), *masks_option(dissected), "--sheet", "uper half"]) == 2
    assert "there is no concept 'uper half'; did you mean upper half" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_other_layers_of_the_network_have_units_alone(
    dissected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], local_ray: object
) -> None:
    root = Path(shutil.copytree(dissected, tmp_path / "run"))
    given = ["dissect", str(root), *masks_option(dissected)[:2], "--images", "20", "--layers", "conv1,layer1.0.add"]
    assert command(given) == 0
    run = open_run(root)
    assert set(run.table("units")["layer"].to_pylist()) == {"conv1", FIRST_LAYER}
    assert set(run.table("word_concepts")["layer"].to_pylist()) == {FIRST_LAYER}
    assert command([*given[:-1], "fc"]) == 2


@pytest.mark.slow
def test_what_does_not_fit_together_is_told(
    dissected: Path, digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], local_ray: object
) -> None:
    """A category without a pixel, an empty mask, a photo that the run does not have."""
    root = copy_with_one_graph(digits_run, tmp_path / "run")
    content = json.loads((dissected.parent / "masks.json").read_text())
    content["categories"] += [{"id": 9, "name": "loop", "supercategory": "hole"}]
    image = content["images"][0]["id"]
    nothing = {"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}
    content["annotations"] += [
        {"id": 90_000, "image_id": image, "category_id": 9, "segmentation": nothing},
        {"id": 90_001, "image_id": image, "category_id": 1, "segmentation": []},
    ]
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    assert command(["dissect", str(root), "--masks", f"coco:{path}", "--images", "12"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "masks: 1 of 314 photos of the file are not in the run: digits#99999" in text
    assert "masks: 1 annotations of ink are empty and mark nothing" in text
    assert "categories without a pixel in these images: hole; their concepts have IoU 0" in text
    content["annotations"] = content["annotations"][-2:-1]
    path.write_text(json.dumps(content))
    assert command(["dissect", str(root), "--masks", f"coco:{path}", "--anew"]) == 2
    assert "must mark a pixel of an image of the run, got none" in " ".join(capsys.readouterr().err.split())


def test_masks_that_are_none(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["dissect", str(digits_run)]) == 2
    assert "--masks: must be coco:FILE" in " ".join(capsys.readouterr().err.split())
    assert not (digits_run / "dissect").exists()
    assert command(["show", str(digits_run), "--unit", "add1:0"]) == 2
    assert "must ask a run that is dissected" in " ".join(capsys.readouterr().err.split())

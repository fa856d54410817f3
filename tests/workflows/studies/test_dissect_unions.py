"""Unions of dissect against their pixels, who may choose them, and scopes that do not have all images."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.conftest import BuildOnce
from tests.references.dissection import lite_tally, nearest, upsampled
from tests.workflows.data.masks.made_pictures import write_table
from tests.workflows.studies.made_masks import CONCEPTS, SIDE, digit_masks, dissecting
from tests.workflows.studies.test_dissect import looked_at
from workflows.asking.image_parts import ImageShard
from workflows.asking.run_masks import masks_of_run
from workflows.asking.study import Asked
from workflows.data.masks.concept_masks import MaskSet
from workflows.errors import DataError
from workflows.plan.run_plan import LayerPlan
from workflows.run import Run, open_run
from workflows.storage.arrays import open_array, read_rows
from workflows.storage.states import open_states, save_state
from workflows.studies.dissect.command import DissectRequest, refuse_without_pixels, run_dissect
from workflows.studies.dissect.joined_masks import UnionJudge, candidates_of, choose_unions
from workflows.studies.dissect.rows import Overlaps, word_rows
from workflows.studies.dissect.union_workers import ChoosingWorker, JudgingWorker
from workflows.studies.dissect.workers import Dictionary, DissectSums, Subject, TallyWorker
from workflows.words.word_maps import read_words

NAMES = [name for name, _ in CONCEPTS.values()]
CATEGORY = [0, 0, 0, 1]
SCOPE, OWN = "class-3", 3


@pytest.fixture(scope="module")
def dissected(build_once: BuildOnce, digits_run: Path) -> Path:
    """The study on some images."""
    return build_once("digits-dissected", dissecting(digits_run))


def mask_set(run: Run, path: Path) -> MaskSet:
    return masks_of_run(run, f"coco:{path}", lambda text: None)


def images_of(run: Run) -> np.ndarray:
    """Of class 3 and of class 5, with masks, on both sides of the split."""
    labels = np.array(run.table("images", ["label"])["label"].to_pylist())
    found = np.flatnonzero(np.isin(labels, [OWN, 5]) & (np.arange(len(labels)) % 2 == 0))
    validation = found >= run.plan.train_images
    return np.concatenate([found[~validation][:14], found[validation][:8]])


def subject_of(run: Run, masks: MaskSet, scopes: tuple[str, ...]) -> Subject:
    layer, images = run.plan.layers[-1], images_of(run)
    dictionaries = tuple(Dictionary(scope, layer.name, layer.words) for scope in scopes)
    return Subject((layer,), dictionaries, masks, np.array(CATEGORY), images[images >= run.plan.train_images])


def limits_of(run: Run, layer: LayerPlan) -> np.ndarray:
    keys = [("unit", "ascending"), ("quantile", "ascending")]
    rows = run.table("units", filters=[("layer", "=", layer.name)]).sort_by(keys)
    return rows["threshold"].to_numpy().reshape(layer.units, -1)


def tallied(run: Run, subject: Subject) -> DissectSums:
    worker = TallyWorker(run.settings, run.plan, run.folder, subject, [limits_of(run, subject.layers[0])])
    return worker(ImageShard(0, tuple(images_of(run).tolist())))


def labels_on(run: Run, images: np.ndarray) -> np.ndarray:
    """(n, C, H, W) bool."""
    paths = run.table("images", ["path"])["path"].to_pylist()
    return np.stack([np.stack(list(digit_masks(paths[image]).values())) for image in images])


@pytest.mark.slow
def test_the_images_that_judge_do_not_choose(dissected: Path, tmp_path: Path) -> None:
    """Their masks are moved to other concepts: what is chosen stays."""
    run, source = open_run(dissected), dissected.parent / "masks.json"
    content = json.loads(source.read_text())
    for one in content["annotations"]:
        if one["image_id"] >= run.plan.train_images:
            one["category_id"] = {1: 3, 2: 1, 3: 4, 4: 2}[one["category_id"]]
    other = tmp_path / "masks.json"
    other.write_text(json.dumps(content))
    found, moved = (tallied(run, subject_of(run, mask_set(run, path), ("joint",))) for path in (source, other))
    assert found.judging != moved.judging
    assert found.choosing == moved.choosing
    subject = subject_of(run, mask_set(run, source), ("joint",))
    limits = [limits_of(run, subject.layers[0])]
    (one,), (two,) = candidates_of(found, subject, limits), candidates_of(moved, subject, limits)
    np.testing.assert_array_equal(one.units, two.units)
    np.testing.assert_array_equal(one.thresholds, two.thresholds)
    iou = found.choosing.units[0].iou(found.choosing.labels, subject.category).max(axis=1)
    assert (one.units[:, 0] == iou.argmax(axis=0)).all()


def pixels_of_units(run: Run, layer: LayerPlan, images: np.ndarray, members: list[tuple[int, float]]) -> np.ndarray:
    """(n, H, W): where any of them is strong."""
    columns = read_rows(run.folder.activations(layer.name), 0, run.plan.images)[images].astype(np.float16)
    maps = columns.reshape(len(images), layer.height, layer.width, layer.units)
    shown = [[upsampled(one[..., unit], (SIDE, SIDE)) > limit for unit, limit in members] for one in maps]
    return np.any(shown, axis=1)


def iou_of(masks: np.ndarray, labels: np.ndarray) -> float:
    return float((masks & labels).sum() / (masks | labels).sum())


def test_unions_of_units_are_those_of_their_pixels(dissected: Path) -> None:
    run = open_run(dissected)
    layer = run.plan.layers[-1]
    masks = mask_set(run, dissected.parent / "masks.json")
    wanted = [("layer", "=", layer.name), ("masks", "=", "units"), ("concept", "=", "ink"), ("size", "<", 4)]
    rows = run.table("unions", filters=wanted).sort_by("size").to_pylist()
    assert rows
    assert {row["scope"] for row in rows} == {None}
    images = np.array(looked_at(run))
    assert set(images) <= set(masks.images)
    labels = labels_on(run, images)[:, 0]
    members = [(row["member"], row["threshold"]) for row in rows]
    shown = pixels_of_units(run, layer, images, members)
    judged = images >= run.plan.train_images
    for half, column in ((~judged, "iou_chosen"), (judged, "iou")):
        assert rows[-1][column] == pytest.approx(iou_of(shown[half], labels[half]), abs=1e-12)
    assert (rows[0]["images_chosen"], rows[0]["images_judged"]) == ((~judged).sum(), judged.sum())


@pytest.fixture(scope="module")
def scoped(dissected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with words of one more scope, which gives them to images of its class alone."""
    root = tmp_path_factory.mktemp("scoped") / "run"
    root.mkdir()
    for path in dissected.iterdir():
        if path.name != "words":
            (root / path.name).symlink_to(path)
    (root / "words").mkdir()
    (root / "words" / "joint").symlink_to(dissected / "words" / "joint")
    run = open_run(dissected)
    labels = np.array(run.table("images", ["label"])["label"].to_pylist())
    target = open_run(root).folder.words(SCOPE, run.plan.layers[-1].name)
    shutil.copytree(run.folder.words("joint", run.plan.layers[-1].name), target)
    words = read_words(open_run(root).folder, SCOPE, run.plan.layers[-1].name, 0, run.plan.images).numpy().copy()
    words[labels != OWN] = -1
    open_array(target)[:] = words
    return root


def test_words_of_a_scope_meet_the_labels_of_its_images(scoped: Path, dissected: Path) -> None:
    run = open_run(scoped)
    subject = subject_of(run, mask_set(run, dissected.parent / "masks.json"), ("joint", SCOPE))
    found, images = tallied(run, subject), images_of(run)
    words = read_words(run.folder, SCOPE, subject.layers[0].name, 0, run.plan.images).numpy()[images]
    own = (words >= 0).any(axis=(1, 2))
    assert 0 < own.sum() < len(images)
    labels = [layers * np.arange(1, 5)[:, None, None] for layers in labels_on(run, images[own])]
    twin = lite_tally(words[own], labels, np.zeros(subject.layers[0].words), CATEGORY, word=True)
    assert found.labels(1).areas.tolist() == twin.labels.tolist()
    assert found.labels(1).images.tolist() == [own.sum()] * 2
    overlaps = Overlaps(found.words[1], found.labels(1), subject.masks.concepts, subject.category)
    best = twin.iou(CATEGORY, paper=True)
    rows = word_rows(subject.dictionaries[1], overlaps)
    assert rows
    for row in rows:
        assert row["iou"] == pytest.approx(best[row["word"], NAMES.index(row["concept"])], rel=1e-12)


def shards_of(images: np.ndarray) -> list[ImageShard]:
    return [ImageShard(place, tuple(some.tolist())) for place, some in enumerate(np.array_split(images, 2))]


def saved(root: Path, parts: list[dict[str, np.ndarray]]) -> list[Path]:
    paths = [root / f"{number}.npz" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        save_state(path, part)
    return paths


def test_unions_of_a_scope_are_on_its_images(scoped: Path, dissected: Path, tmp_path: Path) -> None:
    """Chosen and judged in two shards each, units and words alike."""
    run = open_run(scoped)
    subject = subject_of(run, mask_set(run, dissected.parent / "masks.json"), ("joint", SCOPE))
    layer, images = subject.layers[0], images_of(run)
    candidates = candidates_of(tallied(run, subject), subject, [limits_of(run, layer)])
    judges = images >= run.plan.train_images
    choosing, judging = (shards_of(images[half]) for half in (~judges, judges))
    told = (run.settings, run.plan, run.folder, subject)
    (tmp_path / "chosen").mkdir()
    (tmp_path / "judged").mkdir()
    with open_states(saved(tmp_path / "chosen", [ChoosingWorker(*told, candidates)(one) for one in choosing])) as read:
        chosen = choose_unions(read, subject)
    members = chosen.members(candidates)
    words = read_words(run.folder, SCOPE, layer.name, 0, run.plan.images).numpy()[images]
    own = (words >= 0).any(axis=(1, 2))
    assert chosen.images.tolist() == [(~judges).sum(), (own & ~judges).sum()]
    wide, labels = np.stack([nearest(one, (SIDE, SIDE)) for one in words]), labels_on(run, images)
    with open_states(saved(tmp_path / "judged", [JudgingWorker(*told, members)(one) for one in judging])) as read:
        judge = UnionJudge(read, 1, chosen.labels[1], 0)
        assert (judge.images, judge.concepts()) == ((own & judges).sum(), [0, 1, 2, 3])
        of_units, of_words = judge.judge("units1_0", chosen.units[1][0]), judge.judge("words1", chosen.words[1])
    for concept in range(4):
        found = of_words[concept]
        mask = np.isin(wide, found.union.members)
        assert_chosen_and_judged(found.union.iou[-1], found.iou[-1].value, mask, labels[:, concept], own, judges)
    unit, limit = int(members.units[1][0].units[0, 0]), float(members.units[1][0].thresholds[0, 0])
    mask = pixels_of_units(run, layer, images, [(unit, limit)])
    assert_chosen_and_judged(of_units[0].union.iou[0], of_units[0].iou[0].value, mask, labels[:, 0], own, judges)


def assert_chosen_and_judged(
    chosen: float, judged: float, mask: np.ndarray, labels: np.ndarray, own: np.ndarray, judges: np.ndarray
) -> None:
    for told, half in ((chosen, own & ~judges), (judged, own & judges)):
        assert told == pytest.approx(iou_of(mask[half], labels[half]), abs=1e-12)


def test_masks_without_a_pixel_are_refused_at_once(dissected: Path, tmp_path: Path) -> None:
    run, content = open_run(dissected), json.loads((dissected.parent / "masks.json").read_text())
    for one in content["annotations"]:
        one["segmentation"]["counts"] = [SIDE * SIDE]
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    images = images_of(run).tolist()
    refuse_without_pixels(mask_set(run, dissected.parent / "masks.json"), images)
    with pytest.raises(DataError, match="must mark a pixel of an image of the run, got none in 22 images; ask for"):
        refuse_without_pixels(mask_set(run, path), images)


def test_masks_of_whole_images_are_refused_at_once(dissected: Path, tmp_path: Path) -> None:
    path = open_run(dissected).table("images", ["path"])["path"][0].as_py()
    write_table(tmp_path / "category.csv", "name", "texture")
    write_table(tmp_path / "label.csv", "number,name,category", "9,dotted,texture(1)")
    write_table(tmp_path / "c_texture.csv", "code,number,name", "1,9,dotted")
    write_table(tmp_path / "index.csv", "image,ih,iw,sh,sw,texture", f"{path},{SIDE},{SIDE},{SIDE},{SIDE},9")
    asked = Asked(dissected, Console(file=io.StringIO()))
    words = "must have concepts that lie somewhere in an image, got none but scene and texture, which hold for whole"
    with pytest.raises(DataError, match=words):
        run_dissect(asked, DissectRequest(masks=f"broden:{tmp_path}"))

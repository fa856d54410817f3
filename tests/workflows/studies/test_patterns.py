"""Patterns of the small digits run, end to end, against the same arrays in memory; refusals; going on."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.facing import face_one_way, facing_gram
from gmm_ops.explanatory.parents import UpperPlaces, best_candidates, displacements
from gmm_ops.explanatory.pattern_fitting import fit_patterns
from gmm_ops.explanatory.pattern_layer import PatternSettings
from gmm_ops.explanatory.pattern_places import PatternPlaces, infer_places, raw_peaks, valid_patterns
from gmm_ops.explanatory.responses import UnitMoments, responses
from tests.conftest import BuildOnce
from tests.end_to_end.killing import Driver
from tests.end_to_end.small_digits import command
from workflows.asking.image_parts import cut_images
from workflows.asking.pattern_files import PatternFiles
from workflows.asking.study import Asked
from workflows.asking.study_context import StudyContext
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.errors import DataError, NetworkError, SettingsError
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.run import open_run
from workflows.storage.images_table import ImageColumns
from workflows.storage.ledger import Ledger
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.studies.patterns import learning
from workflows.studies.patterns.command import run_patterns
from workflows.studies.patterns.learning import unit_seeds
from workflows.studies.patterns.request import PatternsRequest, default_layers

pytestmark = pytest.mark.slow

LAYERS = ("layer1.0.conv2:4", "layer2.0.conv2:3", "layer3.0.conv2:2")
NAMES = tuple(one.partition(":")[0] for one in LAYERS)
ITERATIONS, PARENTS, CLASS = 6, 3, "3"
EDGES = ",".join(f"{what}_{edge}" for what in ("obj", "part") for edge in ("x0", "y0", "x1", "y1"))


def write_boxes(run: Path, lines: list[str]) -> Path:
    path = run.parent / f"{run.name}-boxes.csv"
    path.write_text("\n".join([f"image,part,{EDGES}", *lines]) + "\n")
    return path


def digit_lines(run: Path, label: int, most: int = 14) -> list[str]:
    """Whole digits, a smaller box on every third, and two parts whose places differ."""
    table = read_table(run / "images.parquet", ["path", "label", "status"]).to_pylist()
    own = [row["path"] for row in table if row["label"] == label and row["status"] == "ok"][:most]
    lines = []
    for place, path in enumerate(own):
        shift = place % 5
        lines += [f"{path},head,0,0,32,32,{shift + 4},2,{shift + 16},12", f"{path},foot,0,0,32,32,6,{20 + shift},20,31"]
        lines += [f"{path},,4,{shift},30,32,,,,"] if place % 3 == 0 else []
    return lines


def asked(root: Path, **how: Any) -> Asked:
    return Asked(root, Console(file=io.StringIO(), width=200), **how)


def told(how: Asked) -> str:
    assert isinstance(how.console.file, io.StringIO)
    return how.console.file.getvalue()


def request(boxes: Path, **changes: Any) -> PatternsRequest:
    known: dict[str, Any] = {"boxes": boxes, "classes": (CLASS,), "layers": LAYERS, "iterations": ITERATIONS}
    return PatternsRequest(**(known | {"parents": PARENTS, "tops": ("anchored", "free")} | changes))


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("patterns") / "run")
    boxes = write_boxes(root, digit_lines(root, 3) + digit_lines(root, 5, 4))
    arguments = ["--class", CLASS, "--top", "anchored", "--top", "free", "--layers", ",".join(LAYERS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "BLOCK_UNITS", 7)
        assert command(["patterns", str(root), "--objects", str(boxes), *arguments, "--parents", str(PARENTS),
                        "--iterations", str(ITERATIONS)]) == 0  # fmt: skip
    return root


@pytest.fixture(scope="module")
def files(root: Path) -> PatternFiles:
    return PatternFiles.of(RunFolder.open(root), 3)


def crops(root: Path, files: PatternFiles) -> np.ndarray:
    """Every object by itself, in the order of the study."""
    run, turned = open_run(root), files.objects()
    preprocessor = Preprocessor(run.settings.preprocessing)
    paths = read_table(run.folder.images_table, ["path"])["path"].to_pylist()
    found = []
    with PictureReader(run.settings.data) as reader:
        for image, (x0, y0, x1, y1) in zip(turned.objects.images, turned.objects.boxes, strict=True):
            [picture] = reader.read([paths[image]])
            found.append(preprocessor.square(picture.pixels[y0:y1, x0:x1], (32, 32)))  # type: ignore[union-attr]
    return np.stack(found)


@pytest.fixture(scope="module")
def turned_maps(root: Path, files: PatternFiles) -> tuple[list[torch.Tensor], torch.Tensor]:
    """F of every layer on all objects, turned, and the signs, all in memory."""
    run = open_run(root)
    shape = (3, 32, 32)
    network = UnitNetwork.load(run.settings.network, run.plan.weights, shape, run.plan.rewriting).tapped(NAMES)
    preprocessor, pixels = Preprocessor(run.settings.preprocessing), crops(root, files)
    images, extract = files.objects().objects.images, run.settings.extract
    shards = cut_images(np.unique(images), run.plan.batch(extract), extract.images_per_shard)
    batches = [pixels[np.isin(images, shard.images)] for shard in shards]
    with torch.inference_mode():
        sides = [
            [network(preprocessor.normalise(np.ascontiguousarray(one[:, :, ::step])))[1] for one in batches]
            for step in (1, -1)
        ]
    layers = [[torch.cat([one[at] for one in side]).half().float() for side in sides] for at in range(len(LAYERS))]
    spread = [UnitMoments.from_batch(torch.cat(both)).deviations() for both in layers]
    both = [[responses(one, deviations) for one in some] for some, deviations in zip(layers, spread, strict=True)]
    signs = face_one_way(facing_gram(*both[1])).signs
    return [torch.where((signs > 0)[:, None, None, None], one, other) for one, other in both], signs


def test_objects_are_keyed_by_image_and_box(root: Path, files: PatternFiles) -> None:
    turned = files.objects()
    labels = ImageColumns.read(RunFolder.open(root), 0, open_run(root).plan.images).label
    assert set(labels[turned.objects.images]) == {3}
    assert len(turned.objects) == 19
    assert len(np.unique(turned.objects.images)) == 14
    rows = read_table(root / "pattern_objects.parquet")
    assert rows["object"].to_pylist() == list(range(19))
    assert rows["mirrored"].to_pylist() == (turned.signs < 0).tolist()
    assert {"head", "foot"} == set(turned.objects.parts)
    assert files.attributes()["class_name"] == CLASS


def test_facing_is_that_of_the_arrays(
    files: PatternFiles, turned_maps: tuple[list[torch.Tensor], torch.Tensor]
) -> None:
    assert files.objects().signs.tolist() == turned_maps[1].tolist()


@pytest.mark.parametrize("top", ["anchored", "free"])
def test_patterns_and_places_are_those_of_the_arrays(
    top: Any, files: PatternFiles, turned_maps: tuple[list[torch.Tensor], torch.Tensor]
) -> None:
    """All units at once in memory, or seven at a time in actors."""
    upper, maps = None, turned_maps[0]
    for place in (2, 1, 0):
        layer = files.layers()[place]
        free = top == "free"
        settings = PatternSettings(layer.patterns, 1 if free else PARENTS, ITERATIONS, rigid=free)
        if free and place == 2:
            settings = PatternSettings.free_top(ITERATIONS)
        fit = fit_patterns(maps[place], layer.grid, settings, unit_seeds(0, layer.name, layer.units), upper)
        found = infer_places(maps[place], layer.grid, fit.layer, upper)
        assert files.fit(top, layer.name) == fit
        assert files.places(top, layer.name) == found
        chosen = best_candidates(found.scores.double().sum(dim=0))
        upper = UpperPlaces.of(fit.layer, chosen, displacements(found.places, fit.layer, chosen))


def test_likelihoods_never_fall(files: PatternFiles) -> None:
    for top in ("anchored", "free"):
        for layer in files.layers():
            steps = files.fit(top, layer.name).likelihood  # type: ignore[arg-type]
            assert bool((steps.diff(dim=1) >= -1e-6 * steps[:, :-1].abs()).all())


def test_tables_say_what_the_arrays_say(root: Path, files: PatternFiles) -> None:
    layer = files.layers()[0]
    found, patterns = files.places("anchored", layer.name), files.patterns("anchored", layer.name)
    rows = read_table(root / "patterns.parquet", filters=[("top", "=", "anchored"), ("layer", "=", layer.name)])
    assert len(rows) == layer.units * 4
    assert rows["y"].to_numpy() == pytest.approx(patterns.means[..., 0].flatten().numpy())
    assert rows["score"].to_numpy() == pytest.approx(found.scores.double().mean(dim=0).numpy())
    valid = valid_patterns(found.scores)
    assert rows["objects"].to_pylist() == valid.sum(dim=0).tolist()
    places = read_table(root / "pattern_places.parquet", filters=[("top", "=", "anchored"), ("layer", "=", layer.name)])
    assert len(places) == int(valid.sum())
    one = places.slice(5, 1).to_pylist()[0]
    number = one["unit"] * 4 + one["pattern"]
    assert [one["y"], one["x"]] == found.places[one["object"], number].tolist()


def test_edges_tell_how_far_a_pattern_lies_from_its_parents(root: Path, files: PatternFiles) -> None:
    lower, upper = (files.places("anchored", layer.name).places.double() for layer in files.layers()[:2])
    rows = read_table(root / "pattern_edges.parquet", filters=[("top", "=", "anchored"), ("layer", "=", NAMES[0])])
    assert len(rows)
    shares: dict[tuple[int, int], float] = {}
    for row in rows.to_pylist()[::7]:
        away = lower[:, row["unit"] * 4 + row["pattern"]] - upper[:, row["parent_unit"] * 3 + row["parent_pattern"]]
        away = away[~away.isnan().any(dim=1)]
        assert [row["dy"], row["dx"]] == pytest.approx(away.mean(dim=0).tolist(), abs=1e-6)
        assert row["sd"] == pytest.approx(float(away.var(dim=0, correction=0).sum().sqrt()), abs=1e-6)
    for row in rows.to_pylist():
        key = (row["unit"], row["pattern"])
        shares[key] = shares.get(key, 0.0) + row["weight"]
    assert list(shares.values()) == pytest.approx([1.0] * len(shares), abs=1e-6)
    assert files.patterns("free", NAMES[0]).parents.shape[-1] == 1


def test_peaks_and_measures_are_there(
    root: Path, files: PatternFiles, turned_maps: tuple[list[torch.Tensor], torch.Tensor]
) -> None:
    peaks = raw_peaks(turned_maps[0][2], files.layers()[2].grid)
    assert files.peaks(NAMES[2]) == peaks
    rows = read_table(root / "pattern_measures.parquet").to_pylist()
    assert {(row["source"], row["top"]) for row in rows if row["layer"] == NAMES[0]} == {
        ("peaks", None), ("maps", None), *((name, top) for name in ("patterns", "constant", "centre")
                                           for top in ("anchored", "free"))}  # fmt: skip
    near = {(row["source"], row["top"], row["part"]) for row in rows if row["part"]}
    assert near == {(source, top, part) for part in ("head", "foot")
                    for source, top in (("peaks", None), ("patterns", "anchored"), ("patterns", "free"))}  # fmt: skip
    for row in rows:
        if row["source"] != "maps" and not row["part"]:
            assert 0 < row["stability_low"] < row["stability"] < row["stability_high"] < 1
        assert row["source"] not in ("constant", "centre") or row["follow"] == 1
        assert row["purity"] is None or 0 <= row["purity"] <= 1


def test_it_is_answered_and_told_in_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["status", str(root), "--json"]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)["studies"]}
    assert told["patterns"]["state"] == "done"
    boxes = root.parent / "run-boxes.csv"
    same = ["--top", "anchored", "--top", "free", "--layers", ",".join(LAYERS), "--parents", "3", "--iterations", "6"]
    assert command(["patterns", str(root), "--objects", str(boxes), "--class", CLASS, *same, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["classes"][0]
    assert found["objects"] == 19
    assert found["largest_fall_of_a_likelihood"] <= 1e-6
    assert set(found["part_on_one_side"]) == {"head", "foot"}
    kinds = [f"{what}-{top}" for what in ("patches", "split", "objects", "graph") for top in ("anchored", "free")]
    drawn = {f"patterns-{name}-3.{ending}" for name in ("turned", *kinds) for ending in ("png", "svg")}
    assert {path.name for path in (root / "figures").glob("patterns-*")} == drawn


@pytest.mark.slow  # the whole study again
def test_stopped_in_the_middle_it_goes_on(
    root: Path, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other blocks, and no block twice; the same bits come out."""
    other = shutil.copytree(digits_run, tmp_path / "other")
    boxes = root.parent / "run-boxes.csv"
    monkeypatch.setattr(learning, "BLOCK_UNITS", 13)
    done: list[str] = []
    noted = StudyContext.finished

    def stopping(study: StudyContext, item: Any, record: dict[str, Any]) -> None:
        noted(study, item, record)
        done.append(str(item))
        if NAMES[1] in str(item) and len(done) > 14:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StudyContext, "finished", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_patterns(asked(other), request(boxes))
    before = set(done)
    done.clear()
    patch_again = lambda study, item, record: (noted(study, item, record), done.append(str(item)))  # noqa: E731
    monkeypatch.setattr(StudyContext, "finished", patch_again)
    run_patterns(asked(other), request(boxes))
    assert not before & set(done), "what was done is never done again"
    one, two = (PatternFiles.of(RunFolder.open(folder), 3) for folder in (root, other))
    for top in ("anchored", "free"):
        for name in NAMES:
            assert one.fit(top, name) == two.fit(top, name)  # type: ignore[arg-type]
            assert one.places(top, name) == two.places(top, name)  # type: ignore[arg-type]
    assert not (other / "patterns" / "parts").exists()


@pytest.fixture
def untouched(digits_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digits_run, tmp_path / "run")


def test_bad_requests_are_refused_before_anything_runs(untouched: Path) -> None:
    lines = digit_lines(untouched, 3)
    boxes = write_boxes(untouched, lines + digit_lines(untouched, 5, 4))

    def refused(kind: type[Exception], words: str, **changes: Any) -> None:
        with pytest.raises(kind, match=words):
            run_patterns(asked(untouched), request(boxes, **changes))
        assert not (untouched / "patterns").exists()

    refused(
        DataError,
        r"--class: must be a class with photos in the file of --objects, got '7'.*are of 3, 5",
        classes=("7",),
    )
    refused(DataError, r"must have at least 10 objects .* got 6 of '5'; add boxes", classes=("5",))
    refused(DataError, "there is no class 'nine'", classes=("nine",))
    refused(RefusedInput, "layers: must get coarser upwards, got 8 x 8 at layer 0 below 16 x 16",
            layers=("layer2.0.conv2:3", "layer1.0.conv2:3"))  # fmt: skip
    refused(NetworkError, "--layers: must be a layer of the network", layers=("layer9.conv1:3",))
    refused(SettingsError, r"--layers: must be NAME:N with N patterns a unit, 1 to 16", layers=("layer3.0.conv2:17",))
    refused(SettingsError, "--layers: must be NAME:N", layers=("layer3.0.conv2",))
    refused(SettingsError, "--top: must be anchored or free, got 'loose'", tops=("loose",))
    refused(SettingsError, "--class: must name a class", classes=())
    refused(SettingsError, "--iterations: must be at least 1, got 0", iterations=0)
    boxes = write_boxes(untouched, [*lines, lines[0].replace("0,0,32,32", "0,0,90,32")])
    refused(DataError, "reaches out of the photo")
    boxes = write_boxes(untouched, [f"{line.split(',')[0]},,3,3,8,8,,,," for line in lines])
    refused(DataError, r"at least 10 objects .* got 0 of '3', for 14 are smaller than a cell of layer3")


def test_small_objects_are_left_out_and_told(untouched: Path) -> None:
    lines = digit_lines(untouched, 3)
    boxes = write_boxes(untouched, [*lines, lines[0].split(",")[0] + ",,1,1,6,30,,,,"])
    how = asked(untouched)
    few = {"layers": ("layer3.0.conv2:2",), "tops": ("anchored",), "iterations": 2, "mirror": "off", "learn": "even"}
    found = run_patterns(how, request(boxes, **few))["classes"][0]
    assert "1 of 20 objects are smaller than a cell of layer3.0.conv2: left out" in told(how)
    assert found["objects"] == 19
    assert 0 < found["learned"] < 19
    assert found["mirrored"] == 0
    measures = read_table(untouched / "pattern_measures.parquet")
    assert set(measures["objects"].to_pylist()) == {19 - found["learned"]}, "judged on the others"
    assert read_table(untouched / "pattern_objects.parquet")["margin"].null_count == 19


def layer(name: str, units: int, side: int) -> UnitLayer:
    return UnitLayer(name, 0, units, side, side, True, False)


def test_layers_are_those_of_the_paper() -> None:
    shapes = [(64, 56), (128, 28), (128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (2048, 7)]
    residual = [layer(f"c{place}", *shape) for place, shape in enumerate(shapes)]
    assert [(one.name, n) for one, n in default_layers(residual, (224, 224))] == [("c2", 40), ("c4", 20), ("c6", 10)]
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    vgg = [layer(f"c{place}", units, 28) for place, units in enumerate(widths, 1)]
    assert [(one.name, n) for one, n in default_layers(vgg, (224, 224))] == [
        ("c9", 40), ("c10", 40), ("c12", 20), ("c13", 20)]  # fmt: skip
    other = [layer(f"c{place}", 8, side) for place, side in enumerate((32, 32, 16, 16, 8, 4), 1)]
    assert [(one.name, n) for one, n in default_layers(other, (64, 64))] == [("c2", 40), ("c4", 20), ("c6", 4)]
    with pytest.raises(SettingsError, match="must have a convolution with several positions"):
        default_layers([layer("c1", 8, 1)], (64, 64))


def test_places_come_in_rows(files: PatternFiles) -> None:
    whole = files.places("free", NAMES[0])
    some = files.places("free", NAMES[0], slice(3, 9))
    assert some == PatternPlaces(whole.places[3:9], whole.scores[3:9])


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(root: Path, untouched: Path, tmp_path: Path) -> None:
    """SIGKILL amid the blocks of a layer; the same command ends with the same bits, and fits no block twice."""
    boxes = root.parent / "run-boxes.csv"
    arguments = ["patterns", str(untouched), "--objects", str(boxes), "--class", CLASS, "--parents", str(PARENTS)]
    arguments += ["--top", "anchored", "--layers", ",".join(LAYERS), "--iterations", str(ITERATIONS)]
    own = Ledger(untouched / "patterns" / "ledger.jsonl")

    def blocks() -> set[str]:
        return {str(item) for item in own.content().items if "conv2" in str(item)}

    killed = Driver(arguments, tmp_path / "killed.log")
    try:
        killed.wait_until(lambda: len(blocks()) >= 3, "three blocks of units are done")
        killed.kill()
    finally:
        killed.reap()
    before = blocks()
    again = Driver(arguments, tmp_path / "again.log")
    try:
        assert again.finish() == 0, again.output()
    finally:
        again.reap()
    lines = [json.loads(line) for line in own.path.read_text().splitlines()]
    written = [line["item"] for line in lines if line.get("item") in before]
    assert len(written) == len(before), "each once"
    one, two = (PatternFiles.of(RunFolder.open(folder), 3) for folder in (root, untouched))
    assert all(one.fit("anchored", name) == two.fit("anchored", name) for name in NAMES)
    assert all(one.places("anchored", name) == two.places("anchored", name) for name in NAMES)


@pytest.mark.slow
def test_tigers_stand_more_steadily_than_raw_peaks(shared_data: Path, build_once: BuildOnce, local_ray: object) -> None:
    """ResNet-50, 40 photos of tigers; the whole class is measured in infra/docs/patterns.md."""
    changes = ["data.labels=none", "mine.images=[]", "fit.scopes=['joint']", "fit.lists=[]", "fit.loss=generative"]
    changes += [f"data.folders=['{shared_data / 'imagenet_animals'}']", "fit.words=20"]

    def run(folder: Path) -> None:
        fields = [part for change in changes for part in ("--set", change)]
        assert command(["run", "animals_resnet50", "--out", str(folder), "--until", "extract", *fields]) == 0

    whole = build_once("animals", run)
    boxes = shared_data / "imagenet_animals" / "parts.csv"
    how = ["--class", "tiger", "--images", "40", "--name", "part01=head", "--name", "part02=legs"]
    assert command(["patterns", str(whole), "--objects", str(boxes), *how]) == 0
    rows = read_table(whole / "pattern_measures.parquet").to_pylist()
    found = {(row["layer"], row["source"]): row for row in rows if row["part"] is None}
    for layer in dict.fromkeys(row["layer"] for row in rows):
        assert found[layer, "patterns"]["stability"] < 0.7 * found[layer, "peaks"]["stability"]
        assert found[layer, "patterns"]["follow"] < found[layer, "peaks"]["follow"]

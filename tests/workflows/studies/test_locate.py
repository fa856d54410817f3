"""Parts of the small digits run found by votes, against the same arrays in memory; refusals."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from gmm_ops.explanatory.and_or_graph import (
    locate_by_places,
    locate_by_words,
    place_templates,
    strengths,
    vote_map,
    voted_place,
    word_templates,
    word_votes,
)
from gmm_ops.explanatory.pattern_places import PatternPlaces
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.online_em import fit_online
from tests.end_to_end.small_digits import command
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, TurnedObjects
from workflows.asking.registry import STUDIES
from workflows.asking.study import Asked
from workflows.data.boxes import match_images, read_boxes
from workflows.data.network_inputs import ObjectInputs
from workflows.data.objects import boxed_objects
from workflows.data.preprocessing import Preprocessor
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.run import open_run
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder, StudyRecord
from workflows.storage.tables import read_table
from workflows.studies.locate.command import run_locate
from workflows.studies.locate.crop_words import AskedDictionary, asked_dictionaries, object_dictionaries
from workflows.studies.locate.request import LocateRequest, part_middles
from workflows.studies.locate.voters import together

pytestmark = pytest.mark.slow

EDGES = ",".join(f"{what}_{edge}" for what in ("obj", "part") for edge in ("x0", "y0", "x1", "y1"))
LAYERS = (
    PatternedLayer("layer2.0.conv2", 16, 3, PositionGrid(16, 16, (0.03, 0.03), (0.06, 0.06))),
    PatternedLayer("layer3.0.conv2", 24, 2, PositionGrid(8, 8, (0.06, 0.06), (0.12, 0.12))),
)
CLASS, TRIPLES = "3", 3


def object_lines(run: Path) -> list[str]:
    """Whole digits, on every third a smaller box too, a head whose place differs; three have a foot, two a tail."""
    table = read_table(run / "images.parquet", ["path", "label", "status"]).to_pylist()
    lines = []
    for place, path in enumerate([row["path"] for row in table if row["label"] == 3 and row["status"] == "ok"][:14]):
        shift = place % 5
        lines.append(f"{path},head,0,0,32,32,{shift + 4},2,{shift + 16},12")
        lines += [f"{path},foot,0,0,32,32,6,{20 + shift},20,31"] if place < 3 else []
        lines += [f"{path},tail,0,0,32,32,2,2,8,8"] if place < 2 else []
        lines += [f"{path},,4,{shift},30,32,,,,"] if place % 3 == 0 else []
    return lines


def write_boxes(run: Path) -> Path:
    boxes = run.parent / "boxes.csv"
    boxes.write_text("\n".join([f"image,part,{EDGES}", *object_lines(run)]) + "\n")
    return boxes


def asked(root: Path, **how: Any) -> Asked:
    return Asked(root, Console(file=io.StringIO(), width=200), **how)


def request(**changes: Any) -> LocateRequest:
    return LocateRequest(**({"class_name": CLASS, "part": "head", "triples": TRIPLES} | changes))


@pytest.fixture(scope="module")
def root(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with what patterns keeps of threes: drawn places near the head, learned on every second photo."""
    root = shutil.copytree(digits_run, tmp_path_factory.mktemp("locate") / "run")
    lines = read_boxes(write_boxes(root), {})
    paths = read_table(root / "images.parquet", ["path"])["path"].to_pylist()
    rows = match_images(lines, paths)
    objects = boxed_objects(rows, dict.fromkeys(rows, (32, 32)))
    signs = np.where(np.arange(len(objects)) % 3, 1, -1)
    learned = np.unique(objects.images, return_inverse=True)[1] % 2 == 0
    turned = TurnedObjects(objects, signs, np.ones(len(objects)), learned)
    files = PatternFiles.of(RunFolder.open(root), 3)
    files.write_objects(turned, LAYERS, tops=["anchored"], class_name="3")
    heads, generator = part_middles(turned, "head"), np.random.default_rng(0)
    for layer in LAYERS:
        for count in (layer.patterns, 1):
            shape = len(objects), layer.units * count
            places = np.nan_to_num(heads, nan=0.5)[:, None] + generator.normal(0, 0.15, (*shape, 2))
            scores = generator.gamma(2, 1, shape) * (generator.random(shape) < 0.9)
            places[scores == 0] = np.nan
            found = PatternPlaces(torch.from_numpy(places).float(), torch.from_numpy(scores).float())
            if count == 1:
                files.write_peaks(layer.name, found)
            else:
                files.create_places("anchored", layer.name, *shape)
                files.write_places("anchored", layer.name, 0, found)
    return root


@pytest.fixture(scope="module")
def files(root: Path) -> PatternFiles:
    return PatternFiles.of(RunFolder.open(root), 3)


@pytest.fixture(scope="module")
def summary(root: Path) -> dict[str, Any]:
    """All voters, asked once."""
    return run_locate(asked(root), request(voters=("patterns", "peaks", "words"), layers=("add1", "add2")))


def rows_of(root: Path, table: str, **equal: Any) -> list[dict[str, Any]]:
    rows = read_table(root / f"{table}.parquet").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in equal.items())]


def annotated_sets(root: Path) -> list[list[int]]:
    found = [rows_of(root, "locations", triple=triple, method="centre") for triple in range(TRIPLES)]
    return [[row["object"] for row in some if row["annotated"]] for some in found]


def test_places_vote_as_in_memory(root: Path, files: PatternFiles, summary: dict[str, Any]) -> None:
    turned = files.objects()
    parts = torch.from_numpy(part_middles(turned, "head"))
    learned = torch.from_numpy(turned.learned)
    for method, read in (("patterns", lambda name: files.places("anchored", name)), ("peaks", files.peaks)):
        found = [read(layer.name) for layer in files.layers()]
        places, scores = torch.cat([one.places for one in found], 1), torch.cat([one.scores for one in found], 1)
        strength = strengths(scores, scores[learned].double().mean(dim=0))
        for triple, rows in enumerate(annotated_sets(root)):
            templates = place_templates(places[rows], strength[rows], parts[rows])
            expected = locate_by_places(templates, places, strength).numpy()
            photo = turned.objects.on_photo(np.arange(len(parts)), expected, turned.signs)
            stored = rows_of(root, "locations", triple=triple, method=method)
            assert np.array([[row["y"], row["x"]] for row in stored]) == pytest.approx(photo)
            told = rows_of(root, "templates", triple=triple, method=method)
            assert [row["object"] for row in told] == [row for row, one in zip(rows, templates, strict=True)
                                                       for _ in one.voters]  # fmt: skip
            assert {row["object"]: 1.0 for row in told} == pytest.approx(_weights(told))
            first = told[0]
            layer = next(one for one in files.layers() if one.name == first["layer"])
            count = layer.patterns if method == "patterns" else 1
            number = _first_of(files, layer.name, method) + first["unit"] * count + (first["pattern"] or 0)
            assert number == int(templates[0].voters[0])


def _weights(rows: list[dict[str, Any]]) -> dict[int, float]:
    found: dict[int, float] = {}
    for row in rows:
        found[row["object"]] = found.get(row["object"], 0.0) + row["weight"]
    return found


def _first_of(files: PatternFiles, name: str, method: str) -> int:
    first = 0
    for layer in files.layers():
        if layer.name == name:
            return first
        first += layer.units * (layer.patterns if method == "patterns" else 1)
    raise AssertionError(name)


def turned_columns(root: Path, files: PatternFiles, name: str) -> Tensor:
    """(n, H, W, D) of the turned objects, in memory."""
    run, turned = open_run(root), files.objects()
    assert (turned.signs < 0).any(), "a mirrored object makes a difference"
    crops = list(ObjectInputs(run.settings, run.folder, (32, 32)).crops(turned.objects))
    pixels = np.stack([crop[:, ::-1] if sign < 0 else crop for crop, sign in zip(crops, turned.signs, strict=True)])
    network = load_network(run.settings.network.model_copy(update={"weights": run.plan.weights}))
    with torch.inference_mode():
        tapped = TappedNetwork(network, [name], rewriting=run.plan.rewriting)
        maps = tapped(Preprocessor(run.settings.preprocessing).normalise(pixels))[1][name]
    return maps.permute(0, 2, 3, 1).half().float()


def words_vote_as_in_memory(root: Path, files: PatternFiles, dictionaries: Sequence[AskedDictionary]) -> None:
    """Each dictionary alone, and all together."""
    turned = files.objects()
    parts = torch.from_numpy(part_middles(turned, "head"))
    columns = {one.layer.name: turned_columns(root, files, one.layer.name) for one in dictionaries}
    maps = [_word_maps(columns[one.layer.name], one) for one in dictionaries]
    for triple, rows in enumerate(annotated_sets(root)):
        templates = []
        for one, words in zip(dictionaries, maps, strict=True):
            counts = torch.bincount(words[torch.from_numpy(turned.learned)].flatten(), minlength=one.words)
            frequencies = counts.double() / counts.sum()
            templates.append(word_templates(words[rows], one.grid, parts[rows], frequencies))
            expected = locate_by_words(templates[-1], words, one.grid).numpy()
            stored = rows_of(root, "locations", triple=triple, method="words", voters=one.name)
            assert _share_alike(stored, expected, turned) > 0.9, "a network's last bits depend on its batch"
        voters = list(zip(dictionaries, maps, templates, strict=True))
        every = [
            [word_votes(part, words[row], one.grid) for one, words, some in voters for part in some]
            for row in range(len(parts))
        ]
        expected = torch.stack([voted_place(vote_map(some)) for some in every]).numpy()
        stored = rows_of(root, "locations", triple=triple, method="words", voters=together(dictionaries).voters)
        assert _share_alike(stored, expected, turned) > 0.9


def _word_maps(columns: Tensor, dictionary: AskedDictionary) -> Tensor:
    return assign(load_mixture(dictionary.path), columns.flatten(0, 2)).word.reshape(columns.shape[:3])


def _share_alike(stored: list[dict[str, Any]], expected: np.ndarray, turned: TurnedObjects) -> float:
    photo = turned.objects.on_photo(np.arange(len(expected)), expected, turned.signs)
    return float(np.isclose([[row["y"], row["x"]] for row in stored], photo, atol=1e-6).all(axis=1).mean())


def test_words_are_those_of_the_turned_objects(root: Path, files: PatternFiles, summary: dict[str, Any]) -> None:
    words_vote_as_in_memory(root, files, asked_dictionaries(open_run(root), 3, ("add1", "add2"), None))


def test_dictionaries_are_learned_from_the_objects(root: Path, files: PatternFiles, tmp_path: Path) -> None:
    """Of those that are learned from alone; asked again, nothing is learned again."""
    own = shutil.copytree(root, tmp_path / "run")
    asking = request(voters=("words",), words=(5, 3), layers=("add2",))
    run_locate(asked(own), asking)
    dictionaries = object_dictionaries(open_run(own), 3, ("add2",), (5, 3))
    words_vote_as_in_memory(own, files, dictionaries)
    assert together(dictionaries).voters == "objects, add2, K 5 + 3"
    learned = files.objects().learned
    columns = turned_columns(own, files, dictionaries[0].layer.name)[torch.from_numpy(learned)]
    order = [np.random.default_rng([open_run(own).settings.seed, row]).permutation(columns[0, ..., 0].numel())
             for row in np.flatnonzero(learned)]  # fmt: skip
    flat = torch.cat([some.flatten(0, 1)[np.sort(rows)] for some, rows in zip(columns, order, strict=True)])
    for one in dictionaries:
        expected = fit_online(flat, one.words, open_run(own).settings.seed).mixture
        assert torch.allclose(load_mixture(one.path).mean, expected.mean, atol=2e-2)
    assert {row["word"] for row in rows_of(own, "templates", voters=dictionaries[1].name)} <= {0, 1, 2}
    written = dictionaries[0].path.stat().st_mtime_ns
    run_locate(asked(own), asking)
    assert dictionaries[0].path.stat().st_mtime_ns == written


def test_errors_are_of_objects_that_nothing_was_learned_from(
    root: Path, files: PatternFiles, summary: dict[str, Any]
) -> None:
    turned = files.objects()
    learned = set(np.flatnonzero(turned.learned).tolist())
    for row in rows_of(root, "locations"):
        assert not (row["annotated"] and row["tested"])
        assert row["object"] in learned or not row["annotated"]
        assert row["object"] not in learned or not row["tested"]
        assert (row["true_y"] is None) == (row["error"] is None)
        if row["error"] is not None:
            diagonal = np.linalg.norm(turned.objects.sizes[row["object"]])
            away = np.hypot(row["y"] - row["true_y"], row["x"] - row["true_x"])
            assert row["error"] == pytest.approx(away / diagonal)
    for row in rows_of(root, "location_errors"):
        key = {name: row[name] for name in ("triple", "method", "voters")}
        own = [one["error"] for one in rows_of(root, "locations", tested=True, **key)]
        assert row["learn"] == "even"
        assert (row["objects"], row["distance"]) == (len(own), pytest.approx(np.mean(own)))
        assert row["near"] == pytest.approx(np.mean(np.array(own) <= 0.1))
    methods = [(one["method"], one["sets"]) for one in summary["errors"]]
    assert sorted(methods) == [
        (name, 3) for name in ("centre", "linear", "mean", "patterns", "peaks", "words", "words", "words")
    ]
    assert len(summary["figures"]) == 4


def test_the_query_of_the_page_runs(root: Path, summary: dict[str, Any]) -> None:
    page = Path(__file__).parents[3] / "infra/docs/locate.md"
    [query] = re.findall(r"```sql\n(.*?);\n```", page.read_text(encoding="utf-8"), re.DOTALL)
    rows = duckdb.sql(query.replace("runs/animals-resnet50", str(root)).replace("292", CLASS)).fetchall()
    assert [row[2] for row in rows] == [one["method"] for one in summary["errors"]]
    assert [row[4] for row in rows] == pytest.approx([one["distance"] for one in summary["errors"]])


def test_controls_stand_where_they_should(root: Path, files: PatternFiles, summary: dict[str, Any]) -> None:
    turned = files.objects()
    parts = part_middles(turned, "head")
    objects = np.arange(len(parts))
    for triple, rows in enumerate(annotated_sets(root)):
        for method, place in (("centre", np.array([0.5, 0.5])), ("mean", parts[rows].mean(axis=0))):
            photo = turned.objects.on_photo(objects, np.tile(place, (len(parts), 1)), turned.signs)
            stored = rows_of(root, "locations", triple=triple, method=method)
            assert np.array([[row["y"], row["x"]] for row in stored]) == pytest.approx(photo)
        linear = rows_of(root, "locations", triple=triple, method="linear", annotated=True)
        assert max(row["error"] for row in linear) < 0.02, "the three are met"
        assert {row["votes"] for row in linear} == {None}


def annotation_file(folder: Path, lines: list[str], head: str = "image,y,x") -> Path:
    path = folder / "places.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_three_places_in_a_file_are_enough(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a part without boxes: predictions, no errors."""
    own = shutil.copytree(root, tmp_path / "run")
    photos = [line.split(",")[0] for line in object_lines(root)]
    some = list(dict.fromkeys(photos))
    path = annotation_file(tmp_path, [f"{some[1]},10,12", f"{some[2]},11,13", f"{some[4]},9,11"])
    capsys.readouterr()
    arguments = ["--class", CLASS, "--part", "nose", "--annotations", str(path), "--voters", "peaks", "--json"]
    assert command(["locate", str(own), *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == []
    rows = rows_of(own, "locations", part="nose", method="peaks")
    marked = {row["object"]: (row["y"], row["x"]) for row in rows if row["annotated"]}
    assert len(marked) == 3
    assert len(rows) == 19
    assert all(row["error"] is None and not row["tested"] for row in rows)
    assert not rows_of(own, "location_errors", part="nose")
    assert any("votes-3-nose" in one for one in told["figures"])
    assert command(["locate", str(own), *arguments]) == 0
    assert "answered this before" in capsys.readouterr().err


def test_what_cannot_be_is_refused(root: Path, tmp_path: Path, files: PatternFiles) -> None:
    photos = list(dict.fromkeys(line.split(",")[0] for line in object_lines(root)))
    twice, once = photos[0], photos[1]

    def refused(kind: type[Exception], told: str, *lines: str, head: str = "image,y,x", **changes: Any) -> None:
        if lines:
            changes["annotations"] = annotation_file(tmp_path, list(lines), head)
        with pytest.raises(kind, match=told):
            run_locate(asked(root), request(**changes))

    refused(DataError, r"--part: must be a part that an object of '3' has, got 'wing'; its boxes name head, foot, tail",
            part="wing")  # fmt: skip
    refused(DataError, r"must have 3 objects with the part 'tail' to draw from, got 1 that", part="tail")
    refused(DataError, r"must be of at least 3 objects, got 2; annotate", f"{once},9,9", f"{photos[2]},9,9")
    refused(DataError, r"line 2: the place must lie on its object, got y 40, x 9; the photo has object \d+: x 0 to 32",
            f"{once},40,9")  # fmt: skip
    refused(DataError, "line 2: the place must lie on one object, got several; add a column object", f"{twice},9,9")
    refused(DataError, "line 2: the place must lie on object 19", f"{twice},9,9,19", head="image,y,x,object")
    refused(DataError, "line 3: each object must be annotated once", f"{once},9,9", f"{once},9,8")
    refused(DataError, "line 2: y, x and object must be numbers, got 'up', '9', ''", f"{once},up,9")
    refused(DataError, "no column y, x; it needs image, y, x", once, head="image")
    refused(DataError, "there is no such file", annotations=tmp_path / "none.csv")
    refused(RunFolderError, "must have the patterns of class '5', got a run that was not asked for them; give first: "
            "inference-graphs patterns", class_name="5")  # fmt: skip
    refused(DataError, "--class: there is no class 'nine'", class_name="nine")
    refused(DataError, "--top: must be one that patterns was asked for, got 'free'; there is anchored", top="free")
    refused(SettingsError, "--layer: must be a layer whose words the run has, got 'add9'", voters=("words",),
            layers=("add9",))  # fmt: skip
    refused(DataError, "--scope: must be one of joint, got 'class-3'", voters=("words",), scope="class-3")
    refused(SettingsError, "--layer: must be a layer with patterns, got 'add1'; there is layer2", layers=("add1",))
    refused(SettingsError, "--scope: must go with --voters words, got patterns, peaks", scope="joint")
    refused(SettingsError, "--words: must go with --voters words, got patterns, peaks", words=(5,))
    refused(SettingsError, "--words: must be left out with --scope", voters=("words",), words=(5,), scope="joint")
    refused(SettingsError, "--words: must be different numbers of at least 2, got 5, 5", voters=("words",),
            words=(5, 5))  # fmt: skip
    refused(SettingsError, "--voters: must be patterns, peaks, words, got 'sums'", voters=("sums",))
    refused(SettingsError, "--triples: must be at least 1, got 0", triples=0)


def test_words_without_a_dictionary_are_refused(root: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(root, tmp_path / "run")
    [dictionary] = asked_dictionaries(open_run(bare), 3, ("add2",), None)
    dictionary.path.unlink()
    with pytest.raises(
        RunFolderError, match=r"--voters words: must have the dictionary .* give the command of the run"
    ):
        run_locate(asked(bare), request(voters=("words",), layers=("add2",)))


def test_unfinished_patterns_are_refused(root: Path, tmp_path: Path) -> None:
    half = shutil.copytree(root, tmp_path / "run")
    study = StudyFolder(RunFolder.open(half), STUDIES["patterns"])
    study.ask(StudyRecord({}))
    study.ledger.begin("some", 3)
    with pytest.raises(RunFolderError, match="locate: must have finished patterns, got partial ones; give again"):
        run_locate(asked(half), request())


@pytest.mark.slow
def test_what_patterns_keeps_is_enough(digits_run: Path, tmp_path: Path) -> None:
    """Both studies one after the other, on a free top; then with patterns of the other half."""
    own = shutil.copytree(digits_run, tmp_path / "run")
    arguments = ["--objects", str(write_boxes(own)), "--class", CLASS, "--layers", "layer2.0.conv2:3,layer3.0.conv2:2"]
    for learn in ("even", "odd"):
        told = [*arguments, "--learn", learn, "--top", "free", "--iterations", "2", "--parents", "2"]
        assert command(["patterns", str(own), *told]) == 0
        assert command(["locate", str(own), "--class", CLASS, "--part", "head", "--triples", "2"]) == 0
        rows = rows_of(own, "location_errors", method="patterns")
        assert [(row["learn"], row["triple"], row["voters"]) for row in rows] == [
            (learn, 0, "free"),
            (learn, 1, "free"),
        ]
    patterns = {(row["layer"], row["unit"], row["pattern"]) for row in rows_of(own, "patterns")}
    voting = {(row["layer"], row["unit"], row["pattern"]) for row in rows_of(own, "templates", method="patterns")}
    assert voting
    assert voting <= patterns

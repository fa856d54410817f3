"""``inference-graphs parts``: shares of the words' positions on objects and heads, against slow loops and by words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.references.boxes import covered_share, in_any, point_in_photo
from tests.workflows.studies.made_boxes import (
    BROKEN,
    CLASSES,
    CROP,
    IMAGES,
    LABELS,
    PREDICTED,
    RESIZE,
    SCOPE,
    TRAIN,
    Line,
    boxes_of,
    exemplars,
    layers,
    make,
    nodes,
    write_boxes,
    write_photos,
)
from workflows.data.boxes import part_names
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.run import open_run
from workflows.storage.arrays import read_rows
from workflows.storage.run_folder import RunFolder
from workflows.storage.schemas import SCHEMAS
from workflows.storage.tables import read_table, write_table
from workflows.studies.boxes.command import run_boxes
from workflows.studies.boxes.shares import Sighting, share_row
from workflows.words.word_maps import words_path

Key = tuple[str, str, int | None, str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder]:
    root = tmp_path_factory.mktemp("boxes")
    return root, make(root)


@pytest.fixture(scope="module")
def table(made: tuple[Path, RunFolder]) -> list[dict[str, Any]]:
    root, folder = made
    path = write_boxes(root / "boxes.csv", boxes_of(write_photos(root)))
    run_boxes(folder.root, path, {"part01": "head"}, Console(quiet=True))
    found = read_table(folder.table("boxes"))
    assert found.schema.equals(SCHEMAS["boxes"])
    return list(found.to_pylist())


class SlowParts:
    """The same table by loops over positions, every one carried back to its photo file."""

    def __init__(self, folder: RunFolder, lines: list[Line], sizes: list[tuple[int, int]]) -> None:
        self.folder, self.sizes = folder, sizes
        self.boxes: dict[tuple[int, str], list[Any]] = {}
        for name, _, whole, head in lines:
            image = int(name.split("/")[1].removesuffix(".png"))
            self.boxes.setdefault((image, "object"), []).append(whole)
            if head is not None:
                self.boxes.setdefault((image, "head"), []).append(head)
        self.area = lru_cache(maxsize=None)(self._area)

    def _area(self, image: int, part: str) -> float:
        return covered_share(self.boxes[image, part], self.sizes[image], RESIZE, CROP, (CROP, CROP), 2)

    def rows(self) -> dict[Key, dict[str, Any]]:
        found = {}
        for layer in layers()[:3]:
            for graph, words in (("class:0", (0, 1)), ("class:1", (1, 2))):
                for source in ("exemplars", "validation"):
                    for part in ("object", "head"):
                        key = (graph, layer.name, source, part)
                        seen = [list(self.sightings(graph, layer, word, source, part)) for word in words]
                        for word, own in zip((*words, None), (*seen, seen[0] + seen[1]), strict=True):
                            found[graph, layer.name, word, key[2], key[3]] = share_row(own)
        return found

    def sightings(self, graph: str, layer: Any, word: int, source: str, part: str) -> Iterator[Sighting]:
        if source == "exemplars":
            rows = [row for row in exemplars() if (row["layer"], row["word"]) == (layer.name, word)]
            places = [(row["image"], [(row["y"], row["x"])]) for row in rows]
        else:
            places = list(self.validation(int(graph[-1]), layer, word))
        for image, positions in places:
            if (image, part) not in self.boxes:
                yield Sighting(image, len(positions), None)
                continue
            inside = sum(self.is_inside(layer, y, x, image, part) for y, x in positions)
            yield Sighting(image, len(positions), inside, self.area(image, part))

    def validation(self, label: int, layer: Any, word: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        maps = read_rows(words_path(self.folder, SCOPE, layer.name, "word"), 0, IMAGES)
        for image in range(TRAIN, IMAGES):
            if LABELS[image] < 2 and PREDICTED[image] == label and image != BROKEN:
                positions = [tuple(place) for place in np.argwhere(maps[image] == word).tolist()]
                if positions:
                    yield image, positions

    def is_inside(self, layer: Any, y: int, x: int, image: int, part: str) -> bool:
        axis = layer.pixels.rows
        stride, offset, size = (8, 0, 8) if axis.is_whole else (axis.stride, axis.offset, axis.size)
        centre = [stride * place + offset + size / 2 for place in (y, x)]
        row, column = (min(max(place, 0.5), CROP - 0.5) for place in centre)
        point = point_in_photo(row, column, self.sizes[image], RESIZE, CROP)
        return in_any(*point, self.boxes[image, part])


def test_the_table_equals_slow_loops_over_photo_files(
    made: tuple[Path, RunFolder], table: list[dict[str, Any]]
) -> None:
    sizes = write_photos(made[0])
    expected = SlowParts(made[1], boxes_of(sizes), sizes).rows()
    found = {(row["graph"], row["layer"], row["word"], row["source"], row["part"]): row for row in table}
    assert len(found) == len(table)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for name, value in row.items():
            tolerance = 0.02 if name == "area" else 1e-12  # the slow area asks four points a pixel
            assert found[key][name] == pytest.approx(value, abs=tolerance), (key, name)
    assert sum(0 < (row["share"] or 0) < 1 for row in table) > 20
    assert {row["rank"] for row in table if row["word"] == 2} == {1}


def test_rows_go_from_the_top_down_and_name_their_parts(table: list[dict[str, Any]]) -> None:
    own = [row for row in table if row["graph"] == "class:1"]
    assert list(dict.fromkeys(row["layer"] for row in own)) == ["squeezed", "high", "low"]
    assert list(dict.fromkeys(row["part"] for row in own)) == ["object", "head"]
    assert [row["word"] for row in own[:3]] == [1, 2, None]
    assert {row["scope"] for row in table} == {SCOPE}
    assert {row["network"] for row in table} == {"made-boxes"}


def test_the_command_prints_the_layers_and_draws_them(
    made: tuple[Path, RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workflows.cli.app import main

    root, folder = made
    path = write_boxes(root / "again.csv", boxes_of(write_photos(root)))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.argv", ["inference-graphs", "boxes", str(folder.root), str(path), "--name", "part01=head"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    text = capsys.readouterr().out
    assert all(word in text for word in ("add2", "add1", "china", "flower", "object", "head"))
    named = {line[0] for line in boxes_of(write_photos(root))}
    assert f"china/{BROKEN}.png" in named
    # One is not in the run, one is broken.
    assert f"{len(named) - 2} of the {len(named)} photos of the file are in the run" in text
    for ending in ("png", "svg"):
        assert folder.figure("boxes", ending, SCOPE).stat().st_size > 5000


def test_the_old_command_and_old_tables_still_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workflows.cli.app import main

    folder = make(tmp_path)
    path = write_boxes(tmp_path / "boxes.csv", boxes_of(write_photos(tmp_path)))
    run_boxes(folder.root, path, {}, Console(quiet=True))
    present = read_table(folder.table("boxes"))
    folder.table("boxes").rename(folder.table("parts"))
    old = folder.figure("boxes", "png", SCOPE)
    old = old.rename(old.with_stem("parts"))
    assert open_run(folder.root).table("boxes").equals(present), "as a run of an earlier version has it"
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["inference-graphs", "parts", str(folder.root), str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "notice parts is called boxes now, and writes boxes.parquet" in capsys.readouterr().err
    assert read_table(folder.table("boxes")).equals(present)
    assert not folder.table("parts").exists()
    assert not old.exists()


def test_names_of_parts_are_neither_markup_nor_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, name = make(tmp_path), r"[/l] a$\x$b"
    path = write_boxes(tmp_path / "boxes.csv", boxes_of(write_photos(tmp_path)))
    run_boxes(folder.root, path, {"part01": name}, Console(width=120))
    assert name in capsys.readouterr().out
    assert name in folder.figure("boxes", "svg", SCOPE).read_text()


def test_what_is_no_answer_is_refused(made: tuple[Path, RunFolder], tmp_path: Path) -> None:
    root, folder = made
    quiet = Console(quiet=True)
    lines = boxes_of(write_photos(root))
    with pytest.raises(DataError, match="there is no such file"):
        run_boxes(folder.root, tmp_path / "none.csv", {}, quiet)
    with pytest.raises(DataError, match="none of the 1 lines names a photo of the run"):
        run_boxes(folder.root, write_boxes(tmp_path / "other.csv", lines[-1:]), {}, quiet)
    far = [(lines[0][0], "", (0.0, 0.0, 4000.0, 50.0), None)]
    with pytest.raises(DataError, match=r"reaches out of the photo 'china/01\.png'"):
        run_boxes(folder.root, write_boxes(tmp_path / "far.csv", far), {}, quiet)
    with pytest.raises(SettingsError, match="--name 'part01': write PART=NAME, such as part01=head"):
        part_names(["part01"])
    with pytest.raises(SettingsError, match="--name 'part01=object': the whole object is called so: give the part an"):
        part_names(["part01=object"])
    assert part_names(["part01=head", "part02 = front legs"]) == {"part01": "head", "part02": "front legs"}


def test_a_run_without_class_graphs_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    path = write_boxes(tmp_path / "boxes.csv", boxes_of(write_photos(tmp_path)))
    write_table(folder.table("nodes"), [row for row in nodes() if row["graph"] == "image:14"], "nodes")
    with pytest.raises(RunFolderError, match=r"has no class graph: ask for one with mine\.classes"):
        run_boxes(folder.root, path, {}, Console(quiet=True))
    folder.table("nodes").unlink()
    with pytest.raises(RunFolderError, match="has no class graphs yet: finish the run first"):
        run_boxes(folder.root, path, {}, Console(quiet=True))
    assert not folder.table("boxes").exists()


def test_a_picture_that_went_away_names_itself(tmp_path: Path) -> None:
    folder = make(tmp_path)
    lines = boxes_of(write_photos(tmp_path))
    (tmp_path / "photos" / CLASSES[LABELS[1]] / "01.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"01.png' could be read before, now it is .*: restore it"):
        run_boxes(folder.root, write_boxes(tmp_path / "boxes.csv", lines), {}, Console(quiet=True))

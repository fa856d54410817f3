"""Dialects of Parquet data sets: what is taken by itself, what is asked for, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.data.made_files import IMAGE_TYPE, encoded, noise, write_names
from workflows.data.datasets import ImageIndex, index_images
from workflows.data.reading import BrokenPicture, Picture, PictureReader
from workflows.errors import DataError
from workflows.settings import DataSettings

CELLS = [encoded(noise(6, 5, row)) for row in range(6)]
STRUCTS = pa.array([{"bytes": cell, "path": None} for cell in CELLS], IMAGE_TYPE)
PATHS_ALONE = pa.struct([("bytes", pa.null()), ("path", pa.string())])
NUMBERS = pa.array([0, 1, 2, 0, 1, 2])


def write(path: Path, features: dict[str, Any] | None = None, **columns: pa.Array) -> str:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=4)
    return str(path)


def settings(train: str, validation: str | None = None, **fields: Any) -> DataSettings:
    return DataSettings(source="parquet", train=(train,), validation=(validation or train,), **fields)


def indexed(tmp_path: Path, features: dict[str, Any] | None = None, fields: Any = None, **columns: Any) -> ImageIndex:
    """Index of two equal files; every picture is read, and is the one of its row."""
    files = [write(tmp_path / f"{name}.parquet", features, **columns) for name in ("train", "test")]
    chosen = settings(*files, **(fields or {}))
    index = index_images(chosen, 0)
    with PictureReader(chosen) as reader:
        for path, picture in zip(index.path, reader.read(index.path.tolist()), strict=True):
            assert isinstance(picture, Picture), getattr(picture, "reason", "")
            assert np.array_equal(picture.pixels, noise(6, 5, int(path.rpartition("#")[2])))
    return index


class TestPictures:
    @pytest.mark.parametrize(
        "cells",
        [
            STRUCTS,
            pa.array(CELLS),
            pa.array(CELLS, pa.large_binary()),
            pa.array([{"bytes": cell} for cell in CELLS]),
        ],
    )
    @pytest.mark.parametrize("name", ["image", "img", "jpg", "a.b"])
    def test_the_only_column_that_can_be_one(self, tmp_path: Path, name: str, cells: pa.Array) -> None:
        indexed(tmp_path, **{name: cells, "label": NUMBERS, "caption": pa.array(["a text"] * 6)})

    def test_several_are_listed(self, tmp_path: Path) -> None:
        columns = {"photo": STRUCTS, "mask": pa.array(CELLS), "label": NUMBERS}
        words = "several columns that can hold encoded pictures: photo, mask; set data.image_column to one of them"
        with pytest.raises(DataError, match=words):
            indexed(tmp_path, **columns)
        indexed(tmp_path, fields={"image_column": "photo"}, **columns)
        indexed(tmp_path, features={"photo": {"_type": "Image"}, "mask": {"_type": "Value"}}, **columns)
        with pytest.raises(DataError, match=r"data.image_column: .* has no column 'label' of encoded pictures; it has"):
            indexed(tmp_path, fields={"image_column": "label"}, **columns)

    def test_image_goes_before_others(self, tmp_path: Path) -> None:
        indexed(tmp_path, image=STRUCTS, mask=pa.array([b"no picture"] * 6), label=NUMBERS)

    @pytest.mark.parametrize(
        "kind", [IMAGE_TYPE, pa.struct([("bytes", pa.null()), ("path", pa.string())]), pa.string()]
    )
    def test_paths_are_followed(self, tmp_path: Path, kind: pa.DataType) -> None:
        (tmp_path / "pictures").mkdir()
        for row, cell in enumerate(CELLS):
            (tmp_path / "pictures" / f"{row}.png").write_bytes(cell)
        paths = [f"pictures/{row}.png" if row % 2 else str(tmp_path / f"pictures/{row}.png") for row in range(6)]
        cells = paths if pa.types.is_string(kind) else [{"bytes": None, "path": path} for path in paths]
        indexed(tmp_path, img=pa.array(cells, kind), label=NUMBERS)

    def test_bytes_go_before_paths(self, tmp_path: Path) -> None:
        (tmp_path / "2.png").write_bytes(CELLS[2])
        cells = [{"bytes": None if row == 2 else cell, "path": f"{row}.png"} for row, cell in enumerate(CELLS)]
        indexed(tmp_path, image=pa.array(cells, IMAGE_TYPE), label=NUMBERS)

    def test_paths_that_lead_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "0.png").write_bytes(CELLS[0])
        paths = ["gone.png", "../0.png", "https://example.org/0.png", None, "", "."]
        cells = pa.array([{"bytes": None, "path": path} for path in paths], IMAGE_TYPE)
        file = write(tmp_path / "in" / "a.parquet", image=cells, label=NUMBERS)
        with PictureReader(settings(file)) as reader:
            pictures = reader.read([f"{file}#{row}" for row in range(6)])
        reasons = [picture.reason for picture in pictures if isinstance(picture, BrokenPicture)]
        assert reasons == [
            "its cell names no file: No such file or directory",
            "its path '../0.png' leaves the folder of the Parquet file; give absolute paths",
            "its path 'https://example.org/0.png' is no local file; store the bytes, or download the files",
            "empty: the cell has neither bytes nor a path",
            "empty: the cell has neither bytes nor a path",
            "its cell names no file: Is a directory",
        ]

    def test_a_file_whose_name_is_no_utf8(self, tmp_path: Path) -> None:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
        folder.mkdir()
        for name in ("train", "test"):
            os.rename(write(tmp_path / name, image=STRUCTS, label=NUMBERS), folder / name)
        chosen = settings(str(folder / "train"), str(folder / "t*st"))
        index = index_images(chosen, 0)
        index.to_table().validate(full=True)
        with PictureReader(chosen) as reader:
            assert all(isinstance(picture, Picture) for picture in reader.read(index.path.tolist()))


class TestLabels:
    def test_fine_label_alone(self, tmp_path: Path) -> None:
        assert indexed(tmp_path, img=STRUCTS, fine_label=NUMBERS).label[:6].tolist() == [0, 0, 1, 1, 2, 2]

    def test_several_are_listed(self, tmp_path: Path) -> None:
        columns = {"img": STRUCTS, "fine_label": NUMBERS, "coarse_label": pa.array([0] * 6), "id": NUMBERS}
        words = "columns that can hold class labels: fine_label, coarse_label; set data.label_column to one of them"
        with pytest.raises(DataError, match=words):
            indexed(tmp_path, **columns)
        assert indexed(tmp_path, fields={"label_column": "coarse_label"}, **columns).label.max() == 0
        assert indexed(tmp_path, fields={"label_column": "id"}, **columns).label.max() == 2
        features = {"fine_label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
        assert indexed(tmp_path, features=features, **columns).class_names == ("a", "b", "c")

    def test_no_column_is_called_like_a_label(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"needs a column label .* another one named in data.label_column; it has"):
            indexed(tmp_path, image=STRUCTS, id=NUMBERS)

    @pytest.mark.parametrize(
        "kind",
        [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())],
        ids=["text", "large", "category"],
    )
    def test_texts_are_names(self, tmp_path: Path, kind: pa.DataType) -> None:
        texts = pa.array(["fox", "cat", "dog", "fox", "cat", "dog"]).cast(kind)
        index = indexed(tmp_path, image=STRUCTS, label=texts)
        assert index.class_names == ("cat", "dog", "fox")
        assert [path.rpartition("#")[2] for path in index.path[:6]] == ["1", "4", "2", "5", "0", "3"]
        names = write_names(tmp_path / "names.json", ["dog", "fox", "ant", "cat"])
        named = indexed(tmp_path, image=STRUCTS, label=texts, fields={"class_names": names})
        assert named.label_name[:6].tolist() == ["dog", "dog", "fox", "fox", "cat", "cat"]
        partly = write_names(tmp_path / "names.json", ["dog", "wolf", "cat"])
        with pytest.raises(DataError, match=r"2 of 3 text labels are called like a name, but not 'fox'"):
            indexed(tmp_path, image=STRUCTS, label=texts, fields={"class_names": partly})

    def test_texts_that_are_numbers_are_in_their_order(self, tmp_path: Path) -> None:
        cells = pa.array([{"bytes": CELLS[0], "path": ""}] * 11, IMAGE_TYPE)
        files = [
            write(tmp_path / name, image=cells, label=pa.array([str(10 - i) for i in range(11)]))
            for name in ("train", "test")
        ]
        index = index_images(settings(*files), 0)
        assert index.class_names == tuple(map(str, range(11)))
        assert "in the order of numbers (0, 1, 2, 3, ...)" in index.notes[0]

    def test_names_of_the_metadata(self, tmp_path: Path) -> None:
        features = {"label": {"_type": "ClassLabel", "names": ["fox", "cat", "dog"]}}
        index = indexed(tmp_path, features, image=STRUCTS, label=NUMBERS)
        assert index.class_names == ("fox", "cat", "dog")
        assert index.label[:6].tolist() == [0, 0, 1, 1, 2, 2]
        names = write_names(tmp_path / "names.json", ["cat", "dog", "fox"])
        named = indexed(tmp_path, features, image=STRUCTS, label=NUMBERS, fields={"class_names": names})
        assert named.label_name[:6].tolist() == ["cat", "cat", "dog", "dog", "fox", "fox"]
        assert [path.rpartition("#")[2] for path in named.path[:2]] == ["1", "4"], "label 1 is the cat of the file"

    def test_metadata_that_do_not_fit(self, tmp_path: Path) -> None:
        few = {"label": {"_type": "ClassLabel", "names": ["fox", "cat"]}}
        with pytest.raises(DataError, match=r"#2' has label 2, outside the names in the metadata .* labels 0 to 1"):
            indexed(tmp_path, few, image=STRUCTS, label=NUMBERS)
        one = write(tmp_path / "one", {"label": {"names": ["a", "b", "c"]}}, image=STRUCTS, label=NUMBERS)
        other = write(tmp_path / "other", {"label": {"names": ["b", "a", "c"]}}, image=STRUCTS, label=NUMBERS)
        with pytest.raises(DataError, match=r"the metadata of '.*one' and '.*other' name other classes, or in another"):
            index_images(settings(one, other), 0)
        texts = write(tmp_path / "texts", image=STRUCTS, label=pa.array(list("abcabc")))
        with pytest.raises(DataError, match=r"'.*texts': labels must be of one kind, got texts and numbers; use"):
            index_images(settings(one, texts), 0)

    def test_metadata_of_no_known_form_are_no_metadata(self, tmp_path: Path) -> None:
        for i, value in enumerate(["{", "[]", '{"info": 3}', '{"info": {"features": []}}']):
            table = pa.table({"image": STRUCTS, "label": NUMBERS}).replace_schema_metadata({"huggingface": value})
            for name in ("train", "test"):
                pq.write_table(table, tmp_path / f"{name}{i}")
            assert index_images(settings(str(tmp_path / f"train{i}"), str(tmp_path / f"test{i}")), 0).class_names == ()

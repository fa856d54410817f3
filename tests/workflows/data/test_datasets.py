from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.data.made_files import IMAGE_TYPE, encoded, noise, write_folders, write_names, write_parquet
from workflows.data import folders as scanning
from workflows.data.datasets import TRAIN, VALIDATION, ImageIndex, index_images
from workflows.data.decoding import check_readable
from workflows.errors import DataError
from workflows.settings import DataSettings


def folders(*roots: Path, **fields: Any) -> DataSettings:
    return DataSettings(source="folders", folders=tuple(str(root) for root in roots), **fields)


def parquet(train: Path | str, validation: Path | str, **fields: Any) -> DataSettings:
    return DataSettings(source="parquet", train=(str(train),), validation=(str(validation),), **fields)


def files_of(folder: Path, labels: list[int], validation: list[int]) -> DataSettings:
    train = write_parquet(folder / "train.parquet", [b"x"] * len(labels), labels)
    test = write_parquet(folder / "test.parquet", [b"x"] * len(validation), validation)
    return parquet(train, test)


def check_order(index: ImageIndex) -> None:
    assert np.array_equal(index.image, np.arange(len(index)))
    keys = list(zip(index.split, index.label, strict=True))
    assert keys == sorted(keys)
    assert (index.image.dtype, index.label.dtype) == (np.int64, np.int32)
    for split in (TRAIN, VALIDATION):
        for label in range(int(index.label.max()) + 2):
            rows = index.rows(split, label)
            assert list(rows) == np.flatnonzero((index.split == split) & (index.label == label)).tolist()
        assert list(index.rows(split)) == np.flatnonzero(index.split == split).tolist()


class TestParquet:
    def test_rows_are_class_ordered_and_keep_the_order_of_the_files(self, tmp_path: Path) -> None:
        index = index_images(files_of(tmp_path, [2, 0, 1, 0, 2], [1, 1, 0]), 0)
        check_order(index)
        rows = [os.path.basename(path) for path in index.path]
        assert rows[:5] == [f"train.parquet#{row}" for row in (1, 3, 2, 0, 4)]
        assert rows[5:] == [f"test.parquet#{row}" for row in (2, 0, 1)]
        assert index.for_outputs(3).class_names == ("0", "1", "2"), "the outputs name what nothing else names"
        assert index.label_name[0] == "0"

    def test_paths_do_not_depend_on_the_folder_of_the_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files_of(tmp_path, [0], [0])
        monkeypatch.chdir(tmp_path)
        assert index_images(parquet("train.parquet", "te*"), 0).path[0] == f"{tmp_path}/train.parquet#0"

    def test_files_of_a_pattern_are_in_natural_order(self, tmp_path: Path) -> None:
        for number in (10, 9, 100):
            write_parquet(tmp_path / f"part{number}.parquet", [b""])
        write_parquet(tmp_path / "test.parquet", [b""])
        index = index_images(parquet(tmp_path / "part*", tmp_path / "test.parquet"), 0)
        names = [os.path.basename(path) for path in index.path[index.rows(TRAIN).start : index.rows(TRAIN).stop]]
        assert names == ["part9.parquet#0", "part10.parquet#0", "part100.parquet#0"]

    def test_cifar10(self, shared_data: Path) -> None:
        folder = shared_data / "cifar10"
        settings = parquet(folder / "train-*.parquet", folder / "test-*", class_names=str(folder / "classes.json"))
        start = time.perf_counter()
        index = index_images(settings, 0)
        assert time.perf_counter() - start < 5
        check_order(index)
        assert len(index) == 21_000
        assert (len(index.rows(TRAIN)), len(index.rows(VALIDATION))) == (20_000, 1_000)
        assert index.class_names == tuple(json.loads((folder / "classes.json").read_text()))
        labels = pq.read_table(folder / "test-00001-of-00002.parquet", columns=["label"])["label"].to_pylist()
        of_file = [i for i, path in enumerate(index.path) if "test-00001" in path]
        assert [index.label[i] for i in of_file] == [labels[int(index.path[i].rpartition("#")[2])] for i in of_file]

    def test_balanced_limits(self, shared_data: Path) -> None:
        folder = shared_data / "cifar10"
        settings = parquet(folder / "train-*", folder / "test-*", max_train=1003, max_validation=100)
        index = index_images(settings, 5)
        check_order(index)
        assert sorted(np.bincount(index.label[: len(index.rows(TRAIN))])) == [100] * 7 + [101] * 3
        assert np.bincount(index.label[1003:]).tolist() == [10] * 10
        assert index.path.tolist() == index_images(settings, 5).path.tolist()
        assert index.path.tolist() != index_images(settings, 6).path.tolist()

    def test_patterns_and_files(self, tmp_path: Path) -> None:
        settings = files_of(tmp_path, [0], [0])
        with pytest.raises(DataError, match=r"data.train: no file matches '.*none-.*'"):
            index_images(parquet(tmp_path / "none-*", tmp_path / "test.parquet"), 0)
        with pytest.raises(DataError, match=r"data.validation is empty; give Parquet files"):
            index_images(settings.model_copy(update={"validation": ()}), 0)
        with pytest.raises(DataError, match=r"data.train and data.validation both name '.*train.parquet'"):
            index_images(parquet(tmp_path / "train*", tmp_path / "*.parquet"), 0)
        twice = settings.model_copy(update={"train": (*settings.train, f"{tmp_path}/tr*")})
        with pytest.raises(DataError, match=r"data.train names '.*train.parquet' twice"):
            index_images(twice, 0)

    def test_labels(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 2 of '.*train.parquet' has label -1; labels must be 0 or above"):
            index_images(files_of(tmp_path, [0, 1, -1], [0]), 0)
        settings = files_of(tmp_path, [0, 1], [0, 3]).model_copy(
            update={"class_names": write_names(tmp_path / "names.json", ["cat", "dog"])}
        )
        with pytest.raises(DataError, match=r"image '.*test.parquet#1' has label 3, outside data.class_names.*0 to 1"):
            index_images(settings, 0)

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            (pa.array([0.5]), "must hold integers.*double"),
            (pa.array([["cat"]]), "must hold integers.*list"),
            (pa.array([None], pa.int64()), "row 0 of .* has no label"),
            (pa.array([], pa.int64()), "has no row"),
        ],
    )
    def test_columns_of_no_labels(self, tmp_path: Path, labels: pa.Array, words: str) -> None:
        images = pa.array([{"bytes": b"", "path": ""}] * len(labels), IMAGE_TYPE)
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "train.parquet")
        test = write_parquet(tmp_path / "test.parquet", [b""])
        with pytest.raises(DataError, match=words):
            index_images(parquet(tmp_path / "train.parquet", test), 0)

    def test_a_file_without_pictures(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"label": [0]}), tmp_path / "train.parquet")
        with pytest.raises(DataError, match=r"needs a column image\{bytes,path\}"):
            index_images(parquet(tmp_path / "train.parquet", write_parquet(tmp_path / "test.parquet", [b""])), 0)


class TestFolders:
    def test_roots_are_joined_and_a_single_image_trains(self, tmp_path: Path) -> None:
        one = write_folders(tmp_path / "one", {"zebra": 12, "ant": 1})
        two = write_folders(tmp_path / "two", {"zebra": 3, "bee": 5})
        (one / "readme.txt").write_text("beside the classes")
        (one / "ant" / "notes.csv").write_text("no image")
        (one / ".cache").mkdir()
        index = index_images(folders(one, two), 0)
        check_order(index)
        assert index.class_names == ("ant", "bee", "zebra")
        assert len(index) == 21
        assert list(index.rows(VALIDATION, 0)) == []
        assert (len(index.rows(VALIDATION, 1)), len(index.rows(VALIDATION, 2))) == (1, 4)
        zebras = [p for p, label in zip(index.path, index.label, strict=True) if label == 2]
        listed = [str(root / "zebra" / f"image{i}.png") for root, n in ((one, 12), (two, 3)) for i in range(n)]
        assert sorted(zebras) == sorted(listed)
        for split in (TRAIN, VALIDATION):
            of_split = index.path[list(index.rows(split, 2))].tolist()
            assert of_split == [path for path in listed if path in of_split]

    def test_files_are_in_natural_order(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "root", {"a": 12})
        index = index_images(folders(root), 0)
        numbers = [int(Path(path).stem.removeprefix("image")) for path in index.path]
        n_train = len(index.rows(TRAIN))
        assert numbers[:n_train] == sorted(numbers[:n_train])
        assert numbers[n_train:] == sorted(numbers[n_train:])

    def test_the_split_is_seeded(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "root", {"a": 20, "b": 20})
        paths = [index_images(folders(root), seed).path.tolist() for seed in (0, 0, 1)]
        assert paths[0] == paths[1] != paths[2]

    def test_real_photos_of_1000_classes_without_reading_them_all(self, shared_data: Path) -> None:
        settings = folders(shared_data / "imagenet_animals", shared_data / "imagenet_one_per_class")
        settings = settings.model_copy(update={"class_names": "torchvision:ResNet50_Weights.IMAGENET1K_V2"})
        start = time.perf_counter()
        index = index_images(settings, 0)
        assert time.perf_counter() - start < 20
        check_order(index)
        assert len(index) == 1400
        assert len(index.class_names) == 1000
        assert index.class_names[340] == "zebra"
        assert (len(index.rows(TRAIN, 340)), len(index.rows(VALIDATION, 340))) == (151, 50)
        assert len(index.rows(VALIDATION)) == 100

    def test_1000_folders_are_listed_quickly_and_opened_once_each(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        picture = encoded(noise(8, 8))
        for label in range(1000):
            folder = tmp_path / f"class{label}"
            folder.mkdir()
            (folder / "0.png").write_bytes(picture)
            for i in range(1, 20):
                (folder / f"{i}.png").touch()
        opened: list[bytes] = []

        def note(data: bytes) -> None:
            opened.append(data)
            check_readable(data)

        monkeypatch.setattr(scanning, "check_readable", note)
        start = time.process_time()
        index = index_images(folders(tmp_path), 0)
        assert time.process_time() - start < 5
        assert len(index) == 20_000
        assert opened == [picture] * 1000

    def test_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data.folders is empty"):
            index_images(folders(), 0)
        with pytest.raises(DataError, match=r"'.*nowhere' is not a folder"):
            index_images(folders(tmp_path / "nowhere"), 0)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"'.*empty' holds no class folder; put the images of each class"):
            index_images(folders(tmp_path / "empty"), 0)
        (tmp_path / "empty" / "cat").mkdir()
        with pytest.raises(DataError, match=r"class folder '.*cat' holds no image \(known are .*.jfif"):
            index_images(folders(tmp_path / "empty"), 0)
        root = write_folders(tmp_path / "root", {"a": 2})
        with pytest.raises(DataError, match="names a folder twice"):
            index_images(folders(root, root / ".." / "root"), 0)
        with pytest.raises(DataError, match="every class has a single image, so none is left for validation"):
            index_images(folders(write_folders(tmp_path / "single", {"a": 1, "b": 1})), 0)

    def test_one_readable_image_in_every_class_folder(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "root", {"a": 3, "b": 3})
        for i in range(3):
            (root / "b" / f"image{i}.png").write_bytes(encoded(noise(9, 9))[:70])
        with pytest.raises(
            DataError, match=r"class folder '.*b' holds no readable image: none of its 3 files .*image0.png: broken"
        ):
            index_images(folders(root), 0)
        (root / "b" / "image2.png").write_bytes(encoded(noise(9, 9), "JPEG"))
        assert len(index_images(folders(root), 0)) == 6


class TestClassNames:
    def test_folders_by_name(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "root", {"cat": 4, "dog": 4})
        names = write_names(tmp_path / "names.json", ["ant", "dog", "bee", "cat"])
        index = index_images(folders(root, class_names=names), 0)
        check_order(index)
        assert index.class_names == ("ant", "dog", "bee", "cat")
        assert set(index.label_name[list(index.rows(TRAIN, 3))]) == {"cat"}
        assert all("/cat/" in path for path in index.path[list(index.rows(TRAIN, 3))])

    def test_folders_in_order_and_names_that_occur_twice(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "root", {"n01": 4, "n02": 4})
        names = write_names(tmp_path / "names.json", ["crane", "crane"])
        index = index_images(folders(root, class_names=names), 0)
        assert all("/n02/" in path for path in index.path[list(index.rows(TRAIN, 1))])

    def test_wrong_length(self, tmp_path: Path) -> None:
        names = write_names(tmp_path / "names.json", ["a", "b", "c"])
        root = write_folders(tmp_path / "root", {"n01": 4, "n02": 4})
        with pytest.raises(DataError, match=r"data.class_names has 3 names for 2 class folders \(n01, ...\)"):
            index_images(folders(root, class_names=names), 0)
        with pytest.raises(DataError, match=r"data.class_names has 3 names for 10 classes of the source \(0, ...\)"):
            index_images(DataSettings(source="digits", class_names=names), 0)

    @pytest.mark.parametrize("content", [{"cat": 0}, [], [1, 2], "cat", None])
    def test_json_that_is_no_list_of_names(self, tmp_path: Path, content: object) -> None:
        names = write_names(tmp_path / "names.json", content)
        with pytest.raises(DataError, match="must hold a JSON list of names"):
            index_images(DataSettings(source="digits", class_names=names), 0)

    def test_files_that_are_no_json(self, tmp_path: Path) -> None:
        (tmp_path / "names.json").write_bytes(b"\xff\xfe[")
        for path, words in (("names.json", "is not a JSON list of names"), ("none.json", "does not exist")):
            with pytest.raises(DataError, match=words):
                index_images(DataSettings(source="digits", class_names=str(tmp_path / path)), 0)

    @pytest.mark.parametrize("weights", ["ResNet50_Weights.NONE", "NoNet_Weights.DEFAULT", "resnet50", ""])
    def test_unknown_weights(self, weights: str) -> None:
        with pytest.raises(DataError, match=r"torchvision has no such weights.*write it like torchvision:ResNet50"):
            index_images(DataSettings(source="digits", class_names=f"torchvision:{weights}"), 0)


def test_the_table_and_back(tmp_path: Path) -> None:
    index = index_images(files_of(tmp_path, [2, 0, 1], [1, 1, 0]), 0)
    table = index.to_table()
    assert table.schema.names == ["image", "path", "label", "label_name", "split"]
    back = ImageIndex.from_table(table.append_column("predicted", pa.array([0] * 6)), index.class_names)
    for column in ("image", "path", "label", "split"):
        assert np.array_equal(getattr(back, column), getattr(index, column))
    assert list(back.rows(VALIDATION, 1)) == list(index.rows(VALIDATION, 1)) == [4, 5]
    with pytest.raises(DataError, match="lacks the columns label, split"):
        ImageIndex.from_table(table.drop_columns(["label", "split"]), index.class_names)
    with pytest.raises(DataError, match="split 'test' does not exist; the splits are train and validation"):
        index.rows("test")

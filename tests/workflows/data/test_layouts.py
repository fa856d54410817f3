"""Tar files, Parquet and ImageNet's own layout, on disk and in an object store: one index, the same pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.workflows.data.made_files import encoded, noise
from tests.workflows.data.made_layouts import CLASSES, layouts, pictures, upload_all, write_layouts, write_tar
from workflows.data.datasets import TRAIN, VALIDATION, index_images
from workflows.data.decoding import decode_picture
from workflows.data.image_index import ImageIndex
from workflows.data.parquet_rows import parse_span, span_path
from workflows.data.reading import Picture, PictureReader
from workflows.data.shards import plan_shards
from workflows.data.tar_shards import labelled_samples
from workflows.errors import DataError, SettingsError, StorageFault
from workflows.settings import DataSettings, parse_settings
from workflows.storage import object_store


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def stored(local: Path, bucket: str) -> str:
    return upload_all(local, f"{bucket}/deep/layouts")


def pixels_of(index: ImageIndex, settings: DataSettings) -> list[np.ndarray]:
    """Of all images, by a new reader a shard, the last shard first: none leans on what another has read."""
    found: dict[int, np.ndarray] = {}
    for shard in plan_shards(len(index), 5)[::-1]:
        with PictureReader(settings) as reader:
            for image, result in enumerate(reader.read(index.path[shard.first : shard.stop].tolist()), shard.first):
                assert isinstance(result, Picture), result
                found[image] = result.pixels
    return [found[image] for image in range(len(index))]


def check_whole(index: ImageIndex, pixels: list[np.ndarray]) -> None:
    """Every picture of either split is there once, with its label."""
    for split, name in ((TRAIN, "train"), (VALIDATION, "val")):
        expected = {(label, decode_picture(content).tobytes()) for label, _, content in pictures(name)}
        rows = index.rows(split)
        assert {(int(index.label[row]), pixels[row].tobytes()) for row in rows} == expected
        assert len(rows) == len(expected)


@pytest.mark.parametrize("layout", ["tar", "parquet", "imagenet", "folders"])
def test_an_object_store_gives_what_the_disk_gives(local: Path, stored: str, layout: str) -> None:
    on_disk, in_store = layouts(str(local))[layout], layouts(stored)[layout]
    index, other = index_images(on_disk, 3), index_images(in_store, 3)
    assert index.label.tolist() == other.label.tolist()
    assert index.class_names == other.class_names
    pixels, others = pixels_of(index, on_disk), pixels_of(other, in_store)
    for one, two in zip(pixels, others, strict=True):
        assert np.array_equal(one, two)
    if layout != "folders":
        check_whole(index, pixels)


def test_a_shard_reads_its_own_pictures_and_no_more(stored: str, monkeypatch: pytest.MonkeyPatch, local: Path) -> None:
    asked: list[int] = []
    real = object_store.fetched

    def noted(uri: str, offset: int = 0, length: int | None = None) -> tuple[bytes, object_store.StoredFile]:
        asked.append(length or 0)
        return real(uri, offset, length)

    for layout in ("tar", "parquet"):
        settings = layouts(stored)[layout]
        index = index_images(settings, 0)
        placed = [str(path) for path in index.path if parse_span(str(path))][:4]
        assert placed
        with monkeypatch.context() as patch:
            patch.setattr("workflows.data.file_states.fetched", noted)
            patch.setattr(object_store, "_Ranges", None)  # no file is opened
            asked.clear()
            with PictureReader(settings) as reader:
                results = reader.read(placed)
        assert all(isinstance(result, Picture) for result in results)
        spans = [span for path in placed if (span := parse_span(path)) is not None]
        assert sorted(asked) == sorted(span.length for span in spans)


def test_what_the_network_does_is_no_broken_picture(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer gives OSError; a picture that is not there as well, and never other pixels."""
    with pytest.raises(FileNotFoundError, match="no such file in the object store"):
        object_store.read_file(f"{stored}/train/none.jpg")
    with pytest.raises(FileNotFoundError):
        list(object_store.files_below("s3://no-such-bucket/a"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(object_store, "_WAITING", {"max_retries": 0})
    object_store._store.cache_clear()
    try:
        with pytest.raises(OSError, match="does not answer") as raised:
            object_store.fetched(f"{stored}/tar/train-000.tar", 512, 10)
        assert "\n" not in str(raised.value)
        for layout in ("tar", "parquet", "imagenet", "folders"):
            with pytest.raises(StorageFault, match=r"'s3://.*' must be readable, got the object store does not answer"):
                index_images(layouts(stored)[layout], 0)
    finally:
        object_store._store.cache_clear()


@pytest.mark.parametrize("name", ["val.txt", "synsets.txt", "kit/ILSVRC2012_validation_ground_truth.txt"])
def test_every_form_of_the_ground_truth(local: Path, name: str) -> None:
    settings = layouts(str(local))["imagenet"].model_copy(update={"ground_truth": str(local / name)})
    index = index_images(settings, 0)
    assert index.class_names == CLASSES
    check_whole(index, pixels_of(index, settings))


def test_a_ground_truth_that_does_not_fit(local: Path, tmp_path: Path) -> None:
    def refused(text: str) -> str:
        (tmp_path / "truth.txt").write_text(text)
        settings = layouts(str(local))["imagenet"].model_copy(update={"ground_truth": str(tmp_path / "truth.txt")})
        with pytest.raises(DataError, match=r"data.ground_truth '.*truth.txt': ") as raised:
            index_images(settings, 0)
        return str(raised.value)

    whole = (local / "val.txt").read_text().splitlines()
    assert "got none of 2, such as" in refused("\n".join(whole[2:]))
    assert "got '7'" in refused("\n".join([*whole[:5], whole[5].replace(" 2", " 7")]))
    assert "got 5 lines and 6 pictures" in refused("n01440764\n" * 5)
    assert "must have the kit's meta.mat beside it" in refused("1\n" * 6)
    assert "got none" in refused("\n")
    with pytest.raises(SettingsError, match=r"data.ground_truth: must be given with source = 'imagenet'"):
        parse_settings({"name": "a", "data": {"source": "imagenet", "root": "a"}})


class TestTarFiles:
    def one(
        self, tmp_path: Path, members: dict[str, bytes], beside: dict[str, bytes] | None = None, **fields: str
    ) -> ImageIndex:
        """The index of a training file of these members, and a validation file of one picture with its label."""
        train = write_tar(tmp_path / "train.tar", members)
        validation = write_tar(tmp_path / "val.tar", {"v.png": encoded(noise(4, 4)), **(beside or {"v.cls": b"0"})})
        return index_images(DataSettings(source="tar", train=str(train), validation=str(validation), **fields), 0)

    def test_labels_by_name_by_record_and_by_folder(self, tmp_path: Path) -> None:
        picture = encoded(noise(4, 4))
        record = {"v.json": json.dumps({"label": 7, "kind": "cat"}).encode()}
        members = {
            "a.png": picture,
            "a.json": b'{"label": 1, "kind": "dog"}',
            "b.png": picture,
            "b.json": b'{"kind":"cat"}',
        }
        index = self.one(tmp_path, members, beside=record, label_column="kind")
        assert index.class_names == ("cat", "dog")
        assert index.label[:2].tolist() == [0, 1]
        members = {"x/bee/1.png": picture, "ant/1.jpg": picture, "ant/._1.jpg": b""}
        index = self.one(tmp_path, members, {"v.cls": b"ant\n"})
        assert index.class_names == ("ant", "bee")
        assert len(index) == 3

    def test_names_of_any_kind_and_length(self, tmp_path: Path) -> None:
        name = "für#1@2+3%/" + "long" * 60
        index = self.one(tmp_path, {f"{name}.png": encoded(noise(4, 4)), f"{name}.cls": b"0"})
        span = parse_span(str(index.path[0]))
        assert span is not None
        assert span.file == str(tmp_path / "train.tar")
        assert span.read() == encoded(noise(4, 4))
        assert parse_span(span_path("a#b", "c#d", 1, 2)).file == "a#b"  # type: ignore[union-attr]

    def test_what_is_refused(self, tmp_path: Path) -> None:
        picture = encoded(noise(4, 4))
        whole = {"a.png": picture, "a.cls": b"0"}
        with pytest.raises(DataError, match=r"image '.*#a.png@.*' has no label: must have .cls.* or a folder"):
            self.one(tmp_path, {"a.png": picture})
        with pytest.raises(DataError, match=r"train.tar' holds no image"):
            self.one(tmp_path, {"a.cls": b"0"})
        with pytest.raises(DataError, match=r"labels must be of one kind, got the number 0 and the name 'cat'"):
            self.one(tmp_path, {**whole, "b.png": picture, "b.cls": b"cat"})
        self.one(tmp_path, whole)
        file = tmp_path / "train.tar"
        settings = DataSettings(source="tar", train=str(file), validation=str(tmp_path / "val.tar"))
        for spoilt in (file.read_bytes()[:600], b"no tar" * 200, b""):
            file.write_bytes(spoilt)
            with pytest.raises(DataError, match=r"train.tar' is not a readable tar file .*uncompressed"):
                index_images(settings, 0)
        write_tar(file, whole, "w:gz")
        with pytest.raises(DataError, match=r"is not a readable tar file .*uncompressed"):
            index_images(settings, 0)

    def test_no_picture_is_lost_behind_damage(self, tmp_path: Path) -> None:
        members = {f"{number}.{ending}": content for number in range(3) for ending, content in self.sample(number)}
        assert len(self.one(tmp_path, members)) == 4
        file = tmp_path / "train.tar"
        settings = DataSettings(source="tar", train=str(file), validation=str(tmp_path / "val.tar"))
        whole = file.read_bytes()
        second = whole.index(b"1.png")
        spoilt = bytearray(whole)
        spoilt[second + 150] ^= 1  # of the checksum
        for content, told in (
            (bytes(spoilt), f"the head at byte {second} is damaged"),
            (whole[:second], f"it ends at byte {second} without the empty blocks"),
            (whole + whole, "more stands behind its end at byte .*, as when files are joined without tar"),
        ):
            file.write_bytes(content)
            with pytest.raises(DataError, match=rf"train.tar' is not a readable tar file \({told}"):
                index_images(settings, 0)

    def sample(self, number: int) -> list[tuple[str, bytes]]:
        return [("png", encoded(noise(4, 4, number))), ("cls", b"0")]

    def test_members_that_point_elsewhere_write_nothing(self, tmp_path: Path) -> None:
        """Nothing is unpacked: a name is a name."""
        names = ("../../x", "/abs/b", "c\x1b[31m")
        members = {f"{name}.{ending}": content for name in names for ending, content in self.sample(len(name))}
        (tmp_path / "deep" / "er").mkdir(parents=True)
        index = self.one(tmp_path / "deep" / "er", members)
        settings = DataSettings(
            source="tar", train=f"{tmp_path}/deep/er/train.tar", validation=f"{tmp_path}/deep/er/val.tar"
        )
        assert len(pixels_of(index, settings)) == 4
        assert not (tmp_path / "x.png").exists()
        assert not Path("/abs").exists()


def test_two_pictures_of_one_sample_are_refused(tmp_path: Path) -> None:
    """What stands behind the first dot is no part of a sample's name."""
    picture = encoded(noise(4, 4))
    write_tar(tmp_path / "x.tar", {"a/cat.1.png": picture, "a/cat.2.png": picture})
    told = r"must have one image, got 'a/cat.2.png' beside 'a/cat.1.png'; rename one of them"
    with pytest.raises(DataError, match=told):
        labelled_samples([str(tmp_path / "x.tar")])


def test_files_of_the_archives_own_folder_have_no_label(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"./x.png": encoded(noise(4, 4))})
    with pytest.raises(DataError, match="has no label"):
        labelled_samples([str(tmp_path / "x.tar")])

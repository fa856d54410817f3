from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.workflows.data.made_files import encoded, noise, write_folders
from workflows.data.datasets import TRAIN, VALIDATION, index_images
from workflows.data.decoding import FORMATS
from workflows.data.folders import EXTENSIONS, joined_classes, scan_folders
from workflows.data.reading import Picture, PictureReader
from workflows.errors import DataError
from workflows.settings import DataSettings, FolderLabel
from workflows.storage.names import file_path, readable_name, stored_path


def settings(folders: Path, validation: Path | None = None, **fields: Any) -> DataSettings:
    counted = (str(validation),) if validation else ()
    return DataSettings(source="folders", folders=(str(folders),), validation=counted, **fields)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "root", {"ant": 4, "bee": 4})


def file_names(root: Path, name: str) -> list[str]:
    return [os.path.relpath(path, root / name) for path in scan_folders([str(root)]).classes[name]]


class TestFiles:
    def test_every_extension_of_the_formats_is_read(self, root: Path) -> None:
        Image.init()
        of_pillow = {extension for extension, kind in Image.registered_extensions().items() if kind in FORMATS}
        floats = {".pfm"}
        codestreams = {".jpc", ".jpf", ".j2c"}
        assert of_pillow - floats - codestreams <= EXTENSIONS
        for i, path in enumerate(sorted((root / "ant").iterdir())):
            path.rename(path.with_name(f"image{i}" + (".jfif", ".JPEG", ".Png", ".webp")[i]))
        assert file_names(root, "ant") == ["image0.jfif", "image1.JPEG", "image2.Png", "image3.webp"]

    def test_folders_in_a_class_folder_are_read(self, root: Path) -> None:
        (root / "bee" / "drones" / "old").mkdir(parents=True)
        shutil.move(root / "bee" / "image1.png", root / "bee" / "drones" / "image1.png")
        shutil.move(root / "bee" / "image3.png", root / "bee" / "drones" / "old" / "image3.png")
        expected = ["drones/image1.png", "drones/old/image3.png", "image0.png", "image2.png"]
        assert file_names(root, "bee") == expected

    def test_what_is_left_out_is_counted_with_its_reason(self, root: Path) -> None:
        (root / "ant" / "notes.txt").write_text("")
        (root / "ant" / "raw").write_bytes(encoded(noise(8, 8)))
        (root / "bee" / "a.heic").write_text("")
        (root / "bee" / "b.HEIC").write_text("")
        (root / "bee" / "gone.png").symlink_to(root / "nowhere.png")
        (root / "stray.png").write_bytes(encoded(noise(8, 8)))
        (root / "readme.md").write_text("of no class, and no image")
        (note,) = scan_folders([str(root)]).notes
        assert note.startswith("data.folders: 6 files were left out: 2 without an image extension (.heic), ")
        for reason in (
            "1 without an image extension (.txt)",
            "1 without an image extension (none)",
            "1 link that leads nowhere",
            "1 beside the class folders, in none of them",
        ):
            assert reason in note
        assert note.endswith(f"the first is {str(root / 'stray.png')!r}")

    def test_hidden_files_and_what_systems_leave_are_of_no_interest(self, root: Path) -> None:
        for name in (".DS_Store", "._image0.png", "Thumbs.db", "desktop.ini"):
            (root / "ant" / name).write_bytes(b"\x00\x05\x16\x07")
        for folder in ("@eaDir", "ant/@eaDir", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "ant/.git"):
            (root / folder).mkdir()
            (root / folder / "image0.png").write_bytes(b"thumbnail")
        listing = scan_folders([str(root)])
        assert list(listing.classes) == ["ant", "bee"]
        assert [len(files) for files in listing.classes.values()] == [4, 4]
        assert listing.notes == ()

    def test_links_to_folders_are_followed_once(self, root: Path, tmp_path: Path) -> None:
        (root / "ant" / "again").symlink_to(root / "ant")
        (root / "ant" / "up").symlink_to(root)
        elsewhere = write_folders(tmp_path / "elsewhere", {"wasp": 3})
        (root / "wasp").symlink_to(elsewhere / "wasp")
        listing = scan_folders([str(root)])
        assert len(listing.classes["wasp"]) == 3
        (root / "ant" / "across").symlink_to(root / "bee")
        assert scan_folders([str(root)]).classes == listing.classes
        assert listing.classes["ant"] == [str(root / "ant" / f"image{i}.png") for i in range(4)]

    def test_an_empty_class_folder_is_refused(self, root: Path) -> None:
        (root / "cow" / "empty").mkdir(parents=True)
        with pytest.raises(DataError, match=r"class folder '.*cow' holds no image .*; remove the folder or add images"):
            scan_folders([str(root)])


class TestOneFolderTooHigh:
    @pytest.mark.parametrize("names", [("train", "val"), ("Training", "Testing"), ("train", "valid", "test")])
    def test_splits_are_no_classes(self, root: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
        for name in names:
            shutil.copytree(root, tmp_path / "above" / name)
        words = (
            rf"holds the folders {', '.join(sorted(names))}, which are splits .* data.folders = \['.*above/{min(names)}"
        )
        with pytest.raises(DataError, match=words):
            scan_folders([str(tmp_path / "above")])

    def test_a_single_folder_of_folders(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "above").mkdir()
        shutil.copytree(root, tmp_path / "above" / "images")
        with pytest.raises(DataError, match=r"holds the single folder 'images'.* data.folders = \['.*above/images'\]"):
            scan_folders([str(tmp_path / "above")])

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "root", {"train": 2, "tram": 2})
        assert list(scan_folders([str(root)]).classes) == ["train", "tram"]


class TestValidationFolder:
    def test_it_is_the_validation_split(self, tmp_path: Path) -> None:
        train = write_folders(tmp_path / "train", {"ant": 5, "bee": 3})
        val = write_folders(tmp_path / "val", {"ant": 1, "bee": 2})
        index = index_images(settings(train, val), 0)
        assert all(path.startswith(str(train)) for path in index.path[list(index.rows(TRAIN))])
        assert all(path.startswith(str(val)) for path in index.path[list(index.rows(VALIDATION))])
        assert (len(index.rows(TRAIN, 0)), len(index.rows(TRAIN, 1))) == (5, 3)
        assert (len(index.rows(VALIDATION, 0)), len(index.rows(VALIDATION, 1))) == (1, 2)
        limited = index_images(settings(train, val, max_validation=2), 0)
        assert len(limited.rows(VALIDATION)) == 2

    def test_both_have_the_same_classes(self, tmp_path: Path) -> None:
        train = write_folders(tmp_path / "train", {"ant": 2, "bee": 2})
        val = write_folders(tmp_path / "val", {"ant": 2, "bees": 2})
        with pytest.raises(DataError, match=r"data.validation lacks 'bee' and data.folders lacks 'bees': both must"):
            index_images(settings(train, val), 0)

    def test_an_image_belongs_to_one_split(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(root)
        for other in (root, tmp_path / "link", root / "ant"):
            with pytest.raises(DataError, match=r"are the same folder or lie in each other|holds no class folder"):
                index_images(settings(root, other), 0)


class TestNamesThatAreNoUtf8:
    def test_files_and_classes_are_read(self, root: Path) -> None:
        cafe = os.fsencode(root) + b"/caf\xe9"
        os.rename(root / "ant", cafe)
        os.rename(cafe + b"/image0.png", cafe + b"/b\xe4r\\x41.png")
        index = index_images(settings(root), 0)
        assert index.class_names == ("bee", "café")
        table = index.to_table()
        table.validate(full=True)
        (stored,) = [path for path in table["path"].to_pylist() if "\\xe4" in path]
        assert stored == f"bytes:{root}/caf\\xe9/b\\xe4r\\\\x41.png"
        with PictureReader(settings(root)) as reader:
            pictures = reader.read(table["path"].to_pylist())
        assert all(isinstance(picture, Picture) for picture in pictures)
        expected = np.array(Image.open(cafe + b"/b\xe4r\\x41.png"))
        (read,) = [picture for picture in pictures if picture.path == stored]
        assert isinstance(read, Picture)
        assert np.array_equal(read.pixels, expected)

    @pytest.mark.parametrize("name", [b"/a/b", b"/\xff\\xff/\\", b"/\\xe9", "/é/日本".encode(), b"/\xe9\\\\x41"])
    def test_paths_come_back(self, name: bytes) -> None:
        stored = stored_path(os.fsdecode(name))
        stored.encode()
        assert os.fsencode(file_path(stored)) == name

    def test_readable(self) -> None:
        assert readable_name("日本") == "日本"
        assert readable_name(os.fsdecode(b"caf\xe9")) == "café"
        assert readable_name(os.fsdecode(b"a\x81")) == "a\\x81"


SEVERAL = {"ant": 4, "bee": 5, "cat": 3, "dog": 1, "elk": 1}
LABELS = (FolderLabel(name="pet", folders=("dog", "cat")), FolderLabel(name="insect", folders=("ant",)))
REST = FolderLabel(name="else", rest=True)


def bees(*folders: str) -> FolderLabel:
    return FolderLabel(name="x", folders=folders)


class TestLabelsOfSeveralFolders:
    @pytest.fixture
    def several(self, tmp_path: Path) -> Path:
        return write_folders(tmp_path / "root", SEVERAL)

    def test_many_folders_make_few_labels(self, several: Path) -> None:
        index = index_images(settings(several, labels=(*LABELS, REST)), seed=0)
        assert index.class_names == ("pet", "insect", "else")
        folders = {label: {Path(path).parent.name for path in index.path[index.label == label]} for label in range(3)}
        assert folders == {0: {"cat", "dog"}, 1: {"ant"}, 2: {"bee", "elk"}}
        assert len(index) == sum(SEVERAL.values())
        assert index.notes == ()
        # The draw is of labels, so a folder of one image may be validated too.
        assert [len(index.rows(VALIDATION, label)) for label in range(3)] == [1, 1, 2]

    def test_without_a_rest_others_are_left_out_and_told(self, several: Path) -> None:
        index = index_images(settings(several, labels=LABELS), seed=0)
        assert index.class_names == ("pet", "insect")
        assert len(index) == 8
        (note,) = index.notes
        assert "data.folders: 6 images of 2 class folders that no label names were left out; the first is 'bee'" in note

    def test_validation_folders_have_labels_too(self, several: Path, tmp_path: Path) -> None:
        counted = write_folders(tmp_path / "val", {"cat": 1, "dog": 2, "ant": 2, "gnu": 1})
        index = index_images(settings(several, counted, labels=(*LABELS, REST)), seed=0)
        assert [len(index.rows(VALIDATION, label)) for label in range(3)] == [3, 2, 1]

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            ((*LABELS, bees("bea")), r"label 'x' must name class folders of data.folders, got 'bea'; did you mean bee"),
            ((*LABELS, bees("cat")), "folder 'cat' must belong to one label, got 'pet' and 'x'; leave it out of one"),
            ((*LABELS, bees("bee", "elk"), REST), "label 'else' must have class folders of data.folders left for it"),
        ],
    )
    def test_labels_that_do_not_fit(self, several: Path, labels: tuple[FolderLabel, ...], words: str) -> None:
        with pytest.raises(DataError, match=words):
            joined_classes(scan_folders([str(several)]), labels)

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.workflows.data.made_files import write_folders, write_names, write_parquet
from workflows.data.class_names import order_warning, pair_classes
from workflows.data.datasets import index_images
from workflows.errors import DataError
from workflows.settings import DataSettings

FIVE = ("airplane", "automobile", "bird", "cat", "deer")


class TestPairing:
    def test_a_name_that_is_not_called_so_is_refused_and_listed(self) -> None:
        with pytest.raises(DataError, match=r"4 of 5 class folders .* but not 'car' .*; rename these, or change"):
            pair_classes(FIVE, ("airplane", "bird", "car", "cat", "deer"))
        with pytest.raises(DataError, match=r"'aeroplane' \(nearest: airplane"):
            pair_classes(FIVE, ("aeroplane", "automobile", "bird", "cat", "deer"))
        with pytest.raises(DataError, match=r"and 90 more"):
            pair_classes(tuple(map(str, range(101))), ["0", *(f"x{i}" for i in range(100))])

    def test_one_stray_class_folder_beside_named_ones_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"5 of 6 class folders .* but not 'unsorted'"):
            pair_classes(FIVE, (*FIVE, "unsorted"))

    @pytest.mark.parametrize(
        "own",
        [
            ("Airplane", "Bird", "CAT"),
            ("001.airplane", "002.cat", "003.bird"),
            ("n01_airplane", "n02_bird", "n03_cat"),
            ("air-plane", "bird ", "cat."),
        ],
    )
    def test_case_punctuation_and_numbers_in_front_do_not_matter(self, own: tuple[str, ...]) -> None:
        names = ("cat", "dog", "air plane", "bird")
        paired = {name: names[label] for name, label in zip(own, pair_classes(names, own).labels, strict=True)}
        for name, found in paired.items():
            assert found.replace(" ", "") in name.lower().replace("-", "")

    def test_no_name_at_all_means_the_order(self) -> None:
        assert pair_classes(("tench", "goldfish"), ("n01440764", "n01443537")).labels == (0, 1)
        assert pair_classes(("crane", "crane"), ("n01", "n02")).labels == (0, 1)

    def test_the_order_must_not_contradict_nearly_equal_names(self) -> None:
        with pytest.raises(DataError, match=r"'cats' would be 'dog', but it is nearly 'cat'"):
            pair_classes(("dog", "cat"), ("cats", "dogs"))
        assert pair_classes(("cat", "dog"), ("cats", "dogs")).labels == (0, 1)

    def test_a_name_that_occurs_twice_is_refused_where_it_is_meant(self) -> None:
        with pytest.raises(DataError, match=r"class 'crane' fits the outputs 0 \('crane'\) and 2 \('crane'\)"):
            pair_classes(("crane", "fox", "crane"), ("crane", "fox"))
        assert pair_classes(("crane", "fox", "crane"), ("fox",)).labels == (1,)

    def test_numbers_count_as_numbers(self) -> None:
        own = sorted(map(str, range(12)))
        paired = pair_classes(None, own)
        assert paired.names == tuple(map(str, range(12)))
        assert [own[i] for i in np.argsort(paired.labels)] == list(map(str, range(12)))
        assert "in the order of numbers (0, 1, 2, 3, ...), not of texts (0, 1, 10, 11, ...;" in paired.notes[0]
        from_one = sorted(map(str, range(1, 12)))
        assert pair_classes(tuple("abcdefghijk"), from_one).labels == tuple(int(name) - 1 for name in from_one)
        padded = [f"{i:02d}" for i in range(12)]
        assert pair_classes(None, padded).labels == tuple(range(12))
        assert pair_classes(None, padded).notes == ()

    @pytest.mark.parametrize("own", [("10", "20", "3"), ("class1", "class10", "class2"), ("s_1", "s_10", "s_9")])
    def test_other_numbers_stay_texts_with_a_note(self, own: tuple[str, ...]) -> None:
        paired = pair_classes(None, own)
        assert paired.labels == (0, 1, 2)
        assert f"in the order of texts ({', '.join(own)}, ...), not of numbers" in paired.notes[0]

    def test_a_packaged_source_follows_the_names_too(self, tmp_path: Path) -> None:
        reversed_names = write_names(tmp_path / "names.json", [str(9 - i) for i in range(10)])
        plain = index_images(DataSettings(source="digits"), 0)
        index = index_images(DataSettings(source="digits", class_names=reversed_names), 0)
        shown = {path: name for path, name in zip(plain.path, plain.label_name, strict=True)}
        assert all(shown[path] == name for path, name in zip(index.path, index.label_name, strict=True))


class TestNumberedLabels:
    def test_the_outputs_name_them(self, tmp_path: Path) -> None:
        shard = write_parquet(tmp_path / "train.parquet", [b"x"] * 2, [0, 2])
        test = write_parquet(tmp_path / "test.parquet", [b"x"] * 2, [1, 0])
        index = index_images(DataSettings(source="parquet", train=(str(shard),), validation=(str(test),)), 0)
        assert index.class_names == ()
        assert index.label_name.tolist() == ["0", "2", "0", "1"]
        assert index.for_outputs(5).class_names == ("0", "1", "2", "3", "4")
        words = r"image '.*train.parquet#1' has label 2, but the network has 2 outputs, labels 0 to 1; .*\(1 images"
        with pytest.raises(DataError, match=words):
            index.for_outputs(2)

    @pytest.mark.parametrize(("label", "words"), [(10**6 - 1, None), (10**6, "has label 1000000; .* positions")])
    def test_a_huge_label_makes_no_names(self, tmp_path: Path, label: int, words: str | None) -> None:
        shard = write_parquet(tmp_path / "train.parquet", [b"x"] * 2, [0, label])
        test = write_parquet(tmp_path / "test.parquet", [b"x"])
        settings = DataSettings(source="parquet", train=(str(shard),), validation=(str(test),))
        if words is None:
            with pytest.raises(DataError, match="has label 999999, but the network has 10 outputs"):
                index_images(settings, 0).for_outputs(10)
        else:
            with pytest.raises(DataError, match=words):
                index_images(settings, 0)

    def test_folders_have_as_many_names_as_the_network_outputs(self, tmp_path: Path) -> None:
        index = index_images(
            DataSettings(source="folders", folders=(str(write_folders(tmp_path, {"a": 4, "b": 4})),)), 0
        )
        with pytest.raises(DataError, match="the network has 3 outputs, the data 2 classes: name every output"):
            index.for_outputs(3)


def drawn(n_images: int, classes: int, accuracy: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of a network of this accuracy whose other predictions are any class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n_images)
    return labels, np.where(rng.random(n_images) < accuracy, labels, rng.integers(0, classes, n_images))


class TestOrderWarning:
    def test_two_classes_exchanged_of_five(self) -> None:
        labels, predicted = drawn(500, 5, 0.9)
        exchanged = np.array([0, 2, 1, 3, 4])[labels]
        told = order_warning(exchanged, predicted, FIVE)
        assert told is not None
        now, best = np.mean(exchanged == predicted), np.mean(labels == predicted)
        assert told.startswith(f"{now:.1%} of 500 images are predicted as they are labelled, but {best:.1%} would be")
        assert "'automobile' looks like output 'bird', 'bird' looks like output 'automobile'; see whether" in told

    def test_text_order_of_twelve_numbers(self) -> None:
        labels, predicted = drawn(240, 12, 0.8)
        names = tuple(map(str, range(12)))
        as_text = np.argsort(np.argsort(names))
        told = order_warning(as_text[labels], predicted, names)
        assert told is not None
        assert "'2' looks like output '10'" in told

    def test_one_image_a_class(self) -> None:
        labels = np.arange(1000)
        _, predicted = drawn(1000, 1000, 0.8)
        predicted = np.where(np.random.default_rng(1).random(1000) < 0.8, labels, predicted)
        assert order_warning(labels, predicted, tuple(map(str, labels))) is None
        told = order_warning((labels + 1) % 1000, predicted, tuple(map(str, labels)))
        assert told is not None
        assert re.search(r", and [5-7]\d\d more; see whether", told)

    @pytest.mark.parametrize("accuracy", [0.0, 0.2, 0.5, 0.9, 1.0])
    @pytest.mark.parametrize("classes", [2, 10, 300])
    def test_an_honest_network_is_not_blamed(self, accuracy: float, classes: int) -> None:
        for seed in range(20):
            labels, predicted = drawn(300, classes, accuracy, seed)
            assert order_warning(labels, predicted, tuple(map(str, range(classes)))) is None

    def test_one_class_for_everything_and_broken_pictures(self) -> None:
        labels = np.repeat(np.arange(5), [10, 10, 10, 10, 60])
        assert order_warning(labels, np.zeros(100, int), FIVE) is None
        assert order_warning(labels, np.full(100, -1), FIVE) is None

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workflows.data.datasets import TRAIN, VALIDATION, index_images
from workflows.data.packaged import load_cifar10, load_digits
from workflows.data.reading import Picture, PictureReader
from workflows.errors import DataError
from workflows.settings import DataSettings


def test_digits_are_a_stratified_split_of_real_digits() -> None:
    index = index_images(DataSettings(source="digits"), 0)
    assert len(index) == 1797
    assert index.class_names == tuple("0123456789")
    sizes = [(len(index.rows(TRAIN, m)), len(index.rows(VALIDATION, m))) for m in range(10)]
    assert all(abs(v / (t + v) - 0.25) < 0.005 for t, v in sizes)
    assert index.path[0].startswith("digits#")


def test_digits_are_upsampled_rgb() -> None:
    from sklearn import datasets

    settings = DataSettings(source="digits")
    with PictureReader(settings) as reader:
        (picture,) = reader.read(["digits#17"])
    assert isinstance(picture, Picture)
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.dtype == np.uint8
    original = datasets.load_digits().images[17] * 255 / 16
    cells = picture.pixels[:, :, 1].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(cells.ravel(), original.ravel())[0, 1] > 0.97
    assert abs(cells.mean() - original.mean()) < 3
    assert load_digits().pixels.max() == 255
    picture.pixels[:] = 0
    assert load_digits().pixels[17].any()


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Files in CIFAR-10's own layout, with the checksums that torchvision compares exchanged for theirs."""
    from workflows.networks.compiled_ops import torchvision

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)

    def write(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(count: int) -> dict[str, object]:
        labels = random.integers(0, 10, count).tolist()
        return {"data": random.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": labels}

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    train = [[name, write(name, batch(20))] for name in (f"data_batch_{i}" for i in range(1, 6))]
    test = [["test_batch", write("test_batch", batch(15))]]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", {"label_names": names})}
    for field, value in (("train_list", train), ("test_list", test), ("meta", meta)):
        monkeypatch.setattr(torchvision.datasets.CIFAR10, field, value)
    load_cifar10.cache_clear()
    yield str(tmp_path)
    load_cifar10.cache_clear()


def test_cifar10_through_torchvision(cifar_root: str) -> None:
    settings = DataSettings(source="cifar10", root=cifar_root)
    index = index_images(settings, 0)
    assert (len(index.rows(TRAIN)), len(index.rows(VALIDATION))) == (100, 15)
    assert index.class_names[9] == "truck"
    with open(f"{cifar_root}/cifar-10-batches-py/data_batch_2", "rb") as file:
        batch = pickle.load(file)
    position = index.path.tolist().index("cifar10/train#23")
    assert index.label[position] == batch["labels"][3]
    with PictureReader(settings) as reader:
        train, test = reader.read(["cifar10/train#23", "cifar10/test#14"])
        assert isinstance(train, Picture)
        assert isinstance(test, Picture)
        assert np.array_equal(train.pixels, batch["data"][3].reshape(3, 32, 32).transpose(1, 2, 0))
        with pytest.raises(DataError, match="cifar10/test has 15 images and no image 15"):
            reader.read(["cifar10/test#15"])
        with pytest.raises(DataError, match="is not of the source cifar10; index the images again"):
            reader.read(["digits#1"])


def test_cifar10_that_is_missing_or_damaged(cifar_root: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.root is empty"):
        index_images(DataSettings(source="cifar10"), 0)
    with pytest.raises(DataError, match=r"CIFAR-10 cannot be loaded .*set data.download = true"):
        index_images(DataSettings(source="cifar10", root=str(tmp_path / "none")), 0)
    damaged = Path(cifar_root) / "cifar-10-batches-py" / "test_batch"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match="CIFAR-10 cannot be loaded"):
        index_images(DataSettings(source="cifar10", root=cifar_root), 0)

"""What is decoded on a device, what is left to the CPU, and that both give the same crops; here the device is a CPU."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workflows.data.decoding import decode_picture
from workflows.data.device_decoding import DeviceDecoder, device_decoder, is_usual_jpeg
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import BrokenPicture, Picture, PictureReader
from workflows.errors import SettingsError
from workflows.settings import DataSettings, PreprocessingSettings

CPU = torch.device("cpu")
PREPROCESSOR = Preprocessor(PreprocessingSettings(resize=64, crop=56, mean=(0.5,) * 3, std=(0.5,) * 3))


def photo(height: int = 90, width: int = 120, mode: str = "RGB") -> Image.Image:
    """Smooth colours, as JPEG likes them."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([x * 2, y * 2, (x + y) % 256], axis=2).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(files: list[torch.Tensor]) -> list[torch.Tensor]:
    """Stands for the decoder of a device."""
    return [torch.from_numpy(decode_picture(file.numpy().tobytes())).permute(2, 0, 1) for file in files]


def failing(files: list[torch.Tensor]) -> list[torch.Tensor]:
    raise RuntimeError("nvJPEG: 4")


def renamed(jpeg: bytes) -> bytes:
    """Its components are called R, G, B: no YCbCr."""
    place = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg) + 10
    changed = bytearray(jpeg)
    changed[place : place + 9 : 3] = b"RGB"
    return bytes(changed)


WHOLE = encoded(photo())


@pytest.mark.parametrize(
    ("file", "usual"),
    [
        (WHOLE, True),
        (encoded(photo(), progressive=True, subsampling=0), True),
        (WHOLE + b"\0\0", True),
        (encoded(photo(mode="L")), False),
        (encoded(photo(mode="CMYK")), False),
        (renamed(WHOLE), False),
        (WHOLE[:-200], False),
        (WHOLE[:30] + b"\xff\xd9", False),
        (encoded(photo(), "PNG"), False),
        (b"", False),
    ],
)
def test_which_pictures_all_decoders_read_alike(file: bytes, usual: bool) -> None:
    assert is_usual_jpeg(file) == usual


@pytest.mark.parametrize(("resize", "crop"), [(64, 56), (None, 56), (64, None), (None, None), (150, 149)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_those_of_the_cpu_within_a_grey_level(resize: int | None, crop: int | None, channels: int) -> None:
    numbers = (0.5,) * channels
    settings = PreprocessingSettings(resize=resize, crop=crop, channels=channels, mean=numbers, std=numbers)
    own = Preprocessor(settings)
    for shape in ((90, 120), (121, 80)):
        pixels = np.array(photo(*shape))
        found, usual = own.crop_on_device(torch.from_numpy(pixels).permute(2, 0, 1)), own.crop(pixels)
        assert (found.shape, found.dtype) == (usual.shape, usual.dtype)
        assert np.abs(found.astype(int) - usual).max() <= 1


def test_what_a_device_does_not_decode_is_the_cpus(tmp_path: Path) -> None:
    """A folder of all kinds, read with and without a device: the same pictures, the same reasons."""
    kinds = {
        "usual.jpg": WHOLE,
        "grey.jpg": encoded(photo(mode="L")),
        "plain.png": encoded(photo(), "PNG"),
        "cut.jpg": WHOLE[:-200],
        "small.jpg": encoded(photo(20, 2000)),
        "empty.jpg": b"",
    }
    for name, file in kinds.items():
        (tmp_path / name).write_bytes(file)
    data = DataSettings(source="folders", folders=(str(tmp_path),), train=(), validation=())
    paths = [str(tmp_path / name) for name in kinds]
    asked: list[int] = []

    def noted(files: list[torch.Tensor]) -> list[torch.Tensor]:
        asked.append(len(files))
        return by_pillow(files)

    with PictureReader(data, 1, PREPROCESSOR.crop) as reader:
        usual = reader.read(paths)
    for decode in (noted, failing):
        decoder = DeviceDecoder(PREPROCESSOR, CPU, decode)
        with PictureReader(data, 1, PREPROCESSOR.crop, on_device=decoder) as reader:
            found = reader.read(paths)
        for ours, theirs in zip(found, usual, strict=True):
            assert type(ours) is type(theirs)
            if isinstance(ours, BrokenPicture):
                assert ours == theirs
            elif isinstance(theirs, Picture):
                assert np.abs(ours.pixels.astype(int) - theirs.pixels).max() <= 1
    assert sum(asked) == 2, "the usual one and the small one"


def test_one_that_a_device_cannot_decode_leaves_the_others_to_it() -> None:
    other = encoded(photo(80, 80))

    def picky(files: list[torch.Tensor]) -> list[torch.Tensor]:
        if any(file.numpy().tobytes() == other for file in files):
            raise RuntimeError("nvJPEG: 4")
        return by_pillow(files)

    found = DeviceDecoder(PREPROCESSOR, CPU, picky)([WHOLE, other, None, WHOLE])
    assert [one is None for one in found] == [False, True, True, False]

    def full(files: list[torch.Tensor]) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        DeviceDecoder(PREPROCESSOR, CPU, full)([WHOLE])


def test_a_device_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_decoder("cpu", PREPROCESSOR, CPU) is None
    with pytest.raises(SettingsError, match=r"extract\.decode: must be 'cpu' where actors have no GPU, got 'device'"):
        device_decoder("device", PREPROCESSOR, CPU)
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match=r"extract\.decode: must be 'cpu' with this torchvision, .* no CUDA"):
            device_decoder("device", PREPROCESSOR, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_decodes_within_a_few_grey_levels() -> None:
    decoder = device_decoder("device", PREPROCESSOR, torch.device("cuda"))
    assert decoder is not None
    found, none = decoder([WHOLE, WHOLE[:-200]])
    assert none is None
    assert found is not None
    assert np.abs(found.astype(int) - PREPROCESSOR.crop(decode_picture(WHOLE))).mean() <= 2

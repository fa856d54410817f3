from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.workflows.data.made_files import noise
from workflows.data.decoding import PictureError
from workflows.data.preprocessing import Preprocessor
from workflows.errors import DataError, SettingsError
from workflows.settings import PreprocessingSettings

IMAGENET = PreprocessingSettings(resize=256, crop=224)
CAFFE = PreprocessingSettings(channel_order="bgr", scale=1, mean=(103.939, 116.779, 123.68), std=(1, 1, 1))


def normalised_in_loops(batch: np.ndarray, settings: PreprocessingSettings) -> np.ndarray:
    """The slow twin: (x / scale - mean) / std in double precision, one value after another."""
    n_images, height, width, channels = batch.shape
    result = np.empty((n_images, channels, height, width))
    for image in range(n_images):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    stored = c if settings.channel_order == "rgb" else 2 - c
                    value = float(batch[image, y, x, stored]) / settings.scale
                    result[image, c, y, x] = (value - settings.mean[c]) / settings.std[c]
    return result


@pytest.mark.parametrize(
    "settings",
    [PreprocessingSettings(), PreprocessingSettings(scale=1, mean=(123, 117, 104), std=(1, 1, 1)), CAFFE],
)
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_normalise_equals_the_slow_twin(settings: PreprocessingSettings, kind: str) -> None:
    batch = np.stack([noise(6, 5, seed) for seed in range(4)])
    given = batch if kind == "array" else torch.from_numpy(batch)
    values = Preprocessor(settings).normalise(given)
    exact = normalised_in_loops(batch, settings)
    assert values.dtype == torch.float32
    assert tuple(values.shape) == (4, 3, 6, 5)
    assert values.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(values.numpy() - exact).max() <= 2e-7 * np.abs(exact).max() + 2e-7
    assert np.array_equal(batch[0], noise(6, 5, 0))


def test_normalise_of_one_image_equals_its_place_in_a_batch() -> None:
    batch = np.stack([noise(32, 32, seed) for seed in range(9)])
    preprocessor = Preprocessor(PreprocessingSettings())
    whole = preprocessor.normalise(batch)
    for i in range(9):
        assert torch.equal(whole[i], preprocessor.normalise(batch[i : i + 1])[0])


def test_blue_comes_first_where_the_network_reads_it_so() -> None:
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    values = Preprocessor(CAFFE).normalise(red)
    np.testing.assert_allclose(values[0, :, 0, 0], [-103.939, -116.779, 255 - 123.68], rtol=1e-6)
    assert np.array_equal(Preprocessor(CAFFE).crop(red[0]), red[0])  # figures show pictures as they are


def test_an_empty_batch() -> None:
    preprocessor = Preprocessor(IMAGENET)
    assert tuple(preprocessor.normalise(preprocessor.stack([], (224, 224))).shape) == (0, 3, 224, 224)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (256, 300), (300, 256), (100, 80), (257, 641)])
def test_geometry_equals_torchvision_on_pillow(height: int, width: int) -> None:
    from workflows.networks.compiled_ops import torchvision

    smooth = noise(height // 16 + 2, width // 16 + 2)
    pixels = np.array(Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC))
    reference = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224)]
    )
    expected = np.asarray(reference(Image.fromarray(pixels))).astype(int)
    crop = Preprocessor(IMAGENET).crop(pixels)
    assert crop.dtype == np.uint8
    assert crop.flags.c_contiguous
    assert np.abs(crop - expected).max() <= 1


def test_without_settings_the_picture_is_untouched() -> None:
    assert np.array_equal(Preprocessor(PreprocessingSettings()).crop(noise(9, 4)), noise(9, 4))


def test_the_centre_is_cut_out() -> None:
    pixels = noise(9, 6)
    assert np.array_equal(Preprocessor(PreprocessingSettings(crop=4)).crop(pixels), pixels[2:6, 1:5])


def test_antialiasing_averages_what_is_left_out() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = Preprocessor(PreprocessingSettings(resize=16)).crop(stripes)
    assert np.abs(crop[:, 2:-2].astype(int) - 127).max() <= 2


def test_input_size_is_known_where_the_crop_is() -> None:
    assert Preprocessor(IMAGENET).input_size == (224, 224)
    assert Preprocessor(PreprocessingSettings(resize=20)).input_size is None


def test_pictures_smaller_than_the_crop() -> None:
    with pytest.raises(PictureError, match=r"too small: 7 x 5 pixels .*crop 6; set preprocessing.resize"):
        Preprocessor(PreprocessingSettings(crop=6)).crop(noise(5, 7))


def test_a_line_of_pixels_does_not_grow_beyond_memory() -> None:
    with pytest.raises(PictureError, match="too narrow: 9000 x 1 pixels would be resized to 2304000 x 256"):
        Preprocessor(IMAGENET).crop(noise(1, 9000))


@pytest.mark.parametrize("size", [None, (4, 4)])
def test_one_run_has_one_size(size: tuple[int, int] | None) -> None:
    with pytest.raises(DataError, match=r"4 x 4 .* 4 x 5 pixels .* set preprocessing.resize and preprocessing.crop"):
        Preprocessor(PreprocessingSettings()).stack([noise(4, 4), noise(4, 5)], size)


def test_the_size_of_the_run_binds_a_batch_of_equals() -> None:
    with pytest.raises(DataError, match="4 x 4"):
        Preprocessor(PreprocessingSettings()).stack([noise(5, 5)], (4, 4))


def test_stack() -> None:
    stacked = Preprocessor(PreprocessingSettings()).stack([noise(4, 5, 0), noise(4, 5, 1)])
    assert np.array_equal(stacked[1], noise(4, 5, 1))


def test_contradicting_settings() -> None:
    with pytest.raises(SettingsError, match=r"preprocessing.crop \(30\) must not be above preprocessing.resize \(20\)"):
        Preprocessor(PreprocessingSettings(resize=20, crop=30))
    with pytest.raises(SettingsError, match=r"preprocessing.mean must have 3 numbers.*came 1"):
        Preprocessor(PreprocessingSettings(mean=(0.5,)))
    with pytest.raises(SettingsError, match=r"mean must have 3 numbers, one each for blue, green and red, came 1"):
        Preprocessor(PreprocessingSettings(mean=(0.5,), channel_order="bgr"))


class TestGrey:
    SETTINGS = PreprocessingSettings(channels=1, mean=(0.5,), std=(0.25,), crop=20)

    def test_the_crop_is_grey_as_pillow_makes_it(self) -> None:
        picture = noise(30, 20)
        crop = Preprocessor(self.SETTINGS).crop(picture)
        expected = np.array(Image.fromarray(picture[5:25]).convert("L"))
        assert np.array_equal(crop, np.repeat(expected[:, :, None], 3, axis=2))

    def test_grey_pictures_stay_as_they_are(self) -> None:
        every = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        settings = self.SETTINGS.model_copy(update={"crop": 16})
        assert np.array_equal(Preprocessor(settings).crop(every), every)

    @pytest.mark.parametrize("kind", ["array", "tensor"])
    def test_normalise_gives_one_channel(self, kind: str) -> None:
        preprocessor = Preprocessor(self.SETTINGS)
        batch = preprocessor.stack([preprocessor.crop(noise(20, 20, seed)) for seed in range(3)])
        values = preprocessor.normalise(batch if kind == "array" else torch.from_numpy(batch))
        assert values.shape == (3, 1, 20, 20)
        np.testing.assert_allclose(values, normalised_in_loops(batch[..., :1], self.SETTINGS), atol=1e-6)

    def test_mean_and_std_are_single_numbers(self) -> None:
        with pytest.raises(SettingsError, match=r"mean must have 1 number, for grey, came 3; give as many"):
            Preprocessor(PreprocessingSettings(channels=1))

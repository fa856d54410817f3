from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.workflows.data.made_files import encoded, noise
from workflows.data import decoding
from workflows.data.decoding import PictureError, check_readable, decode_picture

GRAY = noise(5, 7)[:, :, 0]
RGB = noise(5, 7, 1)


def test_rgb_png_comes_back_exactly() -> None:
    pixels = decode_picture(encoded(RGB))
    assert np.array_equal(pixels, RGB)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable


def by_pillow(made: bytes) -> np.ndarray | None:
    try:
        return np.array(Image.open(io.BytesIO(made)))
    except (OSError, SyntaxError, ValueError):
        return None


def png(height: int, width: int, lines: np.ndarray, parts: int, interlaced: bool = False) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = zlib.compress(lines.tobytes())
    step = -(-len(data) // parts)
    pieces = b"".join(chunk(b"IDAT", data[i : i + step]) for i in range(0, len(data), step))
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pieces + chunk(b"IEND", b"")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_every_filter_of_a_png_equals_pillow(height: int, width: int, parts: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = random.integers(0, 256, (height, 1 + 3 * width), dtype=np.uint8)
    lines[:, 0] = random.integers(0, 5, height)
    made = png(height, width, lines, parts)
    pixels = decode_picture(made)
    assert np.array_equal(pixels, by_pillow(made))
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


def test_a_png_is_read_or_refused_as_by_pillow(capfd: pytest.CaptureFixture[str]) -> None:
    made = encoded(noise(8, 9))
    damaged = [made[:position] + bytes([made[position] ^ 129]) + made[position + 1 :] for position in range(len(made))]
    for data in [*damaged, *(made[:length] for length in range(8, len(made)))]:
        expected = by_pillow(data)
        if expected is None:
            with pytest.raises(PictureError):
                decode_picture(data)
        elif expected.ndim == 3 and expected.shape[2] == 3:
            assert np.array_equal(decode_picture(data), expected)
    assert capfd.readouterr().err == "", "no library writes into the progress bars"


def test_a_png_with_extras_equals_pillow() -> None:
    lines = np.zeros((1, 4), np.uint8)
    assert np.array_equal(decode_picture(png(1, 1, lines, 1, interlaced=True)), [[[0, 0, 0]]])
    transparent = encoded(Image.fromarray(RGB), transparency=tuple(RGB[0, 0].tolist()))
    assert np.array_equal(decode_picture(transparent), RGB)
    described = PngInfo()
    described.add_text("Title", "a picture")
    described.add(b"gAMA", struct.pack(">I", 45455))
    assert np.array_equal(decode_picture(encoded(Image.fromarray(RGB), pnginfo=described, icc_profile=b"x" * 9)), RGB)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(kind: str) -> None:
    assert np.array_equal(decode_picture(encoded(RGB, kind, **({"lossless": True} if kind == "WEBP" else {}))), RGB)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_grayscale_is_repeated_in_three_channels(kind: str) -> None:
    assert np.array_equal(decode_picture(encoded(GRAY, kind)), np.stack([GRAY] * 3, axis=2))


def test_black_and_white() -> None:
    bits = GRAY > 127
    assert np.array_equal(decode_picture(encoded(Image.fromarray(bits))), np.stack([bits * 255] * 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette(kind: str) -> None:
    image = Image.fromarray(GRAY % 4).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 128] + [0] * (252 * 3))
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [255, 0, 128]])
    assert np.array_equal(decode_picture(encoded(image, kind)), colours[GRAY % 4])


def test_palette_with_an_alpha_for_each_colour() -> None:
    image = Image.fromarray(GRAY % 2).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60] + [0] * (254 * 3))
    made = encoded(image, transparency=bytes([0, 128]))
    assert np.array_equal(decode_picture(made), np.array([[10, 20, 30], [40, 50, 60]])[GRAY % 2])


@pytest.mark.parametrize("alpha", [0, 77, 255])
def test_alpha_is_dropped_without_blending(alpha: int) -> None:
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], alpha, np.uint8)])
    assert np.array_equal(decode_picture(encoded(rgba)), RGB)
    gray = np.dstack([GRAY, np.full(GRAY.shape, alpha, np.uint8)])
    assert np.array_equal(decode_picture(encoded(Image.fromarray(gray))), np.stack([GRAY] * 3, axis=2))


def test_cmyk() -> None:
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:4, :, 0] = 255  # full cyan: no red
    cmyk[4:, :, 3] = 255  # full black
    for kind, exact in (("TIFF", 0), ("JPEG", 3)):
        pixels = decode_picture(encoded(Image.fromarray(cmyk, "CMYK"), kind, **_quality(kind))).astype(int)
        assert np.abs(pixels[:4] - [0, 255, 255]).max() <= exact
        assert np.abs(pixels[4:]).max() <= exact


def _quality(kind: str) -> dict[str, int]:
    return {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_and_not_clipped(kind: str) -> None:
    wide = np.array([[0, 128, 129, 255, 256, 257, 32767, 32768, 65279, 65535]], np.uint16)
    expected = [round(int(value) / 257) for value in wide[0]]
    pixels = decode_picture(encoded(Image.fromarray(wide), kind))
    assert pixels[0, :, 0].tolist() == expected
    assert expected[-1] == 255
    assert expected[-4] == 127
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])


def test_16_bits_in_colour_are_scaled() -> None:
    values = (0, 0x1234, 0xFFFF, 0x8000, 0x00FF, 0xFE00)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">II5B", 2, 1, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">6H", *values)))
    made = b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")
    exact = np.array(values) / 257
    assert np.abs(decode_picture(made).ravel() - exact).max() <= 1


def test_pixels_without_a_defined_white_are_refused() -> None:
    for pixels in (np.full((2, 2), 70_000, np.int32), np.full((2, 2), -1, np.int32), np.ones((2, 2), np.float32)):
        with pytest.raises(PictureError, match="white is not defined; store 8 or 16 bits"):
            decode_picture(encoded(Image.fromarray(pixels), "TIFF"))


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(encoded(RGB, "JPEG", exif=exif)).shape == (5, 7, 3)


def test_the_first_of_several_frames() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    made = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(made)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncation_at_any_place_is_a_picture_error(kind: str) -> None:
    made = encoded(noise(24, 24), kind)
    for length in range(0, len(made) * 3 // 4, max(len(made) // 40, 1)):
        with pytest.raises(PictureError, match=r"\w"):
            decode_picture(made[:length])
        with pytest.raises(PictureError, match=r"\w"):
            check_readable(made[:length])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_hostile_bytes_give_pixels_or_a_picture_error(kind: str) -> None:
    random = np.random.default_rng(0)
    made, refused = np.frombuffer(encoded(noise(12, 12), kind), np.uint8), 0
    for _ in range(150):
        damaged = made.copy()
        damaged[random.integers(0, len(made), 3)] = random.integers(0, 256, 3)
        try:
            assert decode_picture(damaged.tobytes()).shape[2] == 3
        except PictureError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not a picture in a known format (JPEG, PNG, BMP, GIF, TIFF, WEBP, PPM, JPEG2000)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a known format"),
        (encoded(RGB)[:60], "broken or truncated"),
        (encoded(noise(40, 40), "JPEG")[:900], "truncated"),
    ],
)
def test_reasons(made: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=re.escape(reason)):
        decode_picture(made)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_picture_of_too_many_pixels_is_not_unfolded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    made = encoded(noise(10, 11), kind)
    with pytest.raises(PictureError, match="too large: 11 x 10 pixels, allowed are 100"):
        decode_picture(made)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 110)
    assert decode_picture(made).shape == (10, 11, 3)


def test_reasons_hold_no_memory_address() -> None:
    assert decoding._stable_text(OSError("bad <X object at 0x7f3a> here")) == "bad <X object> here"
    assert decoding._stable_text(EOFError()) == "EOFError"

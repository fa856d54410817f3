"""One encoded picture to RGB pixels, or the reason why not."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from imagecodecs import SpngError, spng_decode
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from workflows.errors import DataError

Pixels = UInt8[np.ndarray, "H W 3"]
"""An RGB picture, 0 to 255."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""Formats that are opened. A closed list: some others of Pillow's start outside programs."""

MAX_PIXELS = 89_478_485
"""Larger pictures are refused: a few kilobytes can claim to be gigabytes of pixels. Pillow's own limit."""


_PNG, _EIGHT_BIT_RGB = b"\x89PNG\r\n\x1a\n", b"\x08\x02"


class PictureError(DataError):
    """One picture cannot be used; the run skips it and goes on."""


@dataclass(frozen=True)
class Picture:
    """A readable picture.

    Attributes:
        path: its path in the image index.
        pixels: uint8 (H, W, 3), RGB.
    """

    path: str
    pixels: Pixels


@dataclass(frozen=True)
class BrokenPicture:
    """A picture that cannot be used; ``reason`` goes into the image table."""

    path: str
    reason: str


def unbroken(picture: Picture | BrokenPicture) -> Picture:
    """A picture of a run. Raises DataError: the run could read it, and now it is broken."""
    if isinstance(picture, BrokenPicture):
        raise DataError(f"{picture.path!r} could be read before, now it is {picture.reason}: restore it")
    return picture


def decode_picture(encoded: bytes) -> Pixels:
    """Decode to RGB, uint8 (H, W, 3), in the pixel axes of the file.

    Grayscale, palette and CMYK pictures are converted; 16 bits are scaled to 8, 65535 becoming 255; alpha is
    dropped without blending. The EXIF orientation is ignored. Alpha and orientation follow the loader with which
    torchvision's networks were trained, and boxes of data sets are given in the stored axes.
    Of several frames the first is taken.

    Raises:
        PictureError: the bytes are no picture of a known format, broken, truncated, or too large.
    """
    pixels = _plain_png(encoded)
    return _guarded(encoded, _to_rgb) if pixels is None else pixels


def check_readable(encoded: bytes) -> None:
    """Find out whether a picture can be decoded; of a JPEG only an eighth of the size is made.

    Raises:
        PictureError: see ``decode_picture``.
    """
    _guarded(encoded, _load_small)


def _plain_png(encoded: bytes) -> Pixels | None:
    """Pixels of the usual PNG, 8-bit RGB, in half of Pillow's time; None: Pillow decodes it, or says what is wrong."""
    if not encoded.startswith(_PNG) or encoded[24:26] != _EIGHT_BIT_RGB:
        return None
    width, height = int.from_bytes(encoded[16:20]), int.from_bytes(encoded[20:24])
    if not 0 < width * height <= MAX_PIXELS:
        return None
    try:
        pixels = spng_decode(encoded)
    except SpngError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None  # a transparent colour makes four


def _guarded(encoded: bytes, use: Callable[[Image.Image], Pixels]) -> Pixels:
    if not encoded:
        raise PictureError("empty: there are no bytes")
    try:
        image = _open(encoded)
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(f"too large: {image.width} x {image.height} pixels, allowed are {MAX_PIXELS}")
        return use(image)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # Decoders raise anything on hostile bytes; one picture must not end the run.
        raise PictureError(f"broken or truncated: {_stable_text(error)}") from None


def _open(encoded: bytes) -> Image.Image:
    # The two usual formats go straight to their decoder: 10 % of the time of a small PNG is Pillow's search.
    # It also takes the first picture of a camera's multi-picture JPEG without a warning.
    if encoded.startswith(_PNG):
        return PngImageFile(io.BytesIO(encoded))
    if encoded.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(io.BytesIO(encoded))
    return Image.open(io.BytesIO(encoded), formats=FORMATS)


def _load_small(image: Image.Image) -> Pixels:
    image.draft("RGB", (1, 1))
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Pixels:
    image.load()
    # np.array and not np.asarray: a view of Pillow's bytes is read-only, which torch does not take.
    if image.mode == "RGB":
        return np.array(image)
    if image.mode.startswith("I"):
        return np.repeat(_scaled_to_8_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise PictureError("floating-point pixels: their white is not defined; store 8 or 16 bits")
    if "transparency" in image.info:
        # Straight to RGB, Pillow would warn about palettes with an alpha of their own.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _scaled_to_8_bits(gray: Int[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    wide = gray.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 65535):
        raise PictureError("32-bit pixels: their white is not defined; store 8 or 16 bits")
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)


def _stable_text(error: Exception) -> str:
    # Reasons are written to a table that must be equal in every run, so no memory addresses.
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).strip()
    return text or type(error).__name__

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workflows.data.made_files import encoded, noise
from workflows.data.plain_png import SIGNATURE, decode_plain_png

LIMIT = 10**6


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(height: int, width: int, data: bytes, parts: int = 1, header: bytes = bytes((8, 2, 0, 0, 0))) -> bytes:
    step = -(-len(data) // parts)
    pieces = b"".join(chunk(b"IDAT", data[i : i + step]) for i in range(0, len(data), step))
    return SIGNATURE + chunk(b"IHDR", struct.pack(">II", width, height) + header) + pieces + chunk(b"IEND", b"")


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32), st.data())
@settings(max_examples=200, deadline=None)
def test_every_filter_equals_pillow(height: int, width: int, parts: int, seed: int, data: st.DataObject) -> None:
    lines = np.random.default_rng(seed).integers(0, 256, (height, 1 + 3 * width), dtype=np.uint8)
    lines[:, 0] = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    made = png(height, width, zlib.compress(lines.tobytes()), parts)
    decoded = decode_plain_png(made, LIMIT)
    assert decoded is not None
    assert np.array_equal(decoded, pillow(made))


def test_pictures_that_pillow_wrote() -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50))[:, :, None] * np.array([1, 2, 3])
    for pixels in (noise(33, 17), smooth.astype(np.uint8)):
        decoded = decode_plain_png(encoded(pixels), LIMIT)
        assert decoded is not None
        assert np.array_equal(decoded, pixels)
        assert decoded.flags.writeable
        assert decoded.flags.c_contiguous


GOOD = png(2, 2, zlib.compress(bytes(14)))
OTHERS = {
    "nothing": b"",
    "signature only": SIGNATURE,
    "no data chunk": SIGNATURE + chunk(b"IHDR", struct.pack(">II", 2, 2) + bytes((8, 2, 0, 0, 0))) + GOOD[-12:],
    "truncated": GOOD[:-20],
    "16 bits": png(2, 2, zlib.compress(bytes(26)), header=bytes((16, 2, 0, 0, 0))),
    "interlaced": png(2, 2, zlib.compress(bytes(14)), header=bytes((8, 2, 0, 0, 1))),
    "no pixel": png(0, 2, zlib.compress(b"")),
    "too large": png(2000, 2000, zlib.compress(bytes(14))),
    "unknown filter": png(2, 2, zlib.compress(bytes([5, *bytes(13)]))),
    "too few lines": png(2, 2, zlib.compress(bytes(7))),
    "unfolds to more": png(2, 2, zlib.compress(bytes(10**7))),
    "compressed data cut": png(2, 2, zlib.compress(bytes(14))[:-5]),
    "another chunk": GOOD[:33] + chunk(b"tEXt", b"a\0b") + GOOD[33:],
    "bytes behind the end": GOOD + b"x",
}


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_is_left_to_pillow(name: str) -> None:
    assert decode_plain_png(OTHERS[name], LIMIT) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(deadline=None)
def test_no_flipped_bit_goes_unseen(position: int, change: int) -> None:
    damaged = bytearray(GOOD)
    damaged[position] ^= change
    assert decode_plain_png(bytes(damaged), LIMIT) is None


def test_the_undamaged_picture_is_read() -> None:
    pixels = decode_plain_png(GOOD, LIMIT)
    assert pixels is not None
    assert np.array_equal(pixels, np.zeros((2, 2, 3), np.uint8))

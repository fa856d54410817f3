"""JPEGs decoded, resized and cropped on a GPU (``extract.decode = "device"``); all else stays with the CPU's decoder.

A GPU's decoder rounds colours and upsamples them in its own way, so pixels differ by a few grey levels and some words
with them: this is another run than one of the CPU's decoder, not a faster way to the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from workflows.data.decoding import MAX_PIXELS, PictureError, Pixels
from workflows.data.preprocessing import Preprocessor
from workflows.errors import SettingsError

Decode = Callable[[list[UInt8[Tensor, " bytes"]]], list[UInt8[Tensor, "3 H W"]]]

_FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of frames that are decoded on a device: baseline, extended, progressive; Huffman-coded all."""
_START, _SCAN, _ADOBE = b"\xff\xd8", 0xDA, 0xEE
_YCBCR = 1


class DeviceDecoder:
    """From encoded pictures to the crops that a network is given, by way of a device.

    Args:
        preprocessor: whose crops are made.
        device: that decodes.
        decode: from encoded JPEGs to pictures on the device, RGB.
    """

    def __init__(self, preprocessor: Preprocessor, device: torch.device, decode: Decode) -> None:
        self._preprocessor, self._decode = preprocessor, decode
        # Of its own: on the network's, decoding would wait for the batch that is in the network.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, encoded: Sequence[Any]) -> list[Pixels | None]:
        """Crops (H, W, 3) uint8 in host memory; None is for the CPU's decoder: it can, or tells what is wrong."""
        crops: list[Pixels | None] = [None] * len(encoded)
        chosen = [row for row, one in enumerate(encoded) if isinstance(one, bytes) and is_usual_jpeg(one)]
        if chosen:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                pictures = self._pictures([_tensor(encoded[row]) for row in chosen])
                for row, picture in zip(chosen, pictures, strict=True):
                    crops[row] = self._crop(picture)
        return crops

    def _pictures(self, files: list[UInt8[Tensor, " bytes"]]) -> Sequence[UInt8[Tensor, "3 H W"] | None]:
        """Pictures in the order of their files; None: the device cannot decode it.

        One such ends the call for all, so each then has its own: who decodes a picture does not depend on its
        neighbours.
        """
        try:
            return self._decode(files)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return [None] if len(files) == 1 else [self._pictures([file])[0] for file in files]

    def _crop(self, picture: UInt8[Tensor, "3 H W"] | None) -> Pixels | None:
        try:
            return None if picture is None else self._preprocessor.crop_on_device(picture)
        except PictureError:
            return None


def is_usual_jpeg(encoded: bytes) -> bool:
    """Whether a JPEG is whole, of three components in YCbCr, and not too large: what all decoders read alike."""
    if not encoded.startswith(_START) or not encoded.rstrip(b"\0").endswith(b"\xff\xd9"):
        return False
    place, components, small = 2, 0, False
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        marker, length = encoded[place + 1], int.from_bytes(encoded[place + 2 : place + 4])
        body = encoded[place + 4 : place + 2 + length]
        if marker == _SCAN:
            return components == 3 and small
        if marker == _ADOBE and body.startswith(b"Adobe") and body[11:12] != bytes([_YCBCR]):
            return False
        if marker in _FRAMES and len(body) >= 6:
            components = body[5]
            small = 0 < int.from_bytes(body[1:3]) * int.from_bytes(body[3:5]) <= MAX_PIXELS
            if body[6::3][:3] == b"RGB":  # names of components: no YCbCr either
                return False
        place += 2 + length
    return False


def device_decoder(decode: str, preprocessor: Preprocessor, device: torch.device) -> DeviceDecoder | None:
    """The decoder of ``extract.decode``; None: the CPU's alone.

    Raises:
        SettingsError: ``device`` without a GPU, or with a torchvision that cannot decode on it.
    """
    if decode == "cpu":
        return None
    refuse_device_decoding(decode, device.type)
    # Late, as torchvision costs a second, and behind the guard for builds that do not fit.
    from workflows.networks.compiled_ops import torchvision

    io = torchvision.io
    if not hasattr(torch.ops.image, "decode_jpegs_cuda"):
        raise SettingsError(
            "extract.decode: must be 'cpu' with this torchvision, which has no CUDA decoder, got 'device'; set it to "
            "'cpu', or install torch and torchvision built for CUDA"
        )
    return DeviceDecoder(
        preprocessor, device, lambda files: io.decode_jpeg(files, mode=io.ImageReadMode.RGB, device=device)
    )


def refuse_device_decoding(decode: str, device: str) -> None:
    """Raises SettingsError: pictures shall be decoded on a device, and actors compute on the CPU."""
    if decode == "device" and device != "cuda":
        raise SettingsError(
            f"extract.decode: must be 'cpu' where actors have no GPU, got 'device' with the device {device!r}; set it "
            "to 'cpu', or give the run GPUs"
        )


def _tensor(encoded: bytes) -> UInt8[Tensor, " bytes"]:
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8)

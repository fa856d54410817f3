"""From a picture to the network's input: geometry on single pictures, arithmetic on whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from workflows.data.decoding import MAX_PIXELS, PictureError, Pixels
from workflows.errors import DataError, SettingsError
from workflows.settings import PreprocessingSettings


class Preprocessor:
    """Resizes, crops and normalises as a preset says.

    ``crop`` is the geometry and gives what figures show; ``normalise`` the arithmetic on the crops of a batch.

    Raises:
        SettingsError: the crop is larger than the resized picture, or mean and std are not for its channels.
    """

    def __init__(self, settings: PreprocessingSettings) -> None:
        if settings.resize is not None and settings.crop is not None and settings.crop > settings.resize:
            raise SettingsError(
                f"preprocessing.crop ({settings.crop}) must not be above preprocessing.resize ({settings.resize}), "
                "which is the short side; raise resize or lower crop"
            )
        for field in ("mean", "std"):
            if len(getattr(settings, field)) != settings.channels:
                colours = "red, green and blue" if settings.channel_order == "rgb" else "blue, green and red"
                wanted = f"3 numbers, one each for {colours}" if settings.channels == 3 else "1 number, for grey"
                raise SettingsError(
                    f"preprocessing.{field} must have {wanted}, came {len(getattr(settings, field))}; give as many as "
                    f"preprocessing.channels ({settings.channels})"
                )
        self._settings = settings
        std = torch.tensor(settings.std, dtype=torch.float64)
        self._factor = 1 / (settings.scale * std)
        self._offset = -torch.tensor(settings.mean, dtype=torch.float64) / std
        self._rows: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(H, W) of every crop, where the settings fix it; None where it is that of the pictures."""
        crop = self._settings.crop
        return None if crop is None else (crop, crop)

    def crop(self, pixels: Pixels) -> Pixels:
        """The crop (H, W, 3) uint8: short side resized (bilinear, antialiased), then the centre.

        Sizes and offsets are rounded as torchvision does. For a network of one channel the three are equal, so that
        figures show what it sees.

        Raises:
            PictureError: the picture is smaller than the crop, or so narrow that it would grow beyond all memory.
        """
        if self._settings.resize is not None:
            pixels = _resized(pixels, self._settings.resize)
        cropped = pixels if self._settings.crop is None else _centre(pixels, self._settings.crop)
        return cropped if self._settings.channels == 3 else _grey(cropped)

    def crop_on_device(self, picture: UInt8[Tensor, "3 H W"]) -> Pixels:
        """``crop`` of a picture on a device, where it is made; within one grey level, for floats are interpolated.

        Raises:
            PictureError: as ``crop`` does.
        """
        height, width = picture.shape[1:]
        short, side = self._settings.resize, self._settings.crop
        if short is not None and min(height, width) != short:
            picture = _interpolated(picture[None].float(), _resized_size(height, width, short))[0]
            picture = picture.round_().clamp_(0, 255).to(torch.uint8)
        pixels = picture.permute(1, 2, 0)
        if side is not None:
            top, left = _centre_corner(pixels.shape, side)
            pixels = pixels[top : top + side, left : left + side]
        cropped = pixels.contiguous().cpu().numpy()
        return cropped if self._settings.channels == 3 else _grey(cropped)

    def square(self, pixels: Pixels, size: tuple[int, int]) -> Pixels:
        """All of a picture as (H, W, 3) of this size, whatever its shape: bilinear, antialiased, as ``crop`` does."""
        resized = resized_to(pixels, size)
        return resized if self._settings.channels == 3 else _grey(resized)

    def stack(self, crops: Sequence[Pixels], size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "N H W 3"]:
        """One batch of the crops of a run; ``size`` is the (H, W) that the run has settled on.

        Raises:
            DataError: the crops are not all of one size.
        """
        wanted = size or (crops[0].shape[:2] if crops else (0, 0))
        for crop in crops:
            if crop.shape[:2] != tuple(wanted):
                raise DataError(
                    "the images of a run must have one size, but some have "
                    f"{wanted[0]} x {wanted[1]} and some {crop.shape[0]} x {crop.shape[1]} pixels (height x width); "
                    "set preprocessing.resize and preprocessing.crop"
                )
        return np.stack(crops) if crops else np.zeros((0, *wanted, 3), np.uint8)

    def normalise(
        self, batch: UInt8[np.ndarray, "N H W 3"] | UInt8[Tensor, "N H W 3"], device: torch.device | str = "cpu"
    ) -> Float[Tensor, "N C H W"]:
        """The network's input (x / scale - mean) / std, float32, in channels-last memory order; C is 3, or 1 for grey.

        Pictures are red, green, blue everywhere else; here they are put in ``preprocessing.channel_order``. Bytes are
        sent to the device, a quarter of the floats' traffic.
        """
        pixels = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
        pixels = pixels[..., : self._settings.channels]
        if self._settings.channel_order == "bgr":
            pixels = pixels.flip(-1)
        n_images, height, width, channels = pixels.shape
        if torch.device(device).type == "cuda":
            pixels = pixels.pin_memory()  # then the copy runs beside the network's work on the batch before
        pixels = pixels.to(device, non_blocking=True).reshape(n_images * height, width * channels)
        factor, offset = self._row(width, pixels.device)
        # Whole rows against repeated constants: three channels as the innermost axis run five times slower.
        values = pixels.to(torch.float32)
        torch.addcmul(offset, values, factor, out=values)
        return values.view(n_images, height, width, channels).permute(0, 3, 1, 2)

    def colours(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
        """Red, green and blue from 0 to 1 of what ``normalise`` made of pictures: its inverse, float64, clamped."""
        own = self._settings
        std, mean = (torch.tensor(one, dtype=torch.float64)[:, None, None] for one in (own.std, own.mean))
        found = ((images.double() * std + mean) * (own.scale / 255)).clamp(0, 1)
        return found.flip(1) if own.channel_order == "bgr" else found

    def _row(self, width: int, device: torch.device) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
        key = (width, device)
        if key not in self._rows:
            factor, offset = (c.to(torch.float32).repeat(width).to(device) for c in (self._factor, self._offset))
            self._rows[key] = (factor, offset)
        return self._rows[key]


def _resized(pixels: Pixels, short_side: int) -> Pixels:
    height, width = pixels.shape[:2]
    if min(height, width) == short_side:
        return pixels
    return resized_to(pixels, _resized_size(height, width, short_side))


def _resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    if height <= width:
        size = (short_side, int(short_side * width / height))
    else:
        size = (int(short_side * height / width), short_side)
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError(f"too narrow: {width} x {height} pixels would be resized to {size[1]} x {size[0]}")
    return size


def resized_to(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A picture of this height and width, whatever its shape: bilinear, antialiased."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    # On bytes in this memory order torch is three times as fast as Pillow and equal to it within one grey level.
    return _interpolated(image, size)[0].permute(1, 2, 0).numpy()


def _interpolated(images: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _grey(pixels: Pixels) -> Pixels:
    """Luma of ITU-R 601 in each channel, rounded as Pillow's mode L is; grey pictures stay as they are."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # of 65536
    luma = (pixels.astype(np.uint32) @ weights + 0x8000) >> 16
    return np.repeat(luma.astype(np.uint8)[:, :, None], 3, axis=2)


def _centre(pixels: Pixels, side: int) -> Pixels:
    top, left = _centre_corner(pixels.shape, side)
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _centre_corner(shape: Sequence[int], side: int) -> tuple[int, int]:
    height, width = shape[:2]
    if height < side or width < side:
        raise PictureError(
            f"too small: {width} x {height} pixels for preprocessing.crop {side}; set preprocessing.resize"
        )
    return round((height - side) / 2), round((width - side) / 2)

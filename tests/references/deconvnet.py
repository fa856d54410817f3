"""A deconvnet written by hand (Zeiler and Fergus 2014): every layer forward and back, in loops over single taps."""

from __future__ import annotations

from typing import Any

import numpy as np

Maps = np.ndarray
"""(units, rows, columns), float64."""


def folded(conv: Any, norm: Any | None) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of a convolution with the normalisation behind it."""
    weight = conv.weight.detach().double().numpy()
    bias = np.zeros(len(weight)) if conv.bias is None else conv.bias.detach().double().numpy()
    if norm is None:
        return weight, bias
    gain, shift, mean, variance = (
        one.detach().double().numpy() for one in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    scale = gain / np.sqrt(variance + norm.eps)
    return weight * scale[:, None, None, None], (bias - mean) * scale + shift


def _taps(after: int, kernel: int, stride: int, padding: int, before: int) -> list[list[tuple[int, int]]]:
    """For every position of a result: (tap, position that it reads) inside the map."""
    found = []
    for position in range(after):
        own = [(tap, position * stride - padding + tap) for tap in range(kernel)]
        found.append([(tap, place) for tap, place in own if 0 <= place < before])
    return found


def convolved(maps: Maps, weight: np.ndarray, bias: np.ndarray, stride: int = 1, padding: int = 0) -> Maps:
    height, width = ((size + 2 * padding - weight.shape[2]) // stride + 1 for size in maps.shape[1:])
    result = np.repeat(bias, height * width).reshape(len(weight), height, width).copy()
    rows = _taps(height, weight.shape[2], stride, padding, maps.shape[1])
    columns = _taps(width, weight.shape[3], stride, padding, maps.shape[2])
    for y, x in np.ndindex(height, width):
        for i, row in rows[y]:
            for j, column in columns[x]:
                result[:, y, x] += weight[:, :, i, j] @ maps[:, row, column]
    return result


def transposed(signal: Maps, weight: np.ndarray, shape: tuple[int, ...], stride: int = 1, padding: int = 0) -> Maps:
    """Every tap hands its result's signal back to what it has read."""
    back = np.zeros(shape)
    rows = _taps(signal.shape[1], weight.shape[2], stride, padding, shape[1])
    columns = _taps(signal.shape[2], weight.shape[3], stride, padding, shape[2])
    for y, x in np.ndindex(signal.shape[1:]):
        for i, row in rows[y]:
            for j, column in columns[x]:
                back[:, row, column] += weight[:, :, i, j].T @ signal[:, y, x]
    return back


def pooled(
    maps: Maps, kernel: int, stride: int, ceil: bool
) -> tuple[Maps, dict[tuple[int, int, int], tuple[int, int]]]:
    """Maxima, and the switches: where each of them was."""
    sizes = []
    for size in maps.shape[1:]:
        steps = (size - kernel) / stride
        sizes.append(int(np.ceil(steps) if ceil else np.floor(steps)) + 1)
    result, switches = np.zeros((len(maps), *sizes)), {}
    for unit, y, x in np.ndindex(result.shape):
        best = None
        for row in range(y * stride, min(y * stride + kernel, maps.shape[1])):
            for column in range(x * stride, min(x * stride + kernel, maps.shape[2])):
                if best is None or maps[unit, row, column] > maps[unit, best[0], best[1]]:
                    best = (row, column)
        assert best is not None
        switches[unit, y, x] = best
        result[unit, y, x] = maps[unit, best[0], best[1]]
    return result, switches


def unpooled(signal: Maps, switches: dict[tuple[int, int, int], tuple[int, int]], shape: tuple[int, ...]) -> Maps:
    """Back to the switches; where windows overlap they add."""
    back = np.zeros(shape)
    for (unit, y, x), (row, column) in switches.items():
        back[unit, row, column] += signal[unit, y, x]
    return back


def rectified(maps: Maps) -> Maps:
    return np.maximum(maps, 0)


def strongest_alone(maps: Maps, unit: int) -> Maps:
    """A signal of one unit at its strongest position, all others zero."""
    signal = np.zeros_like(maps)
    place = np.unravel_index(maps[unit].argmax(), maps[unit].shape)
    signal[(unit, *place)] = maps[(unit, *place)]
    return signal

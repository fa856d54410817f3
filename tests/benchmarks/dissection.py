"""The tally of units against concepts over a plain dense torch version of the same counts.

One thread each, processor time. Maps as large as those of ResNet-50, smooth and rectified, four shares; labels are
boxes of 18 concepts. The dense version upsamples every unit, compares every pixel and multiplies masks with one-hot
labels, image by image.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from gmm_ops.units.code_histograms import CodeHistograms
from gmm_ops.units.concept_counts import ConceptTally, LabelCounts, OverlapCounts

TARGET = 40.0
SHARES = (0.005, 0.01, 0.02, 0.04)
CONCEPTS = 18


@dataclass(frozen=True)
class DissectionRow:
    """Medians of one case; ``ratio`` is dense torch over the tally."""

    case: str
    images_per_second: float
    dense_images_per_second: float
    differing: float
    ratio: float
    target: float = TARGET


def measure(repeats: int = 5, tiny: bool = False) -> list[DissectionRow]:
    """One row for each size of map."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = {"14x14, 1,024 units": (1024, 14), "28x28, 512 units": (512, 28)}
        size = (32, 2) if tiny else (224, 4)
        return [
            _row(name, units // (32 if tiny else 1), low, *size, 1 if tiny else repeats)
            for name, (units, low) in cases.items()
        ]
    finally:
        torch.set_num_threads(threads)


def _row(case: str, units: int, low: int, high: int, images: int, repeats: int) -> DissectionRow:
    maps, labels = drawn_maps(images, units, low), drawn_labels(images, high)
    columns = maps.permute(0, 2, 3, 1).reshape(-1, units)
    thresholds = CodeHistograms.from_batch(columns).thresholds(SHARES).values
    ours: list[float] = []
    dense: list[float] = []
    for _ in range(1 + repeats):  # in turns; the first compiles and is not counted
        start = time.process_time()
        counts = tallied(maps.numpy(), labels, thresholds)
        ours.append(time.process_time() - start)
        start = time.process_time()
        expected = dense_counts(maps, labels, torch.from_numpy(thresholds))
        dense.append(time.process_time() - start)
    # float32 puts a pixel on the other side of a threshold now and then.
    differing = float(np.abs(counts - expected.numpy()).sum() / expected.sum())
    seconds, slow = statistics.median(ours[1:]), statistics.median(dense[1:])
    return DissectionRow(case, images / seconds, images / slow, differing, slow / seconds)


def tallied(maps: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(D, Q, 1 + C): areas and intersections, by the tally."""
    categories = np.zeros(CONCEPTS, np.int64)
    into = OverlapCounts.zero(maps.shape[1], len(SHARES), CONCEPTS, 1)
    total = LabelCounts.zero(CONCEPTS, 1)
    for image_maps, image_labels in zip(maps, labels, strict=True):
        tally = ConceptTally(categories, image_labels)
        tally.labels(total)
        tally.units(into, image_maps, thresholds)
    return np.concatenate([into.areas, into.intersections], axis=2)


def dense_counts(maps: torch.Tensor, labels: np.ndarray, thresholds: torch.Tensor) -> torch.Tensor:
    """The same by upsampling everything."""
    units = maps.shape[1]
    found = torch.zeros(units, len(SHARES), 1 + CONCEPTS, dtype=torch.int64)
    for image_maps, image_labels in zip(maps, torch.from_numpy(labels.astype(np.int64)), strict=True):
        size = image_labels.shape[1:]
        upsampled = functional.interpolate(image_maps[None], size=size, mode="bilinear", align_corners=False)[0]
        one_hot = functional.one_hot(image_labels, 1 + CONCEPTS).sum(0).reshape(-1, 1 + CONCEPTS).float()
        one_hot[:, 0] = 1
        for q in range(len(SHARES)):
            masks = upsampled > thresholds[:, q, None, None]
            found[:, q] += (masks.reshape(units, -1).float() @ one_hot).long()
    return found


def drawn_maps(images: int, units: int, low: int) -> torch.Tensor:
    """Smooth rectified noise, as float16 holds it."""
    noise = torch.randn(images, units, low, low, generator=torch.Generator().manual_seed(0))
    smooth = functional.avg_pool2d(functional.pad(noise, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return smooth.relu().half().float()


def drawn_labels(images: int, high: int) -> np.ndarray:
    """(N, 1, H, W): six boxes an image."""
    random = np.random.default_rng(0)
    labels = np.zeros((images, 1, high, high), np.uint16)
    for image in range(images):
        for _ in range(6):
            y, x = random.integers(0, high * 3 // 4, 2)
            h, w = random.integers(high // 16 + 1, high // 3, 2)
            labels[image, 0, y : y + h, x : x + w] = random.integers(1, CONCEPTS + 1)
    return labels

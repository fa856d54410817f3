"""Images/s of the discriminative loss and gradient: closed form over autograd, loop over few words over products.

Columns are real: ResNet-20 on CIFAR-10 images, ResNet-50 on photos, before the ReLU; a minibatch of 100 images.
Autograd writes Eq. 8 with the same two-block score product, in the tiles that suit it best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.mixtures.em import fit_batch_em
from gmm_ops.mixtures.seeding import initial_mixture
from tests.benchmarks.em_pass import SHARED, THREADS, photo_columns
from tests.gmm_ops.drawn_columns import cifar_columns

IMAGES = 100
LABELS = 10
AUTOGRAD_ROWS = (4_096, 10_240)


@dataclass(frozen=True)
class StepRow:
    """Medians of one case. ratio: closed form over the faster autograd; loop_ratio: loop over dense product."""

    name: str
    positions: int
    D: int
    K: int
    images_per_second: float
    autograd_images_per_second: float
    ratio: float
    loop_ratio: float


def measure(repeats: int = 7, threads: int = THREADS, tiny: bool = False) -> list[StepRow]:
    """One row per case, each side in turn. tiny: few images and a tenth of the words, each side once."""
    before = torch.get_num_threads()
    threads = 1 if tiny else threads
    torch.set_num_threads(threads)
    try:
        return [_measure_case(*case, 1 if tiny else repeats) for case in _cases(tiny)]
    finally:
        torch.set_num_threads(before)


def _cases(tiny: bool) -> list[tuple[str, Tensor, int]]:
    images, share = (4, 10) if tiny else (IMAGES, 1)
    small = [cifar_columns(SHARED, images, stage).view(images, -1, 16 * 2 ** (stage - 1)) for stage in (1, 2, 3)]
    found = photo_columns(_PHOTO_LAYERS, images)
    photos = [columns.view(images, -1, columns.shape[1]) for columns in found]
    return [
        ("ResNet-20 add3", small[0], 100 // share),
        ("ResNet-20 add6", small[1], 100 // share),
        ("ResNet-20 add9", small[2], 50 // share),
        ("ResNet-50 layer1.2.add", photos[0], 450 // share),
        ("ResNet-50 layer2.3.add", photos[1], 1500 // share),
    ]


_PHOTO_LAYERS = ("layer1.2.add", "layer2.3.add")


def _measure_case(name: str, columns: Tensor, n_words: int, repeats: int) -> StepRow:
    flat = columns.reshape(-1, columns.shape[2])
    mixture = fit_batch_em(initial_mixture(flat, n_words, 0), flat, 2, 1e-4 * float(flat.var(dim=0).mean()))[0]
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(LABELS, n_words, generator=source).double()
    parameters = Parameters.from_mixture(mixture, LABELS).moved({"weight": weight})
    labels = torch.randint(LABELS, columns.shape[:1], generator=source)
    ways: dict[str, Callable[[], object]] = {
        "auto": lambda: batch_gradient(parameters, columns, labels),
        "dense": lambda: batch_gradient(parameters, columns, labels, engine="dense"),
        "sparse": lambda: batch_gradient(parameters, columns, labels, engine="sparse"),
    }
    for rows in AUTOGRAD_ROWS:
        ways[f"autograd {rows}"] = lambda rows=rows: autograd_gradient(parameters, columns, labels, rows)
    seconds = _medians(ways, repeats)
    autograd = min(seconds[f"autograd {rows}"] for rows in AUTOGRAD_ROWS)
    n = columns.shape[0]
    sizes = (columns.shape[1], columns.shape[2], n_words)
    ratio, loop_ratio = autograd / seconds["auto"], seconds["dense"] / seconds["sparse"]
    return StepRow(name, *sizes, n / seconds["auto"], n / autograd, ratio, loop_ratio)


def _medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begin)
    return {name: median(values[1:]) for name, values in taken.items()}


def autograd_gradient(parameters: Parameters, columns: Tensor, labels: Tensor, rows: int) -> dict[str, Tensor]:
    """The same gradient by float32 autograd, tile by tile."""
    fields = {name: value.float().requires_grad_() for name, value in parameters.trained().items()}
    center = parameters.center.float()
    several = max(1, rows // columns.shape[1])
    for first in range(0, columns.shape[0], several):
        tile = columns[first : first + several].float() - center
        n_images, n_positions, units = tile.shape
        x = tile.reshape(-1, units)
        precision, mean = torch.exp(-2.0 * fields["log_sd"]), fields["mean"] - center
        log_pi = torch.log_softmax(fields["word_logits"], dim=0)
        spread = mean * mean * precision + 2.0 * fields["log_sd"] + math.log(2.0 * math.pi)
        weights = torch.cat([-0.5 * precision, mean * precision], dim=1)
        score = torch.addmm(log_pi - 0.5 * spread.sum(dim=1), torch.cat([x * x, x], dim=1), weights.T)
        histogram = score.softmax(dim=1).view(n_images, n_positions, -1).mean(dim=1)
        logits = histogram @ fields["weight"].T + fields["bias"]
        functional.cross_entropy(logits, labels[first : first + several], reduction="sum").backward()
    return {name: value.grad for name, value in fields.items() if value.grad is not None}

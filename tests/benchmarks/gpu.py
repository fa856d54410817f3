"""What a GPU does, held against the CPU: words, images/s, one EM pass, pairs/s. See ``infra/gpu_check.sh``.

The same code runs without a GPU, on the CPU against itself: then all words are equal, and the ratios are about 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from gmm_ops.graphs.cooccurrence import OffsetHistogram, SparseCounts, count_pairs
from gmm_ops.graphs.device_counts import count_groups_on, count_offsets_on, count_pairs_on
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.em import fit_batch_em
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import initial_mixture
from gmm_ops.mixtures.statistics import em_pass
from tests.benchmarks.counting import CASES, CountingCase, drawn_maps
from tests.benchmarks.em_pass import SHARED, photos
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.runtime.devices import choose_device
from workflows.settings import NetworkSettings

LAYERS = ("layer1.2.add", "layer2.3.add", "layer3.5.add")
PEAK = 4096
"""Rows and columns of the products that the EM pass is compared with."""


@dataclass(frozen=True)
class GpuRow:
    """One thing measured on the device and on the CPU; ``value`` and ``on_cpu`` in ``unit``."""

    what: str
    unit: str
    value: float
    on_cpu: float
    ratio: float


def measure(tiny: bool = False) -> list[GpuRow]:
    """Rows of words, of images/s, of an EM pass and of counting. tiny: a few images and words, each side once."""
    device = choose_device("auto")
    if device.type == "cuda":  # as ``FrozenForward``: TF32 is no float32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    settings = NetworkSettings(
        name="torchvision:resnet50", weights=str(SHARED / "weights" / "resnet50_imagenet_fp16.pt"), layers=LAYERS
    )
    network = TappedNetwork(load_network(settings), LAYERS)
    images = photos(4 if tiny else 48)
    plain = _maps(network, images, torch.device("cpu"), torch.float32)
    mixtures = {layer: _dictionary(columns, 5 if tiny else 100) for layer, columns in plain.items()}
    rows = []
    for precision in (torch.float32, torch.bfloat16):
        rows += _same_words(plain, _maps(network, images, device, precision), mixtures, device, precision)
    repeats = 1 if tiny else 5
    for precision in (torch.float32, torch.bfloat16):
        rows.append(_forward_rate(network, images, device, precision, repeats))
    rows += _em_rates(plain[LAYERS[1]], mixtures[LAYERS[1]], device, repeats)
    return rows + [_counting_rate(replace(case, images=10) if tiny else case, device, repeats) for case in CASES]


@torch.inference_mode()
def _maps(network: TappedNetwork, images: Tensor, device: torch.device, precision: torch.dtype) -> dict[str, Tensor]:
    """Columns (n, D) float32 on the CPU, by layer."""
    maps = network.to(device, precision)(images.to(device, precision))[1]
    return {name: values.permute(0, 2, 3, 1).flatten(0, 2).float().cpu() for name, values in maps.items()}


def _dictionary(columns: Tensor, words: int) -> Mixture:
    floor = 1e-4 * float(columns.var(dim=0).mean())
    return fit_batch_em(initial_mixture(columns, words, 0), columns, 5, floor)[0]


def _same_words(
    plain: dict[str, Tensor],
    found: dict[str, Tensor],
    mixtures: dict[str, Mixture],
    device: torch.device,
    precision: torch.dtype,
) -> list[GpuRow]:
    """Shares of columns with the word that the CPU gives them in float32."""
    rows = []
    for layer, mixture in mixtures.items():
        ours = assign(mixture.to(device), found[layer].to(device)).word.cpu()
        share = float((ours == assign(mixture, plain[layer]).word).double().mean())
        name = str(precision).removeprefix("torch.")
        rows.append(GpuRow(f"words of {layer}, {name}, as of the CPU in float32", "share", share, 1.0, share))
    return rows


def _forward_rate(
    network: TappedNetwork, images: Tensor, device: torch.device, precision: torch.dtype, repeats: int
) -> GpuRow:
    """ResNet-50 with its taps, images already in memory, the way to the device included."""

    def rate(where: torch.device, kind: torch.dtype) -> float:
        network.to(where, kind)

        @torch.inference_mode()
        def work() -> None:
            float(network(images.to(where, kind))[0][0, 0])

        return len(images) / _seconds(work, repeats, where)

    name = str(precision).removeprefix("torch.")
    found, other = rate(device, precision), rate(torch.device("cpu"), torch.float32)
    return GpuRow(f"ResNet-50 forward, {name}", "images/s", found, other, found / other)


def _em_rates(columns: Tensor, mixture: Mixture, device: torch.device, repeats: int) -> list[GpuRow]:
    """One EM pass, and what share of the fastest products of that device its 8 n D K operations are."""
    n, units = columns.shape
    operations = 8.0 * n * units * mixture.n_words

    def on(where: torch.device) -> tuple[float, dict[torch.dtype, float]]:
        own, values = mixture.to(where), columns.to(where)
        seconds = _seconds(lambda: em_pass(own, values), repeats, where)
        size = PEAK if where.type == "cuda" else PEAK // 4
        peaks = {}
        for kind in (torch.float32, torch.bfloat16):
            one = torch.rand(size, size, device=where, dtype=kind)
            peaks[kind] = 2.0 * size**3 / _seconds(lambda one=one: one @ one, repeats, where)  # type: ignore[misc]
        return seconds, peaks

    (ours, peaks), (theirs, cpu_peaks) = on(device), on(torch.device("cpu"))
    rows = [GpuRow("EM pass", "columns/s", n / ours, n / theirs, theirs / ours)]
    for kind, peak in peaks.items():
        name, other = str(kind).removeprefix("torch."), operations / theirs / cpu_peaks[kind]
        share = operations / ours / peak
        rows.append(GpuRow(f"EM pass over a product in {name}", "share", share, other, share / other))
    return rows


def _counting_rate(case: CountingCase, device: torch.device, repeats: int) -> GpuRow:
    """Tensor operations on maps that are on the device, and the compiled kernels of one core; the same counts.

    Raises:
        AssertionError: other counts of pairs, of pairs by group, or of the offsets of an edge.
    """
    upper, lower = (maps.to(torch.int32) for maps in drawn_maps(case, seed=0))
    sizes, groups = (case.upper[1], case.lower[1]), torch.arange(case.images) % 7
    above, below, own = upper.to(device), lower.to(device), groups.to(device)
    counts, pairs = (
        count_pairs_on(above, below, case.window, *sizes).cpu(),
        count_pairs(upper, lower, case.window, *sizes),
    )
    table = SparseCounts.from_rows(*(part.cpu() for part in count_groups_on(above, below, case.window, *sizes, own)))
    edges = pairs.nonzero()[:9]
    found = OffsetHistogram(*(part.cpu() for part in count_offsets_on(above, below, case.window, edges.to(device))))
    same = (
        torch.equal(counts, pairs),
        table == SparseCounts.from_batch(upper, lower, case.window, *sizes, groups),
        found == OffsetHistogram.from_batch(upper, lower, case.window, edges),
    )
    if not all(same):
        raise AssertionError(f"{case.name}: counts, counts by group, offsets are those of the CPU: {same}")
    ours = _seconds(lambda: count_pairs_on(above, below, case.window, *sizes), repeats, device)
    theirs = _seconds(lambda: count_pairs(upper, lower, case.window, *sizes), repeats, torch.device("cpu"))
    total = float(pairs.sum())
    return GpuRow(f"counting, {case.name}", "pairs/s", total / ours, total / theirs, theirs / ours)


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median; the first turn compiles and is not counted."""
    found = []
    for _ in range(1 + repeats):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return median(found[1:])

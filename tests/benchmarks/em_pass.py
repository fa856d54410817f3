"""Columns/s of one EM pass (E-step and sufficient statistics) over scikit-learn's, same columns, same threads.

Columns are real: ResNet-20 on CIFAR-10 images, ResNet-50 on photos, both before the ReLU. Both sides start from the
same mixture, two EM steps from its start, and take their turns in one run; scikit-learn's diagonal
``GaussianMixture`` gets float32 columns and parameters and does its E-step and M-step.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.em import fit_batch_em
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.products import row_products
from gmm_ops.mixtures.seeding import initial_mixture
from gmm_ops.mixtures.statistics import em_pass
from tests.gmm_ops.drawn_columns import cifar_columns
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.settings import NetworkSettings

Result = TypeVar("Result")

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
THREADS = 2
PHOTOS = 120
COLUMNS_PER_PHOTO = 200
PEAK_SIZE = (4096, 1024, 1024)
"""Rows, inner size and columns of the float32 product that the pass is compared with."""


@dataclass(frozen=True)
class EMPassRow:
    """Medians of one case. ratio: of columns/s. peak_share: of the fastest float32 product of this run; counts
    8 D K operations per column (two products) whatever was skipped, so it can exceed 1."""

    name: str
    D: int
    K: int
    columns_per_second: float
    sklearn_columns_per_second: float
    ratio: float
    target: float
    gflops: float
    peak_share: float
    assign_columns_per_second: float


def measure(repeats: int = 7, threads: int = THREADS, tiny: bool = False) -> list[EMPassRow]:
    """One row for each of the five sizes. tiny: a tenth of the words on columns of a few images, each side once."""
    before = torch.get_num_threads()
    threads = 1 if tiny else threads
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn takes the logarithm of posteriors that underflow
            return [_measure_case(*case, 1 if tiny else repeats) for case in _cases(tiny)]
    finally:
        torch.set_num_threads(before)


def _cases(tiny: bool) -> list[tuple[str, Tensor, int, float]]:
    images, n_photos, share = ((2, 4, 16), 6, 10) if tiny else ((200, 400, 500), PHOTOS, 1)
    small = [cifar_columns(SHARED, n, stage) for stage, n in enumerate(images, start=1)]
    middle, large = photo_columns(("layer1.2.add", "layer2.3.add"), n_photos)
    return [
        ("ResNet-20 add3", small[0], 100 // share, 12.0),
        ("ResNet-20 add6", small[1], 200 // share, 10.0),
        ("ResNet-20 add9", small[2], 500 // share, 8.0),
        ("ResNet-50 add3", middle, 450 // share, 8.0),
        ("ResNet-50 add7", large, 1500 // share, 10.0),
    ]


def photo_columns(layers: tuple[str, ...], n_photos: int = PHOTOS) -> list[Tensor]:
    """(n, D) columns of ResNet-50 layers on photos, a seeded sample per photo."""
    settings = NetworkSettings(
        name="torchvision:resnet50",
        weights=str(SHARED / "weights" / "resnet50_imagenet_fp16.pt"),
        layers=layers,
    )
    tapped = TappedNetwork(load_network(settings), layers)
    source = torch.Generator().manual_seed(0)
    found: list[list[Tensor]] = [[] for _ in layers]
    for start in range(0, n_photos, 20):
        with torch.inference_mode():
            maps = tapped(photos(min(20, n_photos - start), start))[1]
        for kept, value in zip(found, maps.values(), strict=True):
            for image in value.permute(0, 2, 3, 1).flatten(1, 2):
                kept.append(image[torch.randperm(len(image), generator=source)[:COLUMNS_PER_PHOTO]].clone())
    return [torch.cat(kept) for kept in found]


def photos(count: int, first: int = 0) -> Tensor:
    """(count, 3, 224, 224) float32: photos as ResNet-50 is given them."""
    files = sorted((SHARED / "imagenet_one_per_class").rglob("*.JPEG"))[first : first + count]
    return torch.stack([_photo(file) for file in files])


def _photo(file: Path) -> Tensor:
    pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() / 255
    scale = 256 / min(pixels.shape[1:])
    pixels = functional.interpolate(pixels[None], scale_factor=scale, mode="bilinear", antialias=True)[0]
    top, left = (pixels.shape[1] - 224) // 2, (pixels.shape[2] - 224) // 2
    pixels = pixels[:, top : top + 224, left : left + 224]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / deviation[:, None, None]


def _measure_case(name: str, columns: Tensor, words: int, target: float, repeats: int) -> EMPassRow:
    columns = columns.contiguous()
    floor = 1e-4 * float(columns.var(dim=0).mean())
    mixture, _ = fit_batch_em(initial_mixture(columns, words, 0), columns, 2, floor)
    other = _SklearnPass(mixture, columns, floor)
    seconds: dict[str, list[float]] = {"ours": [], "sklearn": [], "assign": [], "peak": []}
    statistics, peak = None, _peak_product()
    # In turns, so that a busy machine slows all; the first turn compiles and is not counted.
    for _ in range(1 + repeats):
        statistics = _timed(seconds["ours"], lambda: em_pass(mixture, columns))
        theirs = _timed(seconds["sklearn"], other)
        _timed(seconds["assign"], lambda: assign(mixture, columns))
        _timed(seconds["peak"], peak)
    found = statistics.log_likelihood / statistics.count if statistics else float("nan")
    if abs(found - theirs) > 1e-3 * abs(theirs):
        raise AssertionError(f"{name}: log-likelihood {found} differs from scikit-learn's {theirs}")
    middle = {key: median(values[1:]) for key, values in seconds.items()}
    n, units = columns.shape
    gflops = 8e-9 * n * units * words / middle["ours"]
    return EMPassRow(
        name,
        units,
        words,
        n / middle["ours"],
        n / middle["sklearn"],
        middle["sklearn"] / middle["ours"],
        target,
        gflops,
        gflops * middle["peak"] / (2e-9 * math.prod(PEAK_SIZE)),
        n / middle["assign"],
    )


def _peak_product() -> Callable[[], Tensor]:
    """A large float32 product by the kernel that is the fastest here: oneDNN's on a CPU."""
    rows, inner, width = PEAK_SIZE
    features, weights = torch.rand(rows, inner), torch.rand(width, inner)
    return lambda: row_products(features, weights)


class _SklearnPass:
    """One E-step and M-step of scikit-learn from the same parameters every time; gives mean log p(x)."""

    def __init__(self, mixture: Mixture, columns: Tensor, floor: float) -> None:
        self.data = columns.numpy()
        parameters = (mixture.log_pi.exp(), mixture.mean, mixture.variance)
        self.parameters = [p.numpy().astype(np.float32) for p in parameters]
        # A word without columns makes scikit-learn stop unless its variance is lifted.
        self.model = GaussianMixture(mixture.n_words, covariance_type="diag", reg_covar=floor)

    def __call__(self) -> float:
        model = self.model
        model.weights_, model.means_, model.covariances_ = self.parameters
        model.precisions_cholesky_ = 1.0 / np.sqrt(model.covariances_)
        mean_log_likelihood, log_posterior = model._e_step(self.data)
        model._m_step(self.data, log_posterior)
        return float(mean_log_likelihood)


def _timed(seconds: list[float], work: Callable[[], Result]) -> Result:
    time.sleep(0.05)  # the thread pool of the work before spins on for a while and would take a core
    begin = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - begin)
    return result

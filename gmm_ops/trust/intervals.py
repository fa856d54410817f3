"""How sure a log ratio is: sums over images that its sampling variance follows from, without another pass.

In image i let c[s, t] be the pairs of upper word s and lower word t, r[s] and k[t] its pairs of s and of t with any
word, and n all its pairs. Summed over images they are N[s, t], N[s, :], N[:, t] and N. An image moves LR[s, t] by

    infl = (c[s, t] / N[s, t] - r[s] / N[s, :] - k[t] / N[:, t] + n / N) / ln 2

to first order, so LR varies over sets of as many images by the sum of infl^2 (the delta method, which is the
infinitesimal jackknife; Efron 1982). The square of infl is a sum of products of two of c, r, k and n: their sums over
images are all that is needed, and whole numbers that add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from gmm_ops.axes import LowerWordMaps, PairCounts, WordMaps
from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.inference_graph import prior_weight
from gmm_ops.graphs.sliding_histogram import PairCounter
from gmm_ops.graphs.windows import Window
from gmm_ops.graphs.word_maps import positive_count, word_arrays
from gmm_ops.records import Sums

NORMAL_95 = NormalDist().inv_cdf(0.975)
"""Standard deviations from the middle of a 95 % interval to its ends."""

_CELL_FIELDS = ("images", "cc", "cr", "ck", "cn", "rk")
_ROW_FIELDS = ("upper", "lower", *_CELL_FIELDS)


@dataclass(frozen=True)
class PairMoments(Sums):
    """Sums over images of products of two of c, r, k and n (see the module), of one pair of layers; all exact.

    Rows are the pairs of words that some image has both of, sorted by (upper, lower): 64 bytes a row.

    Attributes:
        nn: sum of n^2; no other sum is greater.
        upper, lower: (P,) int64, the words s and t of a row.
        images: (P,) int64, images with at least one pair of s and t.
        cc, cr, ck, cn, rk: (P,) int64, sums of c^2, c r, c k, c n and r k.
        rr, rn: (K,) int64, sums of r^2 and r n of every upper word.
        kk, kn: (K_lower,) int64, sums of k^2 and k n of every lower word.
    """

    nn: int
    upper: Int[Tensor, " P"]
    lower: Int[Tensor, " P"]
    images: Int[Tensor, " P"]
    cc: Int[Tensor, " P"]
    cr: Int[Tensor, " P"]
    ck: Int[Tensor, " P"]
    cn: Int[Tensor, " P"]
    rk: Int[Tensor, " P"]
    rr: Int[Tensor, " K"]
    rn: Int[Tensor, " K"]
    kk: Int[Tensor, " K_lower"]
    kn: Int[Tensor, " K_lower"]

    def __post_init__(self) -> None:
        if self.nn > np.iinfo(np.int64).max:
            raise RefusedInput(
                f"images: the squares of their pairs must add up to less than 2^63, got {self.nn}; count fewer images"
            )

    @classmethod
    def zero(cls, n_upper: int, n_lower: int) -> Self:
        """No images: what ``merge`` leaves unchanged."""
        rows = [torch.zeros(0, dtype=torch.int64) for _ in _ROW_FIELDS]
        words = [torch.zeros(n_words, dtype=torch.int64) for n_words in (n_upper, n_upper, n_lower, n_lower)]
        return cls(0, *rows, *words)

    @classmethod
    def from_batch(
        cls, upper: WordMaps, lower: LowerWordMaps, window: Window, n_upper: int, n_lower: int
    ) -> PairMoments:
        """The sums over some images, from their word maps (N, H, W) and (N, h, w) and R(p), as ``count_pairs`` takes.

        Holds about 72 bytes for each pair of words of these images, whatever the dictionaries hold.
        Raises ``RefusedInput`` as ``count_pairs`` does.
        """
        n_upper, n_lower = positive_count("n_upper", n_upper), positive_count("n_lower", n_lower)
        (uppers, upper_words), (lowers, lower_words) = map(_present, word_arrays(upper, lower, n_upper, n_lower))
        size = len(uppers), len(lowers)
        counter = PairCounter(window, upper_words.shape[1:], lower_words.shape[1:], *size)
        cells, products = np.zeros((*size, len(_CELL_FIELDS) - 1), np.int64), np.zeros(size, np.int64)
        of_words = [np.zeros(words, np.int64) for words in (size[0], size[0], size[1], size[1])]
        nn = 0
        for image in range(len(upper_words)):
            counter.add(upper_words[image : image + 1], lower_words[image : image + 1])
            nn += int(_add_image(*counter.drain(), cells, products, *of_words)) ** 2
        places = np.nonzero(products)
        rows = [uppers[places[0]], lowers[places[1]], *cells[places].T, products[places]]
        spread = [np.zeros(words, np.int64) for words in (n_upper, n_upper, n_lower, n_lower)]
        for whole, part, words in zip(spread, of_words, (uppers, uppers, lowers, lowers), strict=True):
            whole[words] = part
        return cls(nn, *(torch.from_numpy(np.ascontiguousarray(column)) for column in (*rows, *spread)))

    def merge(self, other: Self) -> Self:
        """Both sets of images together. Raises RefusedInput for dictionaries of other sizes, or a sum beyond int64."""
        pair = [one._keys() for one in (self, other)]
        keys = np.union1d(*pair)
        sums = np.zeros((len(_CELL_FIELDS), len(keys)), np.int64)
        for one, own in zip((self, other), pair, strict=True):
            sums[:, np.searchsorted(keys, own)] += np.stack([getattr(one, name).numpy() for name in _CELL_FIELDS])
        # What is left are plain sums, which are added, and their shapes compared, as those of every record.
        nothing = torch.zeros((2 + len(_CELL_FIELDS), 0), dtype=torch.int64)
        rest = super(PairMoments, self._with_rows(nothing)).merge(other._with_rows(nothing))
        return rest._with_rows(torch.from_numpy(np.concatenate([[keys >> 32, keys & 0xFFFFFFFF], sums])))

    def of_pairs(self) -> Self:
        """Without the rows of words that no pair joins: all that intervals need of a finished sum; half a merge's."""
        kept = self.images > 0
        return self._with_rows(torch.stack([getattr(self, name)[kept] for name in _ROW_FIELDS]))

    def _with_rows(self, rows: Int[Tensor, "8 P"]) -> Self:
        named: dict[str, Any] = dict(zip(_ROW_FIELDS, rows, strict=True))
        return replace(self, **named)

    def _keys(self) -> Int[np.ndarray, " P"]:
        keys: np.ndarray = (self.upper.numpy() << 32) | self.lower.numpy()
        return keys


def log_ratio_deviations(
    moments: PairMoments,
    total: PairCounts,
    prior: Literal["marginal", "frequency"] = "marginal",
    lower_frequency: Tensor | None = None,
    pseudo_count: float = 1.0,
    base: float = 2,
) -> Float[Tensor, "K K_lower"]:
    """Standard deviation of every log ratio over sets of as many images, float64; NaN for pairs that never occur.

    ``moments`` and ``total``, N, are of the same images; the rest is what ``log_ratios`` was given, whose smoothing is
    taken into account. LR plus and minus 1.96 of it is the 95 % interval of an image drawn from where these came from.
    With ``prior="frequency"`` P(t) is taken as known, and only P(t|s) varies.
    Raises ``RefusedInput`` as ``log_ratios``, and for a ``total`` that has pairs of which there are no moments.
    Source: the delta method; IG Eq. 5, 6 and 14.
    """
    weight = prior_weight(total, prior, lower_frequency).numpy()
    upper, lower = moments.upper.numpy(), moments.lower.numpy()
    pairs = total.numpy()[upper, lower]
    if tuple(total.shape) != (len(moments.rr), len(moments.kk)) or int((total > 0).sum()) != int((pairs > 0).sum()):
        raise RefusedInput(
            f"total: must be the counts of the images whose moments are given, got shape {tuple(total.shape)} with "
            f"{int((total > 0).sum())} pairs of words; count both from the same word maps"
        )
    of_upper, of_all = total.sum(1).numpy()[upper].astype(np.float64), float(total.sum())
    lower_prior = (weight / max(weight.sum(), 1e-300))[lower]
    share = 1.0 / (pairs + pseudo_count * lower_prior).clip(min=1e-300)
    # How fast LR grows with c, r, k and n, in nats; P(t) is in the smoothed P(t|s) too.
    by_c, by_r = share, -1.0 / (of_upper + pseudo_count)
    by_prior = pseudo_count * lower_prior * share - 1.0 if prior == "marginal" else np.zeros(len(pairs))
    by_k, by_n = by_prior / weight[lower].clip(min=1e-300), -by_prior / max(of_all, 1.0)
    sums = {name: getattr(moments, name).numpy().astype(np.float64) for name in (*_CELL_FIELDS, "rr", "rn", "kk", "kn")}
    variance = by_c**2 * sums["cc"] + by_r**2 * sums["rr"][upper] + by_k**2 * sums["kk"][lower] + by_n**2 * moments.nn
    variance += 2 * by_c * (by_r * sums["cr"] + by_k * sums["ck"] + by_n * sums["cn"])
    variance += 2 * by_r * (by_k * sums["rk"] + by_n * sums["rn"][upper]) + 2 * by_k * by_n * sums["kn"][lower]
    deviations = torch.full(total.shape, torch.nan, dtype=torch.float64)
    # What rounding leaves of a variance of 0 may be negative.
    values = np.where(pairs > 0, np.sqrt(variance.clip(min=0.0)) / math.log(base), np.nan)
    deviations[moments.upper, moments.lower] = torch.from_numpy(values)
    return deviations


def _present(words: Int[np.ndarray, "N H W"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, "N H W"]]:
    """The words that occur, ascending, and the maps with each word's place among them; at least one word."""
    found = np.bincount(words.ravel() + 1, minlength=2)[1:] > 0
    found[0] |= not found.any()
    places = np.concatenate([np.cumsum(found) - 1, [-1]]).astype(words.dtype)  # -1, no word, is its last
    return np.flatnonzero(found), places[words]


@njit(cache=True, nogil=True)
def _add_image(upper, lower, count, cells, products, rr, rn, kk, kn):  # type: ignore[no-untyped-def]
    """Add the products of an image, given its non-zero c[s, t]; returns its n."""
    r, k = np.zeros(rr.shape[0], np.int64), np.zeros(kk.shape[0], np.int64)
    for i in range(count.shape[0]):
        r[upper[i]] += count[i]
        k[lower[i]] += count[i]
    n = r.sum()
    for i in range(count.shape[0]):
        c, cell = count[i], cells[upper[i], lower[i]]
        cell[0] += 1
        cell[1] += c * c
        cell[2] += c * r[upper[i]]
        cell[3] += c * k[lower[i]]
        cell[4] += c * n
    for s in range(r.shape[0]):
        if r[s] > 0:
            row = products[s]
            for t in range(k.shape[0]):
                row[t] += r[s] * k[t]
    rr += r * r
    rn += r * n
    kk += k * k
    kn += k * n
    return n

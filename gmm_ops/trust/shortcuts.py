"""Words that look like a shortcut, and are used: whose images have them, where they lie, and what goes without them.

A shortcut is a cue that comes with a class and is not the thing: a stamp, a letter, a border. Of a word and a class:

    ratio  = log2 of the share of the class's images that have the word over that of all other images
    place  = entropy of the word's position in the class's images: 0 always the same, 1 anywhere
    looks  = max(ratio, 0) * (2 - place) * (2 - share on the object), the last factor 1 where that is not known
    used   = drop > control and drop > 0: what the class's logit loses without the word, above the 95th percentile of
             what other (class, word) of the layer take
    weight = 1 of a used word, else max(drop, 0) / control
    rank     by looks * weight, highest first; then by looks

The association with the class must be there, so it is a factor; a fixed place and a place off the object each double it
at most. The rule is ours and was fixed before shortcuts were planted to try it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums

_PSEUDO = 0.5
"""Images that have a word, added to those of the class and to all others: of rare words no ratio is infinite."""


@dataclass(frozen=True)
class PlaceCounts(Sums):
    """In how many images of groups (classes, and all others) words are, and at which positions.

    Attributes:
        images: (G,) of each group.
        holding: (G, K) of them that have the word.
        places: (G, K, P) columns that are the word, by position, row by row.
    """

    images: Int[Tensor, " G"]
    holding: Int[Tensor, "G K"]
    places: Int[Tensor, "G K P"]

    @classmethod
    def zero(cls, groups: int, words: int, positions: int) -> PlaceCounts:
        """Of no image."""
        shapes = (groups,), (groups, words), (groups, words, positions)
        return cls(*(torch.zeros(shape, dtype=torch.int64) for shape in shapes))

    @classmethod
    def from_batch(
        cls, groups: Int[Tensor, " N"], words: Int[Tensor, "N H W"], n_groups: int, n_words: int
    ) -> PlaceCounts:
        """Of some images.

        Args:
            groups: of each image, from 0.
            words: of every column; -1 for none.
            n_groups: G.
            n_words: K.

        Raises:
            RefusedInput: not one group for each image, or a group or a word that is none of these.
        """
        flat, groups = words.flatten(1).long(), groups.long()
        _check("groups", groups, n_groups, len(flat))
        _check("words", flat.clamp(min=0), n_words)
        known, positions = flat >= 0, flat.shape[1]
        cells = ((groups[:, None] * n_words + flat) * positions + torch.arange(positions))[known]
        places = torch.bincount(cells, minlength=n_groups * n_words * positions)
        held = torch.zeros(len(flat), n_words + 1, dtype=torch.int64)
        held.scatter_(1, torch.where(known, flat, n_words), 1)
        holding = torch.zeros(n_groups, n_words, dtype=torch.int64).index_add_(0, groups, held[:, :n_words])
        return cls(torch.bincount(groups, minlength=n_groups), holding, places.view(n_groups, n_words, positions))

    def shares(self) -> Float[Tensor, "G K"]:
        """Of the images of each group that have the word; NaN of a group without images."""
        return self.holding / self.images[:, None].double()

    def other_shares(self) -> Float[Tensor, "G K"]:
        """Of the images of all other groups."""
        return (self.holding.sum(dim=0) - self.holding) / (self.images.sum() - self.images)[:, None].double()

    def log_ratios(self) -> Float[Tensor, "G K"]:
        """log2 of the share of images that have the word over the share of all other groups, in bits.

        Half an image that has it and half one that has not are added to both. 0 where there are no others: a word that
        nothing is compared with tells no class.
        """
        others, images = self.holding.sum(dim=0) - self.holding, self.images.sum() - self.images
        own, rest = (
            (holding.double() + _PSEUDO) / (of.double() + 2 * _PSEUDO)[:, None]
            for holding, of in ((self.holding, self.images), (others, images))
        )
        return torch.where(images[:, None] > 0, torch.log2(own / rest), 0.0)


def _check(name: str, values: Tensor, stop: int, length: int | None = None) -> None:
    if length is not None and values.shape != (length,):
        raise RefusedInput(
            f"{name}: must be one of each of {length} images, got {tuple(values.shape)}; give both of one batch"
        )
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < stop:
        raise RefusedInput(
            f"{name}: must be from 0 to {stop - 1}, got {int(values.min())} to {int(values.max())}; give their number"
        )


def positional_entropy(places: Float[Tensor, "... P"] | Int[Tensor, "... P"]) -> Float[Tensor, "..."]:
    """Entropy of where a word lies, over the largest that its columns could have: 0 one place, 1 anywhere.

    Few columns cannot lie everywhere, and plain entropy takes them for fixed: (m - 1) / 2N nats are added (Miller 1955;
    m positions have any of the N columns), and the largest is the logarithm of the smaller of N and P. Columns of one
    image count as independent, which they are not.

    Args:
        places: columns of the word by position.

    Returns:
        Float64 in [0, 1]; 1, which tells nothing, of fewer than two columns or of a layer of one position.

    Raises:
        RefusedInput: a negative count.
    """
    counts = places.double()
    if bool((counts < 0).any()):
        raise RefusedInput(f"places: must be counts of columns, got {float(counts.min()):g}; count at least 0")
    total = counts.sum(dim=-1)
    shares = counts / total.clamp(min=1)[..., None]
    plain = torch.special.entr(shares).sum(dim=-1)
    added = ((counts > 0).sum(dim=-1) - 1).clamp(min=0) / (2 * total.clamp(min=1))
    largest = total.clamp(min=1, max=counts.shape[-1]).log()
    found = ((plain + added) / largest).clamp(max=1)
    return torch.where(largest > 0, found, 1.0)


@dataclass(frozen=True, eq=False)
class ShortcutRanking:
    """Words of a class, of all its layers.

    Attributes:
        looks: (W,) like a shortcut, in bits, whatever it does.
        used: (W,) whether the class's logit falls more without it than without others.
        weight: (W,) 1 of a used word, else how much of its control its drop reaches.
        rank: (W,) from 0.
    """

    looks: Float[Tensor, " W"]
    used: Bool[Tensor, " W"]
    weight: Float[Tensor, " W"]
    rank: Int[Tensor, " W"]


def rank_shortcuts(
    log_ratios: Float[Tensor, " W"],
    entropies: Float[Tensor, " W"],
    drops: Float[Tensor, " W"],
    controls: Float[Tensor, " W"],
    on_object: Float[Tensor, " W"] | None = None,
) -> ShortcutRanking:
    """The rule of the module.

    Args:
        log_ratios: of presence, in bits, see ``PlaceCounts.log_ratios``.
        entropies: see ``positional_entropy``.
        drops: of the class's logit without the word.
        controls: what is usual among other (class, word) of the word's layer; NaN where nothing is.
        on_object: share of the word's columns on the object; NaN, or None for all, where that is not known.

    Returns:
        Ties keep their order.

    Raises:
        RefusedInput: other lengths, an entropy or a share outside of [0, 1], or a ratio or drop that is no number.
    """
    known = torch.full_like(log_ratios, math.nan) if on_object is None else on_object
    given = {"log_ratios": log_ratios, "entropies": entropies, "drops": drops, "controls": controls, "on_object": known}
    _check_rule(given)
    ratio, place, drop, control, share = (values.double() for values in given.values())
    looks = ratio.clamp(min=0) * (2 - place) * torch.where(share.isnan(), 1.0, 2 - share)
    used = (drop > control) & (drop > 0)
    part = torch.where(control > 0, drop.clamp(min=0) / control, 0.0)
    weight = torch.where(used, 1.0, part)
    order = sorted(range(len(looks)), key=lambda at: (-float(looks[at] * weight[at]), -float(looks[at])))
    rank = torch.empty(len(looks), dtype=torch.int64)
    rank[order] = torch.arange(len(looks))
    return ShortcutRanking(looks, used, weight, rank)


def _check_rule(given: dict[str, Tensor]) -> None:
    lengths = {name: tuple(values.shape) for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        raise RefusedInput(f"log_ratios: must be of the same words as the others, got {lengths}; give one of each word")
    for name in ("entropies", "on_object"):
        outside = (given[name] < 0) | (given[name] > 1) | (given[name].isnan() & (name == "entropies"))
        if bool(outside.any()):
            raise RefusedInput(f"{name}: must be from 0 to 1, got {given[name][outside].tolist()[:3]}; give shares")
    for name in ("log_ratios", "drops"):
        if not bool(given[name].isfinite().all()):
            raise RefusedInput(f"{name}: must be finite, got {given[name].tolist()[:3]}; leave out words without one")

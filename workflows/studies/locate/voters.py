"""Who votes for where a part is: patterns or raw peaks by their places, words by their maps; and the controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.svm import SVR
from torch import Tensor

from gmm_ops.explanatory.and_or_graph import (
    Template,
    Votes,
    place_templates,
    place_votes,
    strengths,
    vote_map,
    word_templates,
    word_votes,
)
from gmm_ops.explanatory.pattern_places import PatternPlaces
from workflows.asking.pattern_files import PatternedLayer, PatternFiles, Top, shard_rows
from workflows.studies.locate.crop_words import AskedDictionary
from workflows.studies.locate.request import Annotated

CONTROLS = ("centre", "mean", "linear")

_COST, _SLACK = 100.0, 0.01
"""Of the support vector regression: C, and errors in sides of the object that cost nothing. The features of an object
have length 1, so three annotated objects are met within the slack."""


@dataclass(frozen=True)
class Method:
    """Who votes, as tables call it, and which of them: of words the dictionary, of patterns the kind of top."""

    name: str
    voters: str | None = None


class Voters(Protocol):
    """Those who vote on the objects of a class."""

    @property
    def method(self) -> Method:
        """Who they are."""

    def templates(self, annotated: Annotated) -> tuple[Template, ...]:
        """One for each annotated object."""

    def votes(self, template: Template, row: int) -> Votes:
        """Where a template sees the part on an object; objects are asked for in ascending order."""

    def weights(self, template: Template, row: int) -> Float[Tensor, " m"]:
        """What each voter of a template weighs on its own object, as shares."""

    def columns(self, voters: Int[np.ndarray, " m"]) -> dict[str, Any]:
        """Layer, unit, pattern and word of voters, as tables have them."""


def votes_on(voters: Voters, templates: Sequence[Template], row: int) -> Float[Tensor, "R R"]:
    """The vote map of an object."""
    return vote_map([voters.votes(one, row) for one in templates])


@dataclass(frozen=True, eq=False)
class PlaceVoters:
    """Patterns, or the raw peaks of units.

    Attributes:
        files: of the class.
        learned: (n,) objects over which the mean of a score is taken.
        top: whose patterns; None: raw peaks.
        layers: names of their layers, lowest first.
    """

    files: PatternFiles
    learned: np.ndarray
    top: Top | None
    layers: tuple[str, ...]

    @property
    def method(self) -> Method:
        """``patterns`` or ``peaks``; of some layers they are named."""
        told: list[str] = [] if self.top is None else [self.top]
        told += self.layers if len(self.layers) < len(self.files.layers()) else ()
        return Method("peaks" if self.top is None else "patterns", ", ".join(told) or None)

    @cached_property
    def _layers(self) -> tuple[PatternedLayer, ...]:
        return tuple(layer for layer in self.files.layers() if layer.name in self.layers)

    @cached_property
    def _peaks(self) -> PatternPlaces:
        return _joined([self.files.peaks(layer.name) for layer in self._layers])

    @cached_property
    def _block(self) -> dict[int, PatternPlaces]:
        """The objects that were read last: a block of as many as a file has, by its first."""
        return {}

    def _of(self, row: int) -> tuple[PatternPlaces, int]:
        """A block with an object, and the object's place in it."""
        if self.top is None:
            return self._peaks, row
        first = row - row % shard_rows()
        if first not in self._block:
            self._block.clear()
            some = slice(first, first + shard_rows())
            self._block[first] = _joined([self.files.places(self.top, layer.name, some) for layer in self._layers])
        return self._block[first], row - first

    @cached_property
    def _means(self) -> Float[Tensor, " V"]:
        """Of each voter's score over the objects that were learned from."""
        total: Tensor | None = None
        for first in range(0, len(self.learned), shard_rows()):
            block, start = self._of(first)
            own = torch.from_numpy(np.flatnonzero(self.learned[first : first + shard_rows()])) + start
            some = block.scores[own].double().sum(dim=0)
            total = some if total is None else total + some
        assert total is not None, "a class has objects"
        return total / max(int(self.learned.sum()), 1)

    @cached_property
    def _seen(self) -> dict[int, tuple[Float[Tensor, "V 2"], Float[Tensor, " V"]]]:
        """The object that was asked for last: all templates of all sets vote on it."""
        return {}

    def _strength(self, row: int) -> tuple[Float[Tensor, "V 2"], Float[Tensor, " V"]]:
        if row not in self._seen:
            block, place = self._of(row)
            self._seen.clear()
            self._seen[row] = block.places[place], strengths(block.scores[place : place + 1], self._means)[0]
        return self._seen[row]

    def templates(self, annotated: Annotated) -> tuple[Template, ...]:
        """Of the voters near the part on each annotated object."""
        places, strength = zip(*(self._strength(row) for row in annotated.rows.tolist()), strict=True)
        return place_templates(torch.stack(places), torch.stack(strength), torch.from_numpy(annotated.parts))

    def votes(self, template: Template, row: int) -> Votes:
        """By where they sit on the object."""
        return place_votes(template, *self._strength(row))

    def weights(self, template: Template, row: int) -> Float[Tensor, " m"]:
        """Their strength there: every voter of a template has a place on its own object."""
        return self.votes(template, row).weights

    def columns(self, voters: Int[np.ndarray, " m"]) -> dict[str, Any]:
        """Their layer, unit and, of patterns, number."""
        each = [1 if self.top is None else self._counts[layer.name] for layer in self._layers]
        ends = np.cumsum([layer.units * count for layer, count in zip(self._layers, each, strict=True)])
        level = np.searchsorted(ends, voters, side="right")
        number = voters - np.concatenate([[0], ends])[level]
        count = np.array(each)[level]
        return {
            "layer": [self._layers[one].name for one in level.tolist()],
            "unit": number // count,
            "pattern": None if self.top is None else number % count,
            "word": None,
        }

    @cached_property
    def _counts(self) -> dict[str, int]:
        """Patterns of a unit: a free top has one."""
        assert self.top is not None, "peaks have none"
        first = {one.name: self.files.places(self.top, one.name, slice(0, 1)).scores for one in self._layers}
        return {layer.name: first[layer.name].shape[1] // layer.units for layer in self._layers}


def _joined(found: Sequence[PatternPlaces]) -> PatternPlaces:
    """Of all layers, lowest first."""
    return PatternPlaces(torch.cat([one.places for one in found], 1), torch.cat([one.scores for one in found], 1))


@dataclass(frozen=True, eq=False)
class WordVoters:
    """The words of a dictionary.

    Attributes:
        dictionary: which.
        maps: (n, H, W) word maps of all objects, turned.
        learned: (n,) objects in which words are counted.
    """

    dictionary: AskedDictionary
    maps: Int[np.ndarray, "n H W"]
    learned: np.ndarray

    @property
    def method(self) -> Method:
        """``words``."""
        return Method("words", self.dictionary.name)

    @cached_property
    def _frequencies(self) -> Float[Tensor, " K"]:
        words = self.maps[self.learned].reshape(-1)
        counts = np.bincount(words[words >= 0], minlength=self.dictionary.words)
        return torch.from_numpy(counts / max(counts.sum(), 1))

    def templates(self, annotated: Annotated) -> tuple[Template, ...]:
        """Of the columns near the part on each annotated object."""
        maps, parts = torch.from_numpy(self.maps[annotated.rows]), torch.from_numpy(annotated.parts)
        return word_templates(maps, self.dictionary.grid, parts, self._frequencies)

    def votes(self, template: Template, row: int) -> Votes:
        """By where their words are on the object."""
        return word_votes(template, torch.from_numpy(self.maps[row]), self.dictionary.grid)

    def weights(self, template: Template, row: int) -> Float[Tensor, " m"]:
        """By how rare their words are."""
        return template.weights / max(template.total, 1e-300)

    def columns(self, voters: Int[np.ndarray, " m"]) -> dict[str, Any]:
        """Layer and word."""
        layer = self.dictionary.layer.name
        return {"layer": [layer] * len(voters), "unit": None, "pattern": None, "word": voters}


def together(dictionaries: Sequence[AskedDictionary]) -> Method:
    """Words of several dictionaries, whose vote maps are averaged."""
    alike = {(one.scope, one.layer.given) for one in dictionaries}
    first, *others = dictionaries
    return Method(
        "words", " + ".join([first.name, *(str(one.words) if len(alike) == 1 else one.name for one in others)])
    )


def controls(
    annotated: Annotated, features: Float[np.ndarray, "n D"]
) -> Iterator[tuple[Method, Float[np.ndarray, "n 2"]]]:
    """Where those see the part that vote for nothing: the middle, the annotated parts' mean, a regression."""
    count = len(features)
    yield Method("centre"), np.full((count, 2), 0.5)
    yield Method("mean"), np.repeat(annotated.parts.mean(axis=0, keepdims=True), count, axis=0)
    axes = [
        SVR(kernel="linear", C=_COST, epsilon=_SLACK).fit(features[annotated.rows], axis).predict(features)
        for axis in annotated.parts.T
    ]
    yield Method("linear"), np.stack(axes, axis=1)


def object_features(files: PatternFiles) -> Float[np.ndarray, "n D"]:
    """The strongest response of every unit of the top layer, of length 1 for each object."""
    scores = files.peaks(files.layers()[-1].name).scores.double().numpy()
    lengths = np.linalg.norm(scores, axis=1, keepdims=True)
    found: np.ndarray = scores / np.where(lengths > 0, lengths, 1.0)
    return found

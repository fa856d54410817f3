"""What is taken out of every layer for a class, each once, whatever asks for it; and where its drop is found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.trust.word_curves import curve_steps
from workflows.studies.trust.request import Intervention, TrustRequest
from workflows.studies.trust.subjects import Choice, ClassSubject

BEST = 20
"""Words of a layer that are taken out by themselves, by score and by each first-order effect."""


@dataclass(frozen=True)
class Probe:
    """Columns of one layer that are ablated.

    Attributes:
        layer: its place, from the lowest.
        intervention: what they say instead.
        words: whose columns; ascending.
        draw: as many random columns outside of them; -1: the words' own.
    """

    layer: int
    intervention: Intervention
    words: tuple[int, ...]
    draw: int = -1


@dataclass(frozen=True, eq=False)
class LayerProbes:
    """The probes of a class in one layer, as a worker takes them.

    Attributes:
        places: (J,) their columns among all drops of the class.
        words: (J, K) whose columns are ablated.
        interventions: (J,) place in the request's.
        draws: (J,) -1 where the words' own columns are ablated.
        judged_only: (J,) whether only images of the judging half are looked at.
    """

    places: Int[Tensor, " J"]
    words: Bool[Tensor, "J K"]
    interventions: Int[Tensor, " J"]
    draws: Int[Tensor, " J"]
    judged_only: Bool[Tensor, " J"]


@dataclass(eq=False)
class ClassProbes:
    """All probes of a class, in the order in which they were first asked for."""

    subject: ClassSubject
    _judged_only: dict[Probe, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._judged_only)

    def add(self, probe: Probe, judged_only: bool = False) -> None:
        """Ask for a probe; of no word there is nothing to take out."""
        if probe.words:
            self._judged_only[probe] = judged_only and self._judged_only.get(probe, True)

    def of_layer(self, layer: int, words: int, interventions: Sequence[Intervention]) -> LayerProbes:
        """As the worker takes them. words: K of the layer."""
        own = [(place, probe) for place, probe in enumerate(self._judged_only) if probe.layer == layer]
        chosen = torch.zeros(len(own), words, dtype=torch.bool)
        for row, (_, probe) in enumerate(own):
            chosen[row, list(probe.words)] = True
        return LayerProbes(
            torch.tensor([place for place, _ in own], dtype=torch.int64),
            chosen,
            torch.tensor([interventions.index(probe.intervention) for _, probe in own], dtype=torch.int64),
            torch.tensor([probe.draw for _, probe in own], dtype=torch.int64),
            torch.tensor([self._judged_only[probe] for _, probe in own], dtype=torch.bool),
        )

    def drops(self, found: Float[np.ndarray, "n J"]) -> ProbedDrops:
        """The drops by probe. found: by image of the class, as it came from the workers."""
        return ProbedDrops({probe: place for place, probe in enumerate(self._judged_only)}, found)


@dataclass(frozen=True, eq=False)
class ProbedDrops:
    """Drops of the class's logit, by probe."""

    _places: dict[Probe, int]
    _found: Float[np.ndarray, "n J"]

    def __len__(self) -> int:
        return len(self._places)

    def __call__(self, probe: Probe) -> Float[np.ndarray, " n"]:
        """By image; NaN where it was not looked at, 0 where the image has none of the columns."""
        if not probe.words:
            return np.zeros(len(self._found))
        return self._found[:, self._places[probe]]

    def random(self, probe: Probe, draws: int) -> Float[np.ndarray, " n"]:
        """Mean over the draws of as many random columns."""
        each = [self(Probe(probe.layer, probe.intervention, probe.words, draw)) for draw in range(draws)]
        return np.mean(each, axis=0)


def own_probe(layer: int, intervention: Intervention, words: Sequence[int]) -> Probe:
    """Of the columns of some words."""
    return Probe(layer, intervention, tuple(sorted(words)))


def removed(order: Sequence[int], step: int, direction: str) -> tuple[int, ...]:
    """Words taken out at a step of a curve: of ``deletion`` the first, of ``insertion`` all others."""
    return tuple(order[:step] if direction == "deletion" else order[step:])


def plan_probes(
    subject: ClassSubject, effects: Sequence[Float[Tensor, "2 I K"]], request: TrustRequest, seed: int
) -> ClassProbes:
    """Everything that is taken out for a class.

    Args:
        subject: the class.
        effects: by layer, first-order: of the choosing half and of the judging, by intervention; means over images.
        request: what is asked.
        seed: of random orders.
    """
    probes = ClassProbes(subject)
    for layer, by_half in enumerate(effects):
        for place, intervention in enumerate(request.interventions):
            for choice in subject.ranked:
                _add_selections(probes, layer, intervention, choice, by_half[0, place], request.draws)
            for words in subject.leading.values():
                for word in words[layer].chosen:
                    _add_random(probes, own_probe(layer, intervention, (word,)), request.draws)
            for word in subject.single_words(layer, by_half.mean(dim=0), BEST):
                probes.add(own_probe(layer, intervention, (word,)))
        _add_curves(probes, layer, request.interventions[0], by_half[0, 0], seed)
    return probes


def _add_selections(
    probes: ClassProbes,
    layer: int,
    intervention: Intervention,
    choice: Choice,
    effects: Float[Tensor, " K"],
    draws: int,
) -> None:
    for name, words in probes.subject.selections(layer, choice, effects).items():
        probe = own_probe(layer, intervention, words)
        probes.add(probe, judged_only=name == "effect")
        if name == "graph":
            _add_random(probes, probe, draws)


def _add_random(probes: ClassProbes, own: Probe, draws: int) -> None:
    for draw in range(draws):
        probes.add(Probe(own.layer, own.intervention, own.words, draw))


def _add_curves(
    probes: ClassProbes, layer: int, intervention: Intervention, effects: Float[Tensor, " K"], seed: int
) -> None:
    orders = probes.subject.orders(layer, effects, seed)
    for order in orders.values():
        for step in curve_steps(len(order)).tolist():
            for direction in ("deletion", "insertion"):
                probes.add(own_probe(layer, intervention, removed(order, step, direction)), judged_only=True)

"""Which units are silenced: rankings by other studies' tables, controls, and the list of interventions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from gmm_ops.units.rankings import Selection, random_units, select_units
from workflows.asking.unit_tables import dissect_scores, refuse_outer, relevance_scores, word_scores
from workflows.errors import SettingsError
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.report.lettering import short_name
from workflows.storage.run_folder import RunFolder
from workflows.studies.ablate.worker import Silencing

Replacement = Literal["mean", "zero"]
RANKINGS = ("relevance", "specific", "dissect", "activation")
RANDOM, ALL, EACH = "random", "all", "each"
SCORED = "scored"
"""In place of ``all``, where the ranking has scores for some layers only."""

DRAWS = 3
"""Of random units, each a control of its own."""

Scores = Mapping[str, Float[np.ndarray, " D"]]
"""By layer."""


@dataclass(frozen=True)
class AblateRequest:
    """What is asked.

    Attributes:
        classes: names or ids, or ``all``.
        rankings: by what units are taken.
        layers: ``all``, ``each``, or names.
        replacements: what silenced units say.
        shares: of each layer's units, 0 to 1.
    """

    classes: tuple[str, ...]
    rankings: tuple[str, ...] = ("relevance",)
    layers: tuple[str, ...] = (ALL,)
    replacements: tuple[Replacement, ...] = ("mean",)
    shares: tuple[float, ...] = (0.01, 0.02, 0.03, 0.10)

    def __post_init__(self) -> None:
        """Raises SettingsError: a value that is none of those."""
        if not self.classes:
            raise SettingsError("--class: must name a class, or all; got none")
        for ranking in self.rankings:
            if ranking not in RANKINGS and word_of(ranking) is None:
                raise SettingsError(
                    f"--ranking: must be {', '.join(RANKINGS)} or word:<layer>:<word>, such as word:add3:7, "
                    f"got {ranking!r}"
                )
        for name in self.replacements:
            if name not in get_args(Replacement):
                raise SettingsError(f"--replace: must be mean or zero, got {name!r}")
        if not self.shares:
            raise SettingsError("--shares: must be percentages above 0, up to 100, got none")
        for share in self.shares:
            if not 0 < share <= 1:
                raise SettingsError(f"--shares: must be percentages above 0, up to 100, got {100 * share:g}")


def word_of(ranking: str) -> tuple[str, int] | None:
    """Layer and word of ``word:<layer>:<word>``; None for other rankings."""
    found = re.fullmatch(r"word:(.+):(\d+)", ranking)
    return (found[1], int(found[2])) if found else None


def share_numbers(text: str) -> tuple[float, ...]:
    """From the command line, percentages: ``1,2,3,10``. Raises SettingsError: not of that form."""
    try:
        return tuple(sorted({float(part) / 100 for part in text.split(",")}))
    except ValueError:
        raise SettingsError(f"--shares: must be percentages with commas, such as 1,2,3,10, got {text!r}") from None


@dataclass(frozen=True, eq=False)
class Ablation:
    """One intervention, and what it stands for in the table.

    Attributes:
        layers: ``all``, or a canonical name.
        ranking, selection, draw, replaced_by, share: columns of ablations.parquet.
        labels: classes that it is for: the one that the units were ranked for; of units by chance those with the same
            layers. None: all that are asked for.
        silencing: the units.
        units: of all its layers together.
    """

    layers: str
    ranking: str
    selection: Selection
    draw: int
    replaced_by: Replacement
    share: float
    labels: tuple[int, ...] | None
    silencing: Silencing
    units: int

    @property
    def silenced(self) -> int:
        """How many units are."""
        return sum(len(units) for units in self.silencing.units.values())


def plan_ablations(
    folder: RunFolder, network: UnitNetwork, request: AblateRequest, classes: Mapping[int, str], seed: int
) -> list[Ablation]:
    """All interventions of a request.

    Args:
        folder: of the run, for the tables of other studies.
        network: its layers.
        request: what is asked.
        classes: names by id.
        seed: of random units.

    Raises:
        RunError: a table or a layer is missing; the message names the command.
    """
    ranked = [
        (ranking, label, name, group, scores)
        for ranking in dict.fromkeys(request.rankings)
        for label, scores in _scores(folder, network, ranking, classes)
        for name, group in dict(_groups(network, request, ranking, scores)).items()  # each, and one of them by name
    ]
    labels_of: dict[_Group, set[int | None]] = {}
    for _, label, name, group, _ in ranked:
        labels_of.setdefault(_group(name, group), set()).add(label)
    found: list[Ablation] = []
    for ranking, label, name, group, scores in ranked:
        found += _ranked(request, ranking, label, name, group, scores)
        # The same units by chance for all rankings, and for all classes with these layers.
        labels = labels_of.pop(_group(name, group), None)
        if labels is not None:
            known = tuple(sorted(one for one in labels if one is not None))
            found += _random(request, name, group, seed, None if None in labels else known)
    return found


_Group = tuple[str, tuple[str, ...]]


def _group(name: str, group: Sequence[UnitLayer]) -> _Group:
    return name, tuple(layer.name for layer in group)


def _scores(
    folder: RunFolder, network: UnitNetwork, ranking: str, classes: Mapping[int, str]
) -> Iterator[tuple[int | None, Scores]]:
    word = word_of(ranking)
    if word is not None:
        layer, scores = word_scores(folder, network, *word)
        yield None, {layer.name: scores}
        return
    for label, name in classes.items():
        if ranking == "dissect":
            yield label, dissect_scores(folder, network, short_name(name))
        else:
            yield label, relevance_scores(folder, label, ranking, short_name(name))


def _groups(
    network: UnitNetwork, request: AblateRequest, ranking: str, scores: Scores
) -> Iterator[tuple[str, list[UnitLayer]]]:
    """Layers whose units are silenced together, with the name of the group."""
    if word_of(ranking) is not None:
        layer = network.layers[next(iter(scores))]
        yield layer.name, [layer]
        return
    inner = [layer for layer in network.inner_convolutions() if layer.name in scores]
    if not inner and {ALL, EACH} & set(request.layers):
        raise SettingsError(
            f"--layers: must have a convolution between the first and the last that the ranking {ranking!r} has scores "
            f"for, got {', '.join(list(scores)[:6])}; name one of them if it is not the first, or ask the study that "
            "the ranking is from for others"
        )
    for asked in dict.fromkeys(request.layers):
        if asked == ALL:
            yield ALL if len(inner) == len(network.inner_convolutions()) else SCORED, inner
        elif asked == EACH:
            yield from ((layer.name, [layer]) for layer in inner)
        else:
            layer = network.convolution(asked)
            refuse_outer(network, layer, asked, "--layers", "an inner convolution")
            if layer.name not in scores:
                raise SettingsError(
                    f"--layers: must be a layer that the ranking {ranking!r} has scores for, got {asked!r}; it has "
                    f"{', '.join(list(scores)[:6])}"
                )
            yield layer.name, [layer]


def _ranked(
    request: AblateRequest, ranking: str, label: int | None, name: str, group: Sequence[UnitLayer], scores: Scores
) -> Iterator[Ablation]:
    selections: tuple[Literal["top", "bottom"], ...] = ("top", "bottom")
    for share in request.shares:
        for selection in selections:
            units = {layer.name: select_units(scores[layer.name], share, selection) for layer in group}
            for kind in request.replacements:
                silencing = Silencing(units, kind == "mean")
                total = sum(layer.units for layer in group)
                labels = None if label is None else (label,)
                yield Ablation(name, ranking, selection, 0, kind, share, labels, silencing, total)


def _random(
    request: AblateRequest, name: str, group: Sequence[UnitLayer], seed: int, labels: tuple[int, ...] | None
) -> Iterator[Ablation]:
    for share in request.shares:
        for draw in range(DRAWS):
            units = {layer.name: random_units(layer.name, layer.units, share, draw, seed) for layer in group}
            for kind in request.replacements:
                silencing = Silencing(units, kind == "mean")
                total = sum(layer.units for layer in group)
                yield Ablation(name, RANDOM, "random", draw, kind, share, labels, silencing, total)

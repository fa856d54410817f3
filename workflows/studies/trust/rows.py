"""Rows of the tables of trust, from what the images said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.trust.paired_bootstrap import bootstrap_differences, bootstrap_ratios
from gmm_ops.trust.word_curves import curve_area, curve_steps, kept_shares
from gmm_ops.units.ablation import wilson
from workflows.studies.trust.probes import ProbedDrops, own_probe, removed
from workflows.studies.trust.probing import KINDS, ProbedImages
from workflows.studies.trust.request import Intervention, TrustRequest
from workflows.studies.trust.subjects import RANKINGS, Choice, ClassSubject

ALL, JUDGED = "all", "judged"


@dataclass(frozen=True, eq=False)
class ClassFindings:
    """What is known of a class when all its images have been looked at.

    Attributes:
        subject: the class.
        name: its name.
        layers: canonical names, lowest first.
        cuts: by layer, whether every path crosses it.
        effects: by layer: (2, I, K) first-order, means over the choosing and the judging half.
        drops: by probe.
        images: what its images said, in the order of the subject.
        seed: of intervals and random orders.
    """

    subject: ClassSubject
    name: str
    layers: Sequence[str]
    cuts: Sequence[bool]
    effects: Sequence[Float[Tensor, "2 I K"]]
    drops: ProbedDrops
    images: ProbedImages
    seed: int

    def key(self, layer: int | None = None) -> dict[str, Any]:
        """What tells its rows from others."""
        own = {"scope": self.subject.scope, "class": self.subject.label, "class_name": self.name}
        return own if layer is None else {**own, "layer": self.layers[layer], "is_cut": self.cuts[layer]}


@dataclass(frozen=True, eq=False)
class _Selection:
    """Columns of some words. drop: by image. control: drop of as many random columns, where they were drawn."""

    name: str
    words: tuple[int, ...] | None
    drop: Float[np.ndarray, " n"]
    control: Float[np.ndarray, " n"] | None
    column_share: float
    score_share: float | None


def effect_rows(found: ClassFindings, request: TrustRequest) -> Iterator[dict[str, Any]]:
    """Rows of effects.parquet."""
    halves = {ALL: np.ones(len(found.subject.images), bool), JUDGED: found.subject.judged}
    for layer in range(len(found.layers)):
        for place, intervention in enumerate(request.interventions):
            for choice in found.subject.ranked:
                chosen = list(_selections(found, layer, place, intervention, choice, request))
                for half, rows in halves.items():
                    key = {**found.key(layer), **_chosen_by(choice), "intervention": intervention}
                    some = [one for one in chosen if half == JUDGED or one.name != "effect"]
                    yield from _judged({**key, "half": half, "draws": request.draws}, some, rows, found.seed)


def _selections(
    found: ClassFindings, layer: int, place: int, intervention: Intervention, choice: Choice, request: TrustRequest
) -> Iterator[_Selection]:
    subject, drops = found.subject, found.drops
    for name, words in subject.selections(layer, choice, found.effects[layer][0, place]).items():
        probe = own_probe(layer, intervention, words)
        share, known = subject.column_share(layer, words), subject.score_share(layer, choice, words)
        control = drops.random(probe, request.draws) if name == "graph" else None
        yield _Selection(name, words, drops(probe), control, share, known)
        if control is not None:
            yield _Selection("random", None, control, None, share, None)
    if subject.leading[choice[0]] is not subject.ranked[choice]:
        return
    for word in subject.ranked[choice][layer].chosen:
        probe = own_probe(layer, intervention, (word,))
        share, known = subject.column_share(layer, (word,)), subject.score_share(layer, choice, (word,))
        yield _Selection("word", (word,), drops(probe), drops.random(probe, request.draws), share, known)


def overall_effect_rows(classes: Sequence[ClassFindings], request: TrustRequest) -> Iterator[dict[str, Any]]:
    """Rows of effects.parquet of the classes of a scope together: each image with its own class's words."""
    first, judged = classes[0], np.concatenate([one.subject.judged for one in classes])
    halves = {ALL: np.ones(len(judged), bool), JUDGED: judged}
    for layer, name in enumerate(first.layers):
        for place, intervention in enumerate(request.interventions):
            for choice in first.subject.ranked:
                own = [
                    {some.name: some for some in _selections(one, layer, place, intervention, choice, request)}
                    for one in classes
                ]
                every = [_joined(one, own, classes) for one in dict.fromkeys(name for some in own for name in some)]
                key = {"scope": first.subject.scope, "layer": name, "is_cut": first.cuts[layer], "draws": request.draws}
                key |= {**_chosen_by(choice), "intervention": intervention}
                for half, rows in halves.items():
                    kept = [one for one in every if one.name != "word" and (half == JUDGED or one.name != "effect")]
                    yield from _judged({**key, "half": half}, kept, rows, first.seed)


def _chosen_by(choice: Choice) -> dict[str, Any]:
    return dict(zip(("criterion", "top"), choice, strict=True))


def _joined(name: str, own: Sequence[Mapping[str, _Selection]], classes: Sequence[ClassFindings]) -> _Selection:
    """One selection of all classes; no value where a class has none."""
    nothing = [np.full(len(one.subject.images), np.nan) for one in classes]
    some = [known.get(name) for known in own]
    drop = [empty if one is None else one.drop for one, empty in zip(some, nothing, strict=True)]
    control = [
        empty if one is None or one.control is None else one.control for one, empty in zip(some, nothing, strict=True)
    ]
    has_control = any(one is not None and one.control is not None for one in some)
    shares = [one.column_share for one in some if one is not None]
    scores = [one.score_share for one in some if one is not None and _known(one.score_share) is not None]
    return _Selection(
        name,
        None,
        np.concatenate(drop),
        np.concatenate(control) if has_control else None,
        float(np.mean(shares)),
        float(np.mean([score for score in scores if score is not None])) if scores else None,
    )


def _judged(
    key: Mapping[str, Any], chosen: Sequence[_Selection], rows: Bool[np.ndarray, " n"], seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of selections on some images; all draw the same images in each bootstrap."""
    if not chosen or not rows.any():
        return
    drops = _stacked([one.drop[rows] for one in chosen])
    graph = drops[:, [0]].expand_as(drops)
    controls = _stacked([(one.drop if one.control is None else one.control)[rows] for one in chosen])
    # In one call, for all of them are of the same draws.
    first, second = [drops, drops, graph], [torch.zeros_like(drops), controls, drops]
    every = bootstrap_differences(torch.cat(first, dim=1), torch.cat(second, dim=1), seed).split(len(chosen), dim=1)
    values = dict(zip(("drop", "excess", "behind"), every, strict=True))
    for place, selection in enumerate(chosen):
        kept = ("drop", "behind") if selection.control is None else ("drop", "excess")
        numbers = {name: values[name][:, place].tolist() for name in kept}
        yield {
            **key,
            "selection": selection.name,
            "words": None if selection.words is None else list(selection.words),
            "column_share": selection.column_share,
            "score_share": _known(selection.score_share),
            **{column: value for name, ends in numbers.items() for column, value in _ends(name, ends)},
            "images": int((~drops[:, place].isnan()).sum()),
        }


def curve_rows(found: ClassFindings, request: TrustRequest) -> Iterator[dict[str, Any]]:
    """Rows of effect_curves.parquet: on the judging half, of which no word was chosen."""
    subject, intervention = found.subject, request.interventions[0]
    rows = subject.judged
    plain = found.images.plain.numpy()[rows]
    for layer in range(len(found.layers)):
        orders = subject.orders(layer, found.effects[layer][0, 0], found.seed)
        for ranking in RANKINGS:
            order = orders[ranking]
            steps = curve_steps(len(order))
            for direction in ("deletion", "insertion"):
                sets = [removed(order, step, direction) for step in steps.tolist()]
                drops = np.stack([found.drops(own_probe(layer, intervention, words))[rows] for words in sets], axis=1)
                without = plain - found.drops(own_probe(layer, intervention, order))[rows]
                after = plain[:, None] - drops
                kept = kept_shares(*(torch.from_numpy(one) for one in (plain, after, without)))
                area = curve_area(steps, kept)
                for step, value in zip(steps.tolist(), kept.tolist(), strict=True):
                    yield {
                        **found.key(),
                        "layer": found.layers[layer],
                        "intervention": intervention,
                        "ranking": ranking,
                        "direction": direction,
                        "k": step,
                        "kept": _known(value),
                        "area": _known(area),
                        "words": len(order),
                        "images": int(rows.sum()),
                    }


def edge_rows(found: ClassFindings, request: TrustRequest) -> Iterator[dict[str, Any]]:
    """Rows of edge_effects.parquet."""
    places = {edge: place for place, edge in enumerate(found.subject.tested_edges)}
    for criterion, edge in ((criterion, edge) for criterion, edges in found.subject.edges.items() for edge in edges):
        yield {
            **found.key(),
            "upper_layer": found.layers[edge.upper_layer],
            "upper_word": edge.upper_word,
            "lower_layer": found.layers[edge.lower_layer],
            "lower_word": edge.lower_word,
            "criterion": criterion,
            "intervention": request.interventions[0],
            **_lost(found.images.positions[:, places[edge]], found.images.lost[:, places[edge]], found.seed),
        }


def overall_edge_rows(classes: Sequence[ClassFindings], request: TrustRequest) -> Iterator[dict[str, Any]]:
    """Rows of edge_effects.parquet of all edges between two layers, of the classes of a scope together."""
    first = classes[0]
    for criterion, lower in itertools.product(first.subject.edges, range(len(first.layers) - 1)):
        own = [_places(one.subject, criterion, lower) for one in classes]
        positions, lost = (
            torch.cat([getattr(one.images, name)[:, at].sum(dim=1) for one, at in zip(classes, own, strict=True)])
            for name in ("positions", "lost")
        )
        pair = {"upper_layer": first.layers[lower + 1], "lower_layer": first.layers[lower]}
        key = {"scope": first.subject.scope, **pair, "criterion": criterion}
        yield {**key, "intervention": request.interventions[0], **_lost(positions, lost, first.seed)}


def _places(subject: ClassSubject, criterion: str, lower: int) -> list[int]:
    """Of the edges of a graph whose lower word lies in a layer, among all that were tested."""
    own = {edge for edge in subject.edges.get(criterion, ()) if edge.lower_layer == lower}
    return [place for place, edge in enumerate(subject.tested_edges) if edge in own]


def _lost(positions: Int[Tensor, " n"], lost: Int[Tensor, "n D"], seed: int) -> dict[str, Any]:
    """Columns of an edge. lost: with the lower word ablated, and with others by draw."""
    own, control = lost[:, 0].double(), lost[:, 1:].double().mean(dim=1)
    below = positions.double()[:, None].expand(-1, 3)
    shares = bootstrap_ratios(torch.stack([own, control, own - control], dim=1), below, seed).T.tolist()
    return {
        "lost": _known(shares[0][0]),
        "control": _known(shares[1][0]),
        **dict(_ends("excess", shares[2])),
        "positions": int(positions.sum()),
        "images": int((positions > 0).sum()),
    }


def completeness_rows(
    key: Mapping[str, Any], images: ProbedImages, layers: Sequence[str], cuts: Sequence[bool], seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of completeness.parquet of some images together. key: scope, class and class_name."""
    known = images.right >= 0
    for layer, name in enumerate(layers):
        centre = images.replaced[:, layer, len(KINDS)]
        whole = images.plain - centre
        for place, kind in enumerate(KINDS):
            gap = images.replaced[:, layer, place] - centre
            yield {
                **key,
                "layer": name,
                "is_cut": cuts[layer],
                "kind": kind,
                **_share("accuracy", images.right_after[known, layer, place]),
                "network_accuracy": _known(float((images.right[known] == 1).double().mean())) if known.any() else None,
                **_share("same_decision", images.same[:, layer, place]),
                **dict(_ends("recovered", bootstrap_ratios(gap[:, None], whole[:, None], seed)[:, 0].tolist())),
                "images": len(images.images),
            }


def _share(name: str, hits: Bool[Tensor, " n"]) -> dict[str, float | None]:
    if not len(hits):
        return {}
    share = float(hits.double().mean())
    return dict(_ends(name, (share, *wilson(share, len(hits)))))


def _ends(name: str, ends: Sequence[float]) -> Iterator[tuple[str, float | None]]:
    return zip((name, f"{name}_low", f"{name}_high"), map(_known, ends), strict=True)


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _stacked(columns: Sequence[Float[np.ndarray, " n"]]) -> Float[Tensor, "n J"]:
    return torch.from_numpy(np.stack(columns, axis=1)).double()

"""How much every stage of a run has to do, counted before it is done."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from workflows.data.shards import plan_shards
from workflows.fits.chain_fit import chain_settings
from workflows.fits.discriminative_training import global_batch
from workflows.fits.layer_fit import em_settings
from workflows.fits.needs import mixtures_bytes
from workflows.plan.requests import ALL, MISCLASSIFIED, class_id
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.storage.fields import EFFECT, LIKELIHOOD
from workflows.words.few_maps import FIELDS

GRADIENT_PASS = 3.0
"""What a pass of the training by gradient costs beside one of online EM: words, their gradients, and Adam."""

COLUMN_COST = 16
"""What is done for a column and word beside its units: exponentials and sums, in units."""

OWN_AND_NEIGHBOURS = 2
"""Classes in the scope of a class, as long as no prediction is known: its own, and one neighbour."""


@dataclass(frozen=True)
class ScopeLoad:
    """Images of a scope, and its labels; and whether it holds all images of its run, and so has arrays of word maps."""

    train: int
    validation: int
    labels: int
    holds_all: bool = True

    @property
    def images(self) -> int:
        """Of both splits."""
        return self.train + self.validation


@dataclass(frozen=True)
class Amounts:
    """How much there is to do.

    Attributes:
        images, stored, shards: of the run; those whose columns are stored, as whole chunks; work items.
        padding: rows of whole chunks for an image of the run.
        trained: images that the train stage sees, epoch by epoch.
        scopes: dictionaries' images.
        fits: work of every fit, in operations that are alike, by layer (of a chain: by nothing).
        steps: of all fits, as many as there may be; each has a row in their history.
        mixtures: bytes of all dictionaries.
        graphs: that are mined.
        figures: that are drawn, by kind (what stands before the colon of their item).
    """

    images: int
    stored: int
    padding: float
    shards: int
    trained: int
    scopes: tuple[ScopeLoad, ...]
    fits: Mapping[str, tuple[float, ...]]
    steps: int
    mixtures: int
    graphs: int
    figures: Mapping[str, int]

    @property
    def assigned(self) -> int:
        """Images that get words, summed over scopes."""
        return sum(scope.images for scope in self.scopes)

    @property
    def map_files(self) -> float:
        """Of the word maps of a layer: a shard of three arrays, or one file of a shard that holds few."""
        each = (
            len(FIELDS) * self.shards if scope.holds_all else max(1.0, self.shards * scope.images / max(1, self.images))
            for scope in self.scopes
        )
        return float(sum(each))

    @property
    def counted(self) -> int:
        """Validation images, summed over scopes."""
        return sum(scope.validation for scope in self.scopes)

    @property
    def drawn(self) -> int:
        """Figures of all kinds."""
        return sum(self.figures.values())

    @property
    def fitted(self) -> int:
        """Fits of all layers."""
        return sum(map(len, self.fits.values()))


Measure = Callable[[Amounts], float]

TIMES: dict[str, Measure] = {
    "index": lambda amounts: 1.0,
    "train": lambda amounts: amounts.trained,
    "extract": lambda amounts: amounts.images,
    "errors": lambda amounts: amounts.counted,
    "words": lambda amounts: amounts.assigned,
    "paths": lambda amounts: amounts.images,
    "count": lambda amounts: amounts.counted,
    "effects": lambda amounts: amounts.counted,
    "mine": lambda amounts: amounts.graphs,
    "draw": lambda amounts: amounts.drawn,
}
"""What the time of a stage grows with; that of the fits grows with their work, layer by layer."""

SIZES: dict[str, Measure] = {
    "index": lambda amounts: amounts.images,
    "train": lambda amounts: 1.0,
    "extract": lambda amounts: amounts.stored,
    "fit": lambda amounts: amounts.mixtures,
    "errors": lambda amounts: amounts.counted,
    "words": lambda amounts: amounts.assigned * amounts.padding,
    "paths": lambda amounts: amounts.images,
    "count": lambda amounts: len(amounts.scopes),
    "effects": lambda amounts: amounts.counted,
    "mine": lambda amounts: amounts.graphs,
    "draw": lambda amounts: amounts.drawn,
}
"""What the bytes of a stage's artefacts grow with."""

FILES: dict[str, Measure] = {
    "index": lambda amounts: 1.0,
    "train": lambda amounts: 1.0,
    "extract": lambda amounts: amounts.shards,
    "fit": lambda amounts: amounts.fitted,
    "errors": lambda amounts: amounts.shards,
    "words": lambda amounts: amounts.map_files,
    "paths": lambda amounts: amounts.shards,
    "count": lambda amounts: len(amounts.scopes),
    "effects": lambda amounts: max(len(amounts.scopes), amounts.shards * amounts.counted / max(1, amounts.images)),
    "mine": lambda amounts: 1.0,
    "draw": lambda amounts: amounts.drawn,
}
"""What the number of its files grows with."""


def makespan(work: Iterable[float], slots: int) -> float:
    """The time of the busiest of so many slots when each takes the longest that waits."""
    busy = [0.0] * max(1, slots)
    for one in sorted(work, reverse=True):
        heapq.heapreplace(busy, busy[0] + one)
    return max(busy)


def amounts_of(
    settings: Settings, plan: Plan, scopes: Sequence[ScopeLoad], graphs: int, figures: Mapping[str, int]
) -> Amounts:
    """What a run has to do.

    Args:
        settings, plan: of the run.
        scopes: images of every scope.
        graphs: that are mined.
        figures: that are drawn, by kind.
    """
    training = settings.training if settings.network.weights == "train" else None
    return Amounts(
        images=plan.images,
        stored=_in_chunks(plan.stored_images, settings),
        padding=_in_chunks(plan.images, settings) / plan.images,
        shards=len(plan_shards(plan.images, settings.extract.images_per_shard)),
        trained=0 if training is None else training.epochs * plan.train_images,
        scopes=tuple(scopes),
        fits=fit_work(settings, plan, scopes),
        steps=0 if settings.hmm is not None else fit_steps(settings, plan, scopes),
        mixtures=mixtures_bytes(settings, plan, [scope.labels for scope in scopes]),
        graphs=graphs,
        figures=figures,
    )


def _in_chunks(images: int, settings: Settings) -> int:
    """Rows of an array for so many images: its last chunk is written whole."""
    rows = settings.extract.images_per_chunk
    return -(-images // rows) * rows


def scope_loads(
    settings: Settings, plan: Plan, known: Sequence[Scope], labels: Int[np.ndarray, " N"]
) -> list[ScopeLoad]:
    """Images of every scope, as far as that is known before any prediction.

    Args:
        settings, plan: of the run.
        known: scopes that need no predictions; a class that has a scope of its own is taken with one neighbour.
        labels: class of every image, the training images first.
    """
    train, validation = labels[: plan.train_images], labels[plan.train_images :]
    loads = [
        ScopeLoad(
            int(scope.contains(train).sum()), int(scope.contains(validation).sum()), scope.n_labels, scope.holds_all
        )
        for scope in known
    ]
    if "class" in settings.fit.scopes:
        classes = len(plan.class_names)
        counts = [np.bincount(part[part >= 0], minlength=classes) for part in (train, validation)]
        of_class = [
            [int(count[label]) * OWN_AND_NEIGHBOURS for count in counts] for label in asked_classes(settings, plan)
        ]
        loads += [ScopeLoad(fitted, counted, OWN_AND_NEIGHBOURS, holds_all=False) for fitted, counted in of_class]
    return loads


def asked_classes(settings: Settings, plan: Plan) -> list[int]:
    """Ids of the classes whose graphs are asked for; ``all``: every class."""
    if ALL in settings.mine.classes:
        return list(range(len(plan.class_names)))
    return sorted({class_id(request, plan.class_names) for request in settings.mine.classes})


def graphs_of(settings: Settings, plan: Plan, known: Sequence[Scope], wrong: float) -> dict[str, int]:
    """Graphs that are mined, by kind, where this share of the validation images is misclassified.

    Kinds are those of figures: ``class`` and ``image`` by likelihood, all others by effect.
    """
    classes = asked_classes(settings, plan)
    kinds = [len(set(classes) & set(scope.explains)) for scope in known]
    of_classes = sum(kinds) + OWN_AND_NEIGHBOURS * len(classes) * ("class" in settings.fit.scopes)
    misclassified = round(wrong * (plan.images - plan.train_images))
    images = 0
    for request in settings.mine.images:
        word, colon, number = request.partition(":")
        most = int(number) if colon else misclassified
        images += min(misclassified, most) if word == MISCLASSIFIED else 1
    explaining = max(1.0, of_classes / max(1, len(classes)))
    found = {"class": of_classes, "image": round(images * explaining)}
    by_effect = {EFFECT: sum(found.values())} if EFFECT in settings.mine.criteria else {}
    return (found if LIKELIHOOD in settings.mine.criteria else {}) | by_effect


def fit_work(settings: Settings, plan: Plan, scopes: Sequence[ScopeLoad]) -> dict[str, tuple[float, ...]]:
    """Operations of every fit by layer, as many passes as it takes at most: one a scope, or one a start of a chain."""
    fitted = 1 - settings.fit.held_out
    if settings.hmm is not None:
        images = max(1, int(plan.train_images * fitted))
        each = sum(layer.words * (layer.units + COLUMN_COST) for layer in plan.layers)
        each += sum(low.words * high.words for low, high in zip(plan.layers, plan.layers[1:], strict=False))
        passes = chain_settings(settings, plan, images).epochs
        return {"": (float(passes * images * each),) * settings.hmm.restarts}
    return {
        layer.name: tuple(layer_work(settings, layer, scope.train * fitted) for scope in scopes)
        for layer in plan.layers
    }


def fit_steps(settings: Settings, plan: Plan, scopes: Sequence[ScopeLoad]) -> int:
    """Minibatches of all fits, those of both losses."""
    steps, fitted = 0.0, 1 - settings.fit.held_out
    for layer in plan.layers:
        for images in (scope.train * fitted for scope in scopes):
            columns = max(1, int(images * layer.stored))
            em, by_gradient = most_passes(settings, layer, columns)
            steps += em * columns / em_settings(settings.fit).for_columns(columns, layer.words).minibatch
            if by_gradient:
                steps += by_gradient * images / global_batch(settings.discriminative.batch, max(1, int(images)))
    return round(steps)


def layer_work(settings: Settings, layer: LayerPlan, images: float, passes: tuple[float, float] | None = None) -> float:
    """Operations of one fit on so many images.

    passes: of online EM, and of the training by gradient; None: as many as there may be.
    """
    columns = max(1, int(images * layer.stored))
    em, by_gradient = most_passes(settings, layer, columns) if passes is None else passes
    return (em + GRADIENT_PASS * by_gradient) * columns * layer.words * (layer.units + COLUMN_COST)


def most_passes(settings: Settings, layer: LayerPlan, columns: int) -> tuple[float, float]:
    """Of online EM and of the training by gradient over so many columns, if neither stops early."""
    by_gradient = settings.discriminative.epochs if settings.fit.loss == "discriminative" else 0
    return float(em_settings(settings.fit).for_columns(columns, layer.words).epochs), float(by_gradient)

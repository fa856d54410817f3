"""Whether a scope has the training images that its dictionaries need: what is refused, and what is warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from workflows.errors import DataError, SettingsError
from workflows.plan.requests import ALL, class_id
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.storage.names import JOINT

MIN_IMAGES_A_WORD = 10
"""Of a chain of dense layers, whose words have one column an image; fewer are warned about."""


_OFFER = (
    "set fit.scopes = ['list'] and name the class in [[fit.lists]] with rest = true, which makes one label of all "
    "other classes"
)
_GENERATIVE = "set fit.loss = 'generative'"


@dataclass(frozen=True)
class ScopeSize:
    """Training images of a scope.

    Attributes:
        scope: the scope.
        images: by label, `rest` last, then those without a label.
        fitted: of all together, those that are not held out.
    """

    scope: Scope
    images: tuple[int, ...]
    fitted: int

    @property
    def all(self) -> int:
        """Of all labels."""
        return sum(self.images)

    @property
    def is_alone(self) -> bool:
        """Whether there is nothing to decide between."""
        return self.scope.n_labels < 2

    def has_few(self, min_images: int) -> bool:
        """Whether some label has fewer images."""
        return min(self.images) < min_images

    def lacks_columns(self, layer: LayerPlan) -> bool:
        """Whether no sample of columns can start the words of a layer."""
        return layer.words > self.fitted * layer.stored

    @property
    def where(self) -> str:
        """`` in scope class-3``; nothing for `joint`."""
        return "" if self.scope.name == JOINT else f" in scope {self.scope.name}"


def scope_sizes(
    settings: Settings, plan: Plan, scopes: Sequence[Scope], labels: Int[np.ndarray, " N"]
) -> list[ScopeSize]:
    """Sizes of scopes; ``labels``: class ids of the training images that can be read, as far as that is known."""
    counts, unlabelled = np.bincount(labels[labels >= 0], minlength=len(plan.class_names)), int((labels < 0).sum())
    sizes = []
    for scope in scopes:
        named = counts[list(scope.labels)]
        images = (*named.tolist(), *([int(counts.sum() - named.sum())] if scope.rest else []))
        if unlabelled and scope.holds_all:
            images = (*images, unlabelled)
        sizes.append(ScopeSize(scope, images, int(sum(images) * (1 - settings.fit.held_out))))
    return sizes


def refuse_lone_classes(settings: Settings, plan: Plan, labels: Int[np.ndarray, " N"]) -> None:
    """Before any prediction is known: refuse classes that surely cannot have a scope of their own.

    ``labels``: class ids of all images, the training images first. Classes that ``all`` stands for are left to
    ``refuse_small_scopes``: which of them are asked for is known with the predictions.

    Raises:
        DataError: a class named in ``mine.classes`` has no validation image, whose predictions are its neighbours; or,
            for the discriminative loss, fewer than ``fit.min_images`` training images.
    """
    if "class" not in settings.fit.scopes:
        return
    train, validation = (
        np.bincount(part, minlength=len(plan.class_names)) for part in np.split(labels, [plan.train_images])
    )
    for request in settings.mine.classes:
        if request == ALL:
            continue
        label = class_id(request, plan.class_names)
        name = plan.class_names[label]
        if not validation[label]:
            raise DataError(
                f"mine.classes: class {name!r} has no validation image, whose predictions would be its neighbours, so "
                f"there can be no scope class-{label}; index validation images of it, or {_OFFER}"
            )
        if settings.fit.loss == "discriminative" and train[label] < settings.fit.min_images:
            raise DataError(_too_few(settings, f"class-{label}", int(train[label]), name, ""))


def lack_of(settings: Settings, plan: Plan, size: ScopeSize) -> str | None:
    """What a scope of a class lacks for its fit, in a few words; None: nothing. ``refuse_small_scopes`` says more."""
    fit = settings.fit
    if fit.loss == "discriminative" and size.is_alone:
        return f"no other class has {fit.min_confusions} validation images of it (fit.min_confusions)"
    if fit.loss == "discriminative" and size.has_few(fit.min_images):
        return f"it or a neighbour has fewer than {fit.min_images} training images (fit.min_images)"
    if any(size.lacks_columns(layer) for layer in plan.layers):
        return "it and its neighbours have fewer columns than words (fit.words)"
    return None


def refuse_small_scopes(settings: Settings, plan: Plan, sizes: Sequence[ScopeSize]) -> None:
    """Refuse scopes that cannot be fitted.

    Raises:
        DataError: a list names a class without a training image; for the discriminative loss, a scope has fewer than
            2 labels, or a label fewer than ``fit.min_images`` training images.
        SettingsError: a layer has more words than columns, or than images in a chain, to fit them on.
    """
    for size in sizes:
        _refuse_missing(size, plan)
    if settings.fit.loss == "discriminative":
        _refuse_undecidable(settings, plan, sizes)
    refuse_more_words_than_columns(settings, plan, sizes)


def refuse_more_words_than_columns(settings: Settings, plan: Plan, sizes: Sequence[ScopeSize]) -> None:
    """Refuse dictionaries that no sample can start.

    Raises:
        SettingsError: names the layer, its words and its columns.
    """
    for size in sizes:
        for layer in plan.layers:
            if layer.words > size.fitted * layer.stored:
                raise SettingsError(
                    f"fit.words: layer {layer.given!r} has {layer.words} words but only "
                    f"{_columns(settings, layer, size)}{size.where}: lower fit.words or index more images"
                )


def thin_dictionaries(settings: Settings, plan: Plan, sizes: Sequence[ScopeSize]) -> list[str]:
    """Warnings for layers with few columns or images a word: below 100 and 2, or below 10 images in a chain.

    One a layer: the smallest scope is named, and how many others are thin.
    """
    warnings = []
    for layer in plan.layers:
        thin = sorted((size for size in sizes if _is_thin(settings, layer, size)), key=lambda size: size.fitted)
        if thin:
            others = f" and in {len(thin) - 1} other scopes" if len(thin) > 1 else ""
            warnings.append(_thin_words(settings, layer, thin[0], others))
    return warnings


def _refuse_missing(size: ScopeSize, plan: Plan) -> None:
    if not size.scope.name.startswith("list-"):
        return
    missing = [
        name for name, images in zip(size.scope.label_names(plan.class_names), size.images, strict=True) if not images
    ]
    if missing:
        raise DataError(
            f"scope {size.scope.name}: no training image has the label {' or '.join(map(repr, missing[:5]))}: "
            "index images of it, or leave it out of fit.lists"
        )


def _refuse_undecidable(settings: Settings, plan: Plan, sizes: Sequence[ScopeSize]) -> None:
    """IG Eq. 8 is a decision between labels."""
    fit = settings.fit
    alone = [size for size in sizes if size.is_alone]
    if alone:
        scope = alone[0].scope
        (name,) = scope.label_names(plan.class_names)
        why = (
            f": no other class has {fit.min_confusions} validation images of it (fit.min_confusions)"
            if scope.name.startswith("class-")
            else ""
        )
        raise DataError(
            f"fit.loss = 'discriminative' needs at least 2 labels, scope {scope.name} has only {name!r}{why}"
            f"{_others(alone)}; {_OFFER}, or {_GENERATIVE}"
        )
    few = [size for size in sizes if size.has_few(fit.min_images)]
    if few:
        size = few[0]
        names = size.scope.label_names(plan.class_names)
        label = min(range(len(names)), key=lambda place: size.images[place])
        lacking = sum(images < fit.min_images for images in size.images)
        more = f" ({lacking} of its {len(names)} labels have too few)" if lacking > 1 else ""
        raise DataError(_too_few(settings, size.scope.name, size.images[label], names[label], more + _others(few)))


def _too_few(settings: Settings, scope: str, images: int, name: str, more: str) -> str:
    return (
        f"fit.loss = 'discriminative' needs {settings.fit.min_images} training images of every label (fit.min_images), "
        f"scope {scope} has {images} of {name!r}{more}; index more images, lower fit.min_images, {_OFFER}, or "
        f"{_GENERATIVE}"
    )


def _others(found: Sequence[ScopeSize]) -> str:
    return f" (and {len(found) - 1} other scopes lack some)" if len(found) > 1 else ""


def _columns(settings: Settings, layer: LayerPlan, size: ScopeSize) -> str:
    """What the words of a layer are fitted on, in words."""
    if settings.hmm is not None:
        return f"{size.fitted} images to fit them on ({size.all} training images, the others are held out)"
    return f"{size.fitted * layer.stored} training columns ({size.fitted} images x {layer.stored})"


def _is_thin(settings: Settings, layer: LayerPlan, size: ScopeSize) -> bool:
    if settings.hmm is not None:
        return size.fitted < MIN_IMAGES_A_WORD * layer.words
    return size.fitted * layer.stored < 100 * layer.words or size.fitted < 2 * layer.words


def _thin_words(settings: Settings, layer: LayerPlan, size: ScopeSize, others: str) -> str:
    where = f"{size.where}{others}"
    if settings.hmm is not None:
        return (
            f"layer {layer.given!r}: {layer.words} words on {size.fitted:,} images{where}; below {MIN_IMAGES_A_WORD} "
            "images a word, some words will describe single images"
        )
    return (
        f"layer {layer.given!r}: {layer.words} words on {size.fitted * layer.stored:,} columns of {size.fitted:,} "
        f"images{where}; below 100 columns or 2 images a word, some words will describe single images"
    )

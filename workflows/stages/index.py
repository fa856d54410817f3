"""Settings -> images.parquet and plan.json: refuses what cannot work before any long work starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import nn

from workflows.context import StageContext
from workflows.data.datasets import index_images
from workflows.data.decoding import BrokenPicture
from workflows.data.image_index import ImageIndex
from workflows.data.indexed_pictures import find_states
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.data.scenes import load_scenes
from workflows.errors import DataError, StorageFault
from workflows.fits.needs import disk_needs, least_assigned, least_labels, memory_needs, planned_actors
from workflows.networks.dense_chain import chain_layers
from workflows.networks.equivalence import check_network
from workflows.networks.loading import is_downloaded, load_network
from workflows.networks.receptive_fields import WindowTracer
from workflows.networks.starting import StartedNetwork, cut_head, started_network
from workflows.networks.taps import resolve_layers
from workflows.networks.vae_gan import check_encoder
from workflows.plan.graph_requests import named_figures, refuse_unexplained_names
from workflows.plan.requests import ALL, check_image_request, class_id
from workflows.plan.run_inputs import network_sources, weights_identity, with_fetched_weights
from workflows.plan.run_plan import LayerPlan, Plan, plan_path
from workflows.plan.scope_sizes import (
    refuse_lone_classes,
    refuse_more_words_than_columns,
    refuse_small_scopes,
    scope_sizes,
    thin_dictionaries,
)
from workflows.plan.scopes import Scope, joint_scope, known_scopes
from workflows.runtime.budget import Budget, check_disk, check_memory
from workflows.settings import Settings
from workflows.storage.fields import EFFECT
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table

Labels = Int[np.ndarray, " N"]

WHOLE_MAP_POSITIONS = 16 * 16
"""``columns_per_image = auto`` stores maps up to this size whole, and a sample of so many columns of larger ones."""


@dataclass(frozen=True)
class Draft:
    """What a run will do, before anything is written.

    Attributes:
        index: its images. plan: its layers and windows. known: scopes that need no predictions. warnings: in words.
        labels: class of every image of the plan, the training images first.
        network: before its images have taught it anything.
    """

    index: ImageIndex
    plan: Plan
    labels: Labels
    known: tuple[Scope, ...]
    warnings: tuple[str, ...]
    network: nn.Module


def run(context: StageContext) -> None:
    """The stage: index the images, plan the layers, refuse or warn."""
    context.begin(1)
    folder = context.folder
    settings = with_fetched_weights(context.settings, folder)
    drafted = draft(settings, folder)
    for words in drafted.warnings:
        context.warn(words)
    index, plan = drafted.index, drafted.plan
    refuse_too_large(settings, plan, drafted.known, index.label, folder)
    images = index.to_table().append_column("status", pa.array(["indexed"] * len(index)))
    for name, values in find_states(settings.data, index.path.tolist()).items():
        images = images.append_column(name, values)
    write_table(folder.images_table, images, "images", network=settings.name)
    if settings.data.source == "scenes":
        load_scenes().write_boxes(folder.root / "objects.csv")
    _keep_or_write(plan, folder)
    # The fit stage looks at scopes again, and does not repeat what was told here.
    context.finished("images", {"images": len(index), "warnings": list(drafted.warnings)})


def draft(
    settings: Settings, folder: RunFolder, assume: Callable[[Plan, Labels], tuple[Plan, Labels]] | None = None
) -> Draft:
    """Look at images and network, and refuse what cannot work; nothing is written.

    Args:
        settings: of the run.
        folder: of the run, which need not exist yet.
        assume: puts other images into the plan and their labels; None: those that are there.

    Raises:
        RunError: images, network, layers, scopes or requests that cannot be.
    """
    index = index_images(settings.data, settings.seed, settings.runtime.patience)
    planned = planned_network(settings)
    plan = make_plan(settings, index, folder, planned.network)
    index = index.for_outputs(len(plan.class_names))
    plan, every = (plan, index.label) if assume is None else assume(plan, index.label)
    if EFFECT in settings.mine.criteria:
        from workflows.words.effects_worker import refuse_without_effects  # late: few runs ask for it

        refuse_without_effects(planned.network, settings, plan)
    known = known_scopes(settings, plan)
    if plan.outputs:
        check_requests(settings, plan, known)
    refuse_lone_classes(settings, plan, every)
    labels = every[: plan.train_images]
    # Scopes of classes are known after the extract stage; until then, none is larger than all classes together.
    refuse_more_words_than_columns(settings, plan, scope_sizes(settings, plan, [joint_scope(plan)], labels))
    sizes = scope_sizes(settings, plan, known, labels)
    refuse_small_scopes(settings, plan, sizes)
    told = [planned.told] if planned.told else []
    warnings = (*index.notes, *told, *_untold(settings), *thin_dictionaries(settings, plan, sizes))
    return Draft(index, plan, every, tuple(known), warnings, planned.network)


def refuse_too_large(
    settings: Settings,
    plan: Plan,
    known: Sequence[Scope],
    labels: Labels,
    folder: RunFolder,
    actors: int | None = None,
    free_disk: int | None = None,
) -> tuple[Budget, Budget]:
    """Disk and memory of a machine that a plan takes at most, whatever the codec reaches.

    Args:
        settings, plan: of the run.
        known: scopes that need no predictions.
        labels: class of every image.
        folder: of the run, which need not exist yet.
        actors: of a machine; None: as this one has.
        free_disk: bytes where the run folder will be; None: as there are now.

    Raises:
        BudgetError: either is too little; names both numbers, and the settings to change.
    """
    runtime = settings.runtime
    assigned, of_scopes = least_assigned(settings, plan, known, labels), least_labels(settings, plan, known)
    needed = disk_needs(settings, plan, assigned, of_scopes)
    fewer = "lower data.max_train or extract.columns_per_image, ask for fewer scopes (mine.classes, fit.lists)"
    disk = check_disk(folder.root, needed, margin=runtime.disk_margin, change=fewer, free=free_disk)
    held = memory_needs(settings, plan, actors or planned_actors(runtime))
    return disk, check_memory(held, limit_gb=runtime.memory_gb)


def _keep_or_write(plan: Plan, folder: RunFolder) -> None:
    """A plan that is there has been decided on since; it stays where the image table alone was lost.

    Raises:
        DataError: there are other images now.
    """
    if not plan_path(folder).exists():
        plan.write(folder)
        return
    earlier = Plan.read(folder)
    if (earlier.images, earlier.train_images) != (plan.images, plan.train_images):
        raise DataError(
            f"{str(folder.images_table)!r} was lost, and there are other images now: {plan.train_images} of "
            f"{plan.images} to train with instead of {earlier.train_images} of {earlier.images}; restore the table or "
            "the images, or give another --out"
        )


def _untold(settings: Settings) -> list[str]:
    """What images without labels cannot tell."""
    if settings.data.labels != "none" or not settings.network.has_outputs:
        return []
    return [
        "data.labels = 'none': errors, neighbours and accuracy are left out, and what is told by class, such as which "
        "class a word is mostly seen in, is by predicted class"
    ]


def planned_network(settings: Settings) -> StartedNetwork:
    """The network of a run before its images have taught it anything.

    Raises:
        NetworkError, SettingsError: the network, its weights or what training begins from cannot be used.
    """
    if settings.network.weights != "train":
        return StartedNetwork(load_network(settings.network))
    assert settings.training is not None, "settings are refused without"
    started = started_network(settings.network, settings.training, settings.seed)
    if settings.training.trains == "head":
        cut_head(started.network, started.head)
    return started


def make_plan(settings: Settings, index: ImageIndex, folder: RunFolder, network: nn.Module) -> Plan:
    """Layers, shapes and windows, traced from the network itself on one real picture.

    Raises:
        NetworkError: the network or a layer name cannot be used.
        DataError: no picture can be read, or the network has another number of outputs than there are classes.
    """
    images = _example_images(settings, index)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    layers = _modelled_layers(settings, network)
    names = [name for name, _, _ in layers]
    has_outputs = settings.network.has_outputs
    weights = _weights(settings.network.weights, folder)
    checked = check_network(network, names, images, has_outputs)
    if settings.learns_pictures:
        check_encoder(checked.logits.shape[1], shape)
    shapes = checked.shapes
    index = index.for_outputs(checked.logits.shape[1] if has_outputs else index.labels)
    plans, window_of = [], WindowTracer(network, shape)
    every = zip(layers, settings.words_of_layers(len(layers)), strict=True)
    for level, ((name, given, rectified), words) in enumerate(every):
        units, height, width = shapes[name]
        window = window_of(names[level - 1], name) if level else None
        pixels_fed = window_of(None, name)
        stored = _stored_columns(settings, height * width)
        plans.append(LayerPlan(name, given, units, height, width, words, stored, window, pixels_fed, rectified))
    return Plan(
        tuple(plans),
        tuple(index.class_names),
        images=len(index),
        train_images=len(index.rows("train")),
        input_height=shape[1],
        input_width=shape[2],
        weights=weights,
        rewriting=checked.rewriting,
        probabilities=checked.probabilities,
        outputs=has_outputs,
        weights_file=None if settings.network.weights == "train" else weights_identity(weights),
        sources=tuple(network_sources(settings.network.name).items()),
    )


def check_requests(settings: Settings, plan: Plan, known: Sequence[Scope]) -> None:
    """Refuse graphs, paths and figures of classes or images that do not exist; ``known``: see ``known_scopes``.

    Raises:
        DataError: names the request and what there is.
    """
    classes = [class_id(request, plan.class_names) for request in settings.mine.classes if request != ALL]
    refuse_unexplained_names(settings, plan, known, classes)
    for request in settings.mine.images:
        check_image_request(request, plan.images)
    for request in settings.draw.paths if settings.hmm else ():
        check_image_request(request, plan.images, asked_by="draw.paths")
    named_figures(settings.draw.figures, plan)


def _modelled_layers(settings: Settings, network: nn.Module) -> list[tuple[str, str, bool]]:
    """Canonical name, given name, and whether a hidden Markov model sees censored zeros; lowest first."""
    if settings.hmm is not None:
        chain = chain_layers(network, settings.network.layers, settings.hmm.output)
        return [(layer.name, layer.given, layer.rectified) for layer in chain]
    layers = resolve_layers(network, settings.network.layers, settings.network.tap)
    return [(layer.name, layer.given, False) for layer in layers]


def _weights(given: str, folder: RunFolder) -> str:
    """Absolute, because the actors of a cluster run in other folders."""
    if given == "train":
        return str(folder.weights)
    return given if is_downloaded(given) else os.path.realpath(Path(given).expanduser())


def _stored_columns(settings: Settings, positions: int) -> int:
    wanted = settings.extract.columns_per_image
    if wanted == "all":
        return positions
    if wanted == "auto":
        return min(positions, WHOLE_MAP_POSITIONS)
    return min(int(wanted), positions)


def _example_images(settings: Settings, index: ImageIndex) -> Float[torch.Tensor, "2 C H W"]:
    """The first readable picture as the network sees it, and its negative upside down."""
    preprocessor = Preprocessor(settings.preprocessing)
    pixels = _first_picture(settings, index, preprocessor)
    return preprocessor.normalise(preprocessor.stack([pixels, 255 - pixels[::-1, ::-1]]))


def _first_picture(settings: Settings, index: ImageIndex, preprocessor: Preprocessor) -> np.ndarray:
    """The crop (H, W, C) uint8 of the first readable picture."""
    reasons = []
    with PictureReader(settings.data, threads=1, geometry=preprocessor.crop) as reader:
        for path in index.path[:20]:
            try:
                (picture,) = reader.read([str(path)])
            except StorageFault as error:
                reasons.append(str(error))
                continue
            if not isinstance(picture, BrokenPicture):
                return picture.pixels
            reasons.append(f"{path}: {picture.reason}")
    raise DataError("none of the first 20 pictures can be read: " + "; ".join(reasons[:3]))

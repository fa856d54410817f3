"""What the study is asked, and what that is in a run: layers, objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Int

from gmm_ops.explanatory.responses import check_coarsening
from workflows.asking.pattern_files import PatternedLayer, Top, grid_of
from workflows.asking.study import StudyContext
from workflows.data.boxes import BoxRow, match_images, read_boxes
from workflows.data.objects import BoxedObjects, boxed_objects
from workflows.data.reading import photo_sizes
from workflows.errors import DataError, SettingsError
from workflows.networks.loading import load_network
from workflows.networks.receptive_fields import WindowTracer
from workflows.networks.unit_layers import UnitLayer, UnitNetwork
from workflows.run import Run
from workflows.storage.images_table import ImageColumns
from workflows.storage.tables import read_table

LEAST_OBJECTS = 10
"""Of a class: fewer say nothing of how patterns move."""

Mirror = Literal["latent", "off"]
Learn = Literal["all", "even", "odd"]


@dataclass(frozen=True)
class PatternsRequest:
    """What the command is told.

    Attributes:
        boxes: a CSV file, see ``read_boxes``.
        classes: names or ids, or ``all`` that have objects.
        names: of parts, by what they are called in the file.
        tops: kinds of top layers.
        mirror: ``latent``: each object or its mirror image, so that all face one way.
        layers: ``name`` or ``name:N``, lowest first; none: chosen by the network.
        parents, iterations: M and T.
        learn: from which photos of a class, by their place among them.
        synthesis: train a decoder too, and show objects from their patterns alone.
        scope: whose words are looked up where patterns sit; None: the first that explains the class.
        synthesis_layer: of which layer; none: the lowest.
    """

    boxes: Path
    classes: tuple[str, ...]
    names: tuple[tuple[str, str], ...] = ()
    tops: tuple[Top, ...] = ("anchored",)
    mirror: Mirror = "latent"
    layers: tuple[str, ...] = ()
    parents: int = 15
    iterations: int = 20
    learn: Learn = "all"
    synthesis: bool = False
    scope: str | None = None
    synthesis_layer: str = ""

    def __post_init__(self) -> None:
        """Raises SettingsError: values that cannot be."""
        if not self.classes:
            raise SettingsError("--class: must name a class whose objects are looked at, got none; give one, or all")
        for name, kind, values in (
            ("top", Top, self.tops),
            ("mirror", Mirror, (self.mirror,)),
            ("learn", Learn, (self.learn,)),
        ):
            for value in values:
                if value not in get_args(kind):
                    raise SettingsError(f"--{name}: must be {' or '.join(get_args(kind))}, got {value!r}")
        if not self.tops:
            raise SettingsError("--top: must be anchored or free, got none; anchored is the paper's")
        if self.synthesis_layer and not self.synthesis:
            raise SettingsError(
                f"--synthesis-layer: must come with --synthesis, got {self.synthesis_layer!r} alone; give both"
            )
        for name in ("parents", "iterations"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name}: must be at least 1, got {getattr(self, name)}; take the default")


def asked_layers(run: Run, network: UnitNetwork, request: PatternsRequest) -> tuple[PatternedLayer, ...]:
    """The layers, lowest first, and where their positions lie.

    Raises:
        NetworkError: a layer does not exist, or is no convolution.
        SettingsError: a number that is none. RefusedInput: layers that get finer upwards.
    """
    if request.layers:
        chosen = [_told(network, text) for text in request.layers]
    else:
        chosen = default_layers(network.convolutions(), (run.plan.input_height, run.plan.input_width))
    plan, settings = run.plan, run.settings
    shape = (settings.preprocessing.channels, plan.input_height, plan.input_width)
    plain = load_network(settings.network.model_copy(update={"weights": plan.weights}))
    windows = WindowTracer(plain, shape)
    found = []
    for layer, patterns in chosen:
        window = windows(None, layer.name)
        size = plan.input_height, plan.input_width
        grid = grid_of((window.rows, window.columns), (layer.height, layer.width), size)
        found.append(PatternedLayer(layer.name, layer.units, patterns, grid))
    check_coarsening([layer.grid for layer in found])
    return tuple(found)


def _told(network: UnitNetwork, text: str) -> tuple[UnitLayer, int]:
    name, _, number = text.partition(":")
    layer = network.convolution(name.strip())
    if not number.isdecimal() or not 1 <= int(number) <= layer.positions:
        raise SettingsError(
            f"--layers: must be NAME:N with N patterns a unit, 1 to {layer.positions} for {layer.height} x "
            f"{layer.width} positions, got {text!r}; write {name.strip()}:{min(layer.positions, 20)}"
        )
    return layer, int(number)


_RESNET = ((8, 128, 40), (16, 256, 20), (32, 512, 10))
"""Stride, units and N of each layer (METHOD: the last convolutions of that shape)."""

_VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG = ((9, 40), (10, 40), (12, 20), (13, 20))
"""Number of the convolution, from 1, and N."""

_NUMBERS = (40, 20, 10)


def default_layers(convolutions: Sequence[UnitLayer], size: tuple[int, int]) -> list[tuple[UnitLayer, int]]:
    """Those of the paper for residual networks and VGG-16; of other networks three, evenly, that do not get finer."""
    shaped = [_last_shaped(convolutions, size, *shape) for shape in _RESNET]
    if all(found is not None for found in shaped):
        return [found for found in shaped if found is not None]
    if tuple(layer.units for layer in convolutions) == _VGG_WIDTHS:
        return [(convolutions[number - 1], patterns) for number, patterns in _VGG]
    inner = [layer for layer in convolutions if layer.positions > 1 and not layer.yields_logits]
    places = sorted({round(len(inner) * share) - 1 for share in (0.4, 0.7, 1.0)} & set(range(len(inner))))
    numbers = _NUMBERS[-len(places) :] if places else ()
    chosen: list[tuple[UnitLayer, int]] = []
    for place, number in zip(places, numbers, strict=True):
        layer = inner[place]
        if not chosen or layer.height <= chosen[-1][0].height:
            chosen.append((layer, min(number, max(1, layer.positions // 4))))
    if not chosen:
        raise SettingsError("--layers: must have a convolution with several positions, got a network without one")
    return chosen


def _last_shaped(
    convolutions: Sequence[UnitLayer], size: tuple[int, int], stride: int, units: int, patterns: int
) -> tuple[UnitLayer, int] | None:
    height, width = (-(-side // stride) for side in size)
    found = [one for one in convolutions if (one.units, one.height, one.width) == (units, height, width)]
    return (found[-1], patterns) if found else None


def matched_boxes(run: Run, request: PatternsRequest) -> dict[int, list[BoxRow]]:
    """Lines of the file by photo of the run. Raises DataError, see ``read_boxes`` and ``match_images``."""
    rows = read_boxes(request.boxes, dict(request.names))
    table = read_table(run.folder.images_table, ["image", "path", "status"])
    table = table.filter(pc.not_equal(table["status"], "broken"))
    images = table["image"].to_pylist()
    return {images[place]: lines for place, lines in match_images(rows, table["path"].to_pylist()).items()}


class TooFewObjects(DataError):
    """A class with fewer objects than say how their parts move."""


def class_objects(
    study: StudyContext, rows: dict[int, list[BoxRow]], label: int, layers: Sequence[PatternedLayer]
) -> BoxedObjects:
    """The objects on photos of a class that are large enough.

    Raises:
        DataError: the file has no photo of the class, or a box reaches out of its photo.
        TooFewObjects: fewer than ten are left.
    """
    name = study.plan.class_names[label]
    images = ImageColumns.read(study.folder, 0, study.plan.images)
    own = np.array([image for image in rows if images.classes[image] == label], np.int64)
    if not len(own):
        known = sorted({study.plan.class_names[images.classes[image]] for image in rows})[:5]
        raise DataError(
            f"--class: must be a class with photos in the file of --objects, got {name!r}, of which it has none; its "
            f"photos are of {', '.join(known)}"
        )
    photos = study.choose_images(among=own)
    found = boxed_objects({image: rows[image] for image in photos.tolist()}, photo_sides(study, photos))
    large = found.only(_covers_a_cell(study, found, layers))
    small = len(found) - len(large)
    if small:
        study.say(f"{name}: {small:,} of {len(found):,} objects are smaller than a cell of {layers[-1].name}: left out")
    if len(large) < LEAST_OBJECTS:
        raise TooFewObjects(
            f"--class: must have at least {LEAST_OBJECTS} objects to see how their parts move, got {len(large)} of "
            f"{name!r}" + (f", for {small} are smaller than a cell of {layers[-1].name}" if small else "")
            + "; add boxes, or take fewer away with --images"
        )  # fmt: skip
    return large


def photo_sides(study: StudyContext, photos: Int[np.ndarray, " m"]) -> dict[int, tuple[int, int]]:
    """Height and width of some photos, by image."""
    paths = read_table(study.folder.images_table, ["path"])["path"].take(photos).to_pylist()
    sizes = photo_sizes(study.settings.data, paths, study.settings.runtime.patience)
    return dict(zip(photos.tolist(), sizes, strict=True))


def _covers_a_cell(study: StudyContext, found: BoxedObjects, layers: Sequence[PatternedLayer]) -> np.ndarray:
    """Whether the sides of an object have as many pixels as a stride of the top layer has in the input."""
    size = np.array([study.plan.input_height, study.plan.input_width])
    cell = np.array(layers[-1].grid.stride) * size
    return np.asarray((found.sizes >= cell - 1e-9).all(axis=1))


def learned_objects(objects: BoxedObjects, learn: Learn) -> np.ndarray:
    """(n,) from which objects patterns are learned: those of every photo, or of every second one of the class."""
    if learn == "all":
        return np.ones(len(objects), bool)
    place = np.unique(objects.images, return_inverse=True)[1]
    return np.asarray(place % 2 == (0 if learn == "even" else 1))

"""Word maps of objects: their columns, as the run's dictionary assigns them, each object turned as patterns has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.mixture import Mixture
from workflows.asking.image_parts import ImageShard, Parts
from workflows.asking.pattern_files import TurnedObjects, grid_of
from workflows.asking.registry import STUDIES
from workflows.data.network_inputs import ObjectInputs
from workflows.errors import DataError, RunFolderError, SettingsError
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scopes import read_scopes
from workflows.run import Run
from workflows.runtime.devices import STORAGE_DTYPES, choose_device
from workflows.settings import Settings
from workflows.storage.mixtures import load_mixture
from workflows.storage.names import slug
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder

_FINE = 10
"""Positions along a side that a layer has at least whose words vote where no layer is asked for."""


@dataclass(frozen=True)
class AskedDictionary:
    """The words of a layer that vote.

    Attributes:
        scope: whose classes it explains; ``objects``: it is learned from the objects themselves.
        layer: which.
        words: K.
        grid: where its columns lie on an object.
        path: of the mixture.
    """

    scope: str
    layer: LayerPlan
    words: int
    grid: PositionGrid
    path: Path

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.scope}, {self.layer.given}, K {self.words}"

    @property
    def item(self) -> str:
        """Key in the ledger, of one that the study learns."""
        return f"dictionary {self.name}"


OBJECTS = "objects"
"""In place of a scope."""


def object_dictionaries(
    run: Run, label: int, layers: Sequence[str], words: Sequence[int]
) -> tuple[AskedDictionary, ...]:
    """Dictionaries that the study learns from the objects of a class, lowest layer first.

    Args:
        run: with its index stage done.
        label: the class.
        layers: as ``asked_dictionaries``.
        words: K; of each layer one for each.

    Raises:
        SettingsError: as ``asked_dictionaries``.
    """
    folder = StudyFolder(run.folder, STUDIES["locate"]).root / "dictionaries" / f"class-{label}"
    return tuple(
        AskedDictionary(OBJECTS, layer, k, _grid(layer, run.plan), folder / f"{slug(layer.name)}-{k}.npz")
        for layer in _layers(run.plan, layers)
        for k in words
    )


def asked_dictionaries(run: Run, label: int, layers: Sequence[str], scope: str | None) -> tuple[AskedDictionary, ...]:
    """The dictionaries of the run that vote, lowest layer first.

    Args:
        run: with its fit stage done.
        label: class whose objects are looked at.
        layers: names, as in the settings or canonical; none: the top layer of at least 10 x 10 positions.
        scope: name; None: the first that explains the class.

    Raises:
        SettingsError: the run has no such layer, a layer without positions, or a hidden Markov model.
        DataError: it has no such scope, or none that explains the class. RunFolderError: a dictionary is missing.
    """
    plan = run.plan
    if run.settings.hmm is not None:
        raise SettingsError("--voters words: must have a dictionary a layer, got a run with a hidden Markov model")
    scopes = {one.name: one for one in read_scopes(run.folder)}
    explaining = [name for name, one in scopes.items() if label in one.explains]
    if scope is not None and scope not in scopes:
        raise DataError(f"--scope: must be one of {', '.join(scopes)}, got {scope!r}; take one of them")
    if scope is None and not explaining:
        raise DataError(
            f"--scope: must be given where no dictionary explains {plan.class_names[label]!r}; there is "
            f"{', '.join(scopes)}"
        )
    chosen = scope if scope is not None else explaining[0]
    found = []
    for layer in _layers(plan, layers):
        path = run.folder.mixture(chosen, layer.name)
        if not path.exists():
            raise RunFolderError(
                f"--voters words: must have the dictionary {str(path)!r}, which is missing; give the command of the "
                "run again"
            )
        found.append(AskedDictionary(chosen, layer, layer.words, _grid(layer, plan), path))
    return tuple(found)


def _grid(layer: LayerPlan, plan: Plan) -> PositionGrid:
    size = plan.input_height, plan.input_width
    return grid_of((layer.pixels.rows, layer.pixels.columns), (layer.height, layer.width), size)


def _layers(plan: Plan, names: Sequence[str]) -> list[LayerPlan]:
    spatial = [layer for layer in plan.layers if layer.positions > 1]
    told = ", ".join(layer.given for layer in spatial) or "none"
    if not spatial:
        raise SettingsError("--voters words: must have a layer with several positions, got a run of dense layers")
    if not names:
        fine = [layer for layer in spatial if min(layer.height, layer.width) >= _FINE]
        return [fine[-1] if fine else spatial[0]]
    for name in names:
        if name not in {known for layer in spatial for known in (layer.given, layer.name)}:
            raise SettingsError(f"--layer: must be a layer whose words the run has, got {name!r}; there is {told}")
    return [layer for layer in spatial if {layer.given, layer.name} & set(names)]


class TurnedColumns:
    """Runs in an actor: columns of objects, each turned as patterns has it, cast as the words stage casts them."""

    def __init__(
        self, settings: Settings, plan: Plan, folder: RunFolder, turned: TurnedObjects, layers: Sequence[LayerPlan]
    ) -> None:
        self._turned, self._layers = turned, {layer.name: layer for layer in layers}
        self.device = choose_device(settings.runtime.device)
        self._precision = torch.bfloat16 if settings.extract.precision == "bfloat16" else torch.float32
        self._dtype = STORAGE_DTYPES[settings.extract.dtype]
        network = load_network(settings.network.model_copy(update={"weights": plan.weights}))
        self._network = TappedNetwork(network, list(self._layers), rewriting=plan.rewriting)
        self._network.to(self.device, self._precision)
        self._inputs = ObjectInputs(settings, folder, (plan.input_height, plan.input_width), self.device)
        self._batch = plan.batch(settings.extract)

    @torch.inference_mode()
    def __call__(
        self, rows: Int[np.ndarray, " m"]
    ) -> Iterator[tuple[Int[np.ndarray, " b"], dict[str, Float[Tensor, "b P D"]]]]:
        """Some objects after the other, and by layer the columns of all their positions."""
        done = 0
        for plain, mirrored in self._inputs(self._turned.objects.only(rows), self._batch, mirrored=True):
            some = rows[done : done + len(plain)]
            done += len(plain)
            turn = torch.from_numpy(self._turned.signs[some] < 0).to(self.device)[:, None, None, None]
            maps = self._network(torch.where(turn, mirrored, plain).to(self._precision))[1]
            yield some, {name: maps[name].flatten(2).transpose(1, 2).to(self._dtype) for name in self._layers}


def layers_of(dictionaries: Sequence[AskedDictionary]) -> tuple[LayerPlan, ...]:
    """Each once."""
    return tuple({one.layer.name: one.layer for one in dictionaries}.values())


class DictionaryWorker:
    """What an actor has that reads columns of objects for dictionaries.

    Args:
        settings, plan, folder: of the run.
        turned: the objects.
        dictionaries: that assign, or will be learned.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        turned: TurnedObjects,
        dictionaries: Sequence[AskedDictionary],
    ) -> None:
        self.settings, self.turned, self.dictionaries = settings, turned, dictionaries
        self.layers = layers_of(dictionaries)
        self.read = TurnedColumns(settings, plan, folder, turned, self.layers)


class CropWordsWorker(DictionaryWorker):
    """Runs in an actor: the objects of a shard of photos in, their word maps out, a (b, H, W) array a dictionary."""

    @cached_property
    def _mixtures(self) -> list[Mixture]:
        return [load_mixture(one.path).to(self.read.device) for one in self.dictionaries]

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """By number of the dictionary."""
        own = np.flatnonzero(np.isin(self.turned.objects.images, shard.images))
        found: list[list[np.ndarray]] = [[] for _ in self.dictionaries]
        for _, maps in self.read(own):
            for one, mixture, words in zip(self.dictionaries, self._mixtures, found, strict=True):
                columns = maps[one.layer.name]
                word = assign(mixture, columns.flatten(0, 1).float()).word
                words.append(word.reshape(len(columns), one.layer.height, one.layer.width).cpu().numpy())
        return {str(place): np.concatenate(words).astype(np.int32) for place, words in enumerate(found)}


def gathered_words(parts: Parts, dictionaries: Sequence[AskedDictionary]) -> tuple[Int[np.ndarray, "n H W"], ...]:
    """Word maps of all objects by each dictionary: shards follow photos, and so do objects."""
    every = list(parts)
    return tuple(np.concatenate([part[str(place)] for part in every]) for place in range(len(dictionaries)))

"""Word maps of objects: their columns, as the run's dictionary assigns them, each object turned as patterns has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.mixtures.assignment import assign
from workflows.asking.image_parts import ImageShard, Parts
from workflows.asking.pattern_files import TurnedObjects, grid_of
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
from workflows.storage.run_folder import RunFolder

_FINE = 10
"""Positions along a side that a layer has at least whose words vote where no layer is asked for."""


@dataclass(frozen=True)
class AskedDictionary:
    """The words of a layer that vote.

    Attributes:
        scope: whose classes it explains.
        layer: which.
        grid: where its columns lie on an object.
        path: of the mixture.
    """

    scope: str
    layer: LayerPlan
    grid: PositionGrid
    path: Path

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.scope}, {self.layer.given}, K {self.layer.words}"


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
        size = plan.input_height, plan.input_width
        found.append(AskedDictionary(chosen, layer, _grid(layer, size), path))
    return tuple(found)


def _grid(layer: LayerPlan, size: tuple[int, int]) -> PositionGrid:
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


class CropWordsWorker:
    """Runs in an actor: the objects of a shard of photos in, their word maps out, a (b, H, W) array a dictionary.

    Args:
        settings, plan, folder: of the run.
        turned: the objects.
        dictionaries: that assign.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        turned: TurnedObjects,
        dictionaries: Sequence[AskedDictionary],
    ) -> None:
        self._turned, self._dictionaries = turned, dictionaries
        self._device = choose_device(settings.runtime.device)
        self._precision = torch.bfloat16 if settings.extract.precision == "bfloat16" else torch.float32
        self._dtype = STORAGE_DTYPES[settings.extract.dtype]
        network = load_network(settings.network.model_copy(update={"weights": plan.weights}))
        names = [one.layer.name for one in dictionaries]
        self._network = TappedNetwork(network, names, rewriting=plan.rewriting).to(self._device, self._precision)
        self._mixtures = [load_mixture(one.path).to(self._device) for one in dictionaries]
        self._inputs = ObjectInputs(settings, folder, (plan.input_height, plan.input_width), self._device)
        self._batch = plan.batch(settings.extract)

    @torch.inference_mode()
    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """By number of the dictionary; columns are cast as the words stage casts them."""
        own = np.isin(self._turned.objects.images, shard.images)
        signs = torch.from_numpy(self._turned.signs[own]).to(self._device)
        found: list[list[np.ndarray]] = [[] for _ in self._dictionaries]
        done = 0
        for plain, mirrored in self._inputs(self._turned.objects.only(own), self._batch, mirrored=True):
            turn = signs[done : done + len(plain), None, None, None] < 0
            maps = self._network(torch.where(turn, mirrored, plain).to(self._precision))[1]
            done += len(plain)
            for one, mixture, words in zip(self._dictionaries, self._mixtures, found, strict=True):
                columns = maps[one.layer.name].permute(0, 2, 3, 1).reshape(-1, one.layer.units)
                word = assign(mixture, columns.to(self._dtype).float()).word
                words.append(word.reshape(len(plain), one.layer.height, one.layer.width).cpu().numpy())
        return {str(place): np.concatenate(words).astype(np.int32) for place, words in enumerate(found)}


def gathered_words(parts: Parts, dictionaries: Sequence[AskedDictionary]) -> tuple[Int[np.ndarray, "n H W"], ...]:
    """Word maps of all objects by each dictionary: shards follow photos, and so do objects."""
    every = list(parts)
    return tuple(np.concatenate([part[str(place)] for part in every]) for place in range(len(dictionaries)))

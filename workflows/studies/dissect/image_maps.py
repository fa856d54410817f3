"""Activations of images: from the run's arrays where they hold whole maps, else from the network, which runs again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from workflows.errors import SettingsError
from workflows.networks.loading import load_network
from workflows.networks.taps import TappedNetwork
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.run import Run
from workflows.settings import Settings
from workflows.storage.arrays import array_exists, read_rows
from workflows.storage.run_folder import RunFolder
from workflows.words.forward import FrozenForward

Maps = dict[str, Float[np.ndarray, "D h w"]]
"""Of one image by layer, as float16 holds them."""


class ImageMaps:
    """Whole maps of some layers, image by image.

    Args:
        settings, plan, folder: of the run.
        layers: to give; others than the plan's make the network run.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder, layers: Sequence[LayerPlan]) -> None:
        self._folder, self._layers, self._chunk = folder, tuple(layers), settings.extract.images_per_chunk
        self._forward = None
        if not are_stored(plan, folder, layers):
            self._forward = FrozenForward(settings, replace(plan, layers=self._layers), folder)

    def __call__(self, images: Sequence[int]) -> Iterator[tuple[int, Maps]]:
        """Images ascending, near each other. Raises DataError: NaN or infinite activations."""
        if self._forward is not None:
            done = 0
            for batch in self._forward.of(images):
                for row in range(len(batch.logits)):
                    columns = {layer.name: batch.columns[layer.name][row] for layer in self._layers}
                    yield images[done + row], {layer.name: _map(columns[layer.name], layer) for layer in self._layers}
                done += len(batch.logits)
            return
        for first in range(0, len(images), self._chunk):
            some = images[first : first + self._chunk]
            rows = [image - some[0] for image in some]
            blocks = {
                layer.name: read_rows(self._folder.activations(layer.name), some[0], some[-1] + 1)[rows]
                for layer in self._layers
            }
            for place, image in enumerate(some):
                yield (
                    image,
                    {layer.name: _map(torch.from_numpy(blocks[layer.name][place]), layer) for layer in self._layers},
                )


def _map(columns: torch.Tensor, layer: LayerPlan) -> Float[np.ndarray, "D h w"]:
    """(positions, D) -> (D, h, w)."""
    return columns.to("cpu", torch.float16).T.reshape(layer.units, layer.height, layer.width).numpy()


def columns_of(maps: Float[np.ndarray, "D h w"]) -> Float[np.ndarray, "positions D"]:
    """The columns of one image."""
    return maps.reshape(len(maps), -1).T


def are_stored(plan: Plan, folder: RunFolder, layers: Sequence[LayerPlan]) -> bool:
    """Whether the run's arrays hold whole maps of these layers for all images."""
    known = {layer.name for layer in plan.layers}
    freed = folder.ledger("extract").content().cleaned
    return (
        plan.stores_everything
        and not freed
        and all(layer.name in known and array_exists(folder.activations(layer.name)) for layer in layers)
    )


def asked_layers(run: Run, names: Sequence[str]) -> tuple[LayerPlan, ...]:
    """The layers to dissect: those of the run with more than one position, or those named.

    A name of the run, or of any layer of its network; the latter have units, and no words.

    Raises:
        SettingsError: none has positions. NetworkError: there is no such layer, or one is not upstream of the next.
    """
    known = {name: layer for layer in run.plan.layers for name in (layer.name, layer.given)}
    if not names:
        layers = tuple(layer for layer in run.plan.layers if layer.positions > 1)
    elif all(name in known for name in names):
        layers = tuple(known[name] for name in names)
    else:
        layers = _of_network(run, names)
    flat = [layer.given for layer in layers if layer.positions == 1]
    if flat or not layers:
        raise SettingsError(
            f"--layers: must have more than one position, got {', '.join(flat) or 'none that has'}; a dense layer says "
            "nothing about places: name layers with maps"
        )
    return layers


def _of_network(run: Run, names: Sequence[str]) -> tuple[LayerPlan, ...]:
    known = {layer.name: layer for layer in run.plan.layers}
    network = load_network(run.settings.network.model_copy(update={"weights": run.plan.weights}))
    tapped = TappedNetwork(network, names, run.settings.network.tap, run.plan.rewriting, run.plan.outputs)
    size = (run.plan.input_height, run.plan.input_width)
    with torch.inference_mode():
        _, maps = tapped(torch.zeros(1, run.settings.preprocessing.channels, *size))
    whole = run.plan.layers[0].pixels
    found = []
    for layer in tapped.layers:
        units, height, width = maps[layer.name].shape[1:]
        made = LayerPlan(layer.name, layer.given, units, height, width, 0, 0, None, whole)
        found.append(known.get(layer.name, made))
    return tuple(found)

"""What ``inference-graphs layers`` prints: the names that ``network.layers`` can choose from."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from workflows.errors import SettingsError
from workflows.networks.listing import ListedLayer, list_layers
from workflows.networks.loading import build_network
from workflows.settings import NetworkSettings, Settings

SIDE = 224
"""Pixels of the input of a network that is given without a preset."""


def print_layers(asked: str | Settings, size: int | None, console: Console) -> None:
    """A line a layer, in execution order: name, kind, units x height x width, aliases. Needs no weights and no images.

    Args:
        asked: a network's name, or the settings of a run.
        size: pixels of the square input; None: ``preprocessing.crop`` of the settings, 224 for a name.
        console: where to.

    Raises:
        NetworkError: the network cannot be built, or cannot take such images.
        SettingsError: the settings leave the size to the pictures.
    """
    if isinstance(asked, str):
        network, side = NetworkSettings(name=asked, weights="train", layers=("output",)), size or SIDE
    else:
        crop = size or asked.preprocessing.crop
        if crop is None:
            raise SettingsError(
                "layers: the preset has no preprocessing.crop, so the pictures decide on the size of the network's "
                "input: give it in pixels with --size"
            )
        network, side = asked.network, crop
    layers = list_layers(build_network(network), (3, side, side))
    for line in lines(layers):
        console.print(escape(line), highlight=False, soft_wrap=True)
    console.print(f"units x height x width for images of {side} x {side} pixels", soft_wrap=True)


def lines(layers: list[ListedLayer]) -> list[str]:
    """One line a layer, in columns."""
    rows = [(one.name, one.kind, f"{one.units} x {one.height} x {one.width}", one.alias) for one in layers]
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

"""``inference-graphs layers``: names, sizes and aliases of a network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from workflows.cli.options import AllowCode, Set, console, find_preset
from workflows.errors import RunError, SettingsError
from workflows.settings import NetworkSettings, Settings

if TYPE_CHECKING:
    from workflows.networks.listing import ListedLayer

SIDE = 224
"""Pixels of the input of a network that is given without a preset."""


def layers(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="torchvision:<model>, timm:<model>, package.module:callable, or a preset, whose network it then is.",
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels of the square input; default: the preset's crop, 224 without a preset."),
    ] = None,
    set_: Set = None,
    allow_code: AllowCode = None,
) -> None:
    """Names, sizes and aliases of the layers that network.layers can name. Needs no weights and no images.

    Examples:

        inference-graphs layers torchvision:resnet18

        inference-graphs layers timm:resnet10t --size 176

        inference-graphs layers cifar10_resnet20 --size 32
    """
    from workflows.settings import load_settings

    if ":" in network and set_:
        raise RunError("layers: --set changes a preset; give one, or a network without --set")
    asked = network if ":" in network else load_settings(find_preset(network), set_ or ())
    print_layers(asked, size, console(), allow_code or ())


def print_layers(asked: str | Settings, size: int | None, console: Console, allow_code: Sequence[str] = ()) -> None:
    """A line a layer, in execution order: name, kind, units x height x width, aliases. Needs no weights and no images.

    Args:
        asked: a network's name, or the settings of a run.
        size: pixels of the square input; None: ``preprocessing.crop`` of the settings, 224 for a name.
        console: where to.
        allow_code: packages whose code is run beside that which always is.

    Raises:
        NetworkError: the network cannot be built, or cannot take such images.
        SettingsError: the settings leave the size to the pictures.
    """
    from workflows.networks.listing import list_layers
    from workflows.networks.loading import build_network

    if isinstance(asked, str):
        network, side, channels = NetworkSettings(name=asked, weights="train", layers=("output",)), size or SIDE, 3
    else:
        crop = size or asked.preprocessing.crop
        if crop is None:
            raise SettingsError(
                "layers: the preset has no preprocessing.crop, so the pictures decide on the size of the network's "
                "input: give it in pixels with --size"
            )
        network, side, channels = asked.network, crop, asked.preprocessing.channels
    layers = list_layers(build_network(network.allowing(allow_code)), (channels, side, side))
    for line in lines(layers):
        console.print(escape(line), highlight=False, soft_wrap=True)
    console.print(f"units x height x width for images of {side} x {side} pixels", soft_wrap=True)


def lines(layers: list[ListedLayer]) -> list[str]:
    """One line a layer, in columns."""
    rows = [(one.name, one.kind, f"{one.units} x {one.height} x {one.width}", one.alias) for one in layers]
    widths = [max((len(row[place]) for row in rows), default=0) for place in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

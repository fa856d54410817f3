"""``inference-graphs patterns``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Classes, Folder, Images, asking, print_json


def patterns(
    folder: Folder,
    objects: Annotated[
        Path, typer.Option(metavar="BOXES.csv", help="Boxes of objects, and of their parts: the file of "
                           "[bold]boxes[/bold], columns image, part, obj_x0 ... part_y1 in pixels of the photo.")
    ],
    class_: Classes = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="PART=NAME", help="What a part of the file is called, such as part01=head."),
    ] = None,
    top: Annotated[
        list[str] | None,
        typer.Option(help="[bold]anchored[/bold]: patterns of the top layer stay at their mean places (the paper); "
                     "[bold]free[/bold]: one pattern a unit, wherever it is strongest. May be repeated. "
                     "Default: anchored."),
    ] = None,
    mirror: Annotated[
        Literal["latent", "off"],
        typer.Option(help="latent: run mirror images too, and turn all objects one way; off: objects as they are."),
    ] = "latent",
    layers: Annotated[
        str | None,
        typer.Option(help="Convolutions, lowest first, each with its patterns a unit: "
                     "[bold]layer2.3.bn2:40,layer3.5.bn2:20[/bold]. Default: the paper's for residual networks and "
                     "VGG-16, else three, spread evenly."),
    ] = None,
    parents: Annotated[int, typer.Option(help="M: patterns of the layer above that a pattern moves with.")] = 15,
    iterations: Annotated[int, typer.Option(help="T of EM.")] = 20,
    learn: Annotated[
        Literal["all", "even", "odd"],
        typer.Option(help="Learn from all photos of a class, or from every second one; patterns are placed on all "
                     "objects, and judged on the others."),
    ] = "all",
    synthesis: Annotated[
        bool,
        typer.Option("--synthesis", help="Train a decoder of a layer too, and show objects as pictures again: "
                     "from whole maps, and from valid patterns alone."),
    ] = False,
    scope: Annotated[
        str | None,
        typer.Option(help="Whose words are looked up where patterns sit, if the run has words: joint, class-<id>, "
                     "list-<name>. Default: the first that explains the class."),
    ] = None,
    synthesis_layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of the layers. Default: the lowest.")
    ] = None,
    images: Images = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Which parts of an object do units show, and how do they move together (the explanatory graph)?

    Every box is cut out, resized to a square and run through the network, and so is its mirror image. A unit's map
    mixes parts: EM splits it into patterns, each with a place on the object, and links each to patterns of the layer
    above with which it moves. No part is annotated for that; parts in the file judge what comes out, beside what
    stands still and beside the raw peaks of units. Writes patterns.parquet, pattern_edges.parquet,
    pattern_places.parquet, pattern_objects.parquet, pattern_measures.parquet, figures, and all places as arrays.

    Examples:

        inference-graphs patterns runs/animals-resnet50 --objects ../shared/data/imagenet_animals/parts.csv
        --class tiger --name part01=head --name part02=legs

        inference-graphs patterns runs/animals-resnet50 --objects ../shared/data/imagenet_animals/parts.csv
        --class zebra --top anchored --top free --layers layer3.5.bn2:20,layer4.2.bn2:10
    """
    from workflows.data.boxes import part_names
    from workflows.studies.patterns.command import run_patterns
    from workflows.studies.patterns.request import PatternsRequest

    request = PatternsRequest(
        boxes=objects,
        classes=tuple(class_ or ()),
        names=tuple(part_names(name or ()).items()),
        tops=tuple(dict.fromkeys(top or ("anchored",))),  # type: ignore[arg-type]
        mirror=mirror,
        layers=tuple(one.strip() for one in (layers or "").split(",") if one.strip()),
        parents=parents,
        iterations=iterations,
        learn=learn,
        synthesis=synthesis,
        scope=scope,
        synthesis_layer=synthesis_layer or "",
    )
    found = run_patterns(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)

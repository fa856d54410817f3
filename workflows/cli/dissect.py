"""``inference-graphs dissect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Folder, Images, asking, print_json

MasksOption = Annotated[
    str | None,
    typer.Option(
        "--masks",
        metavar="KIND:PATH",
        help="coco:FILE, boxes:FILE.csv, broden:FOLDER, labels:FOLDER or colours:FOLDER; default: data.masks of the "
        "preset. A # and a category behind it, such as coco:cars.json#part, make that the category of all concepts.",
    ),
]
"""Where masks of concepts on the run's images are."""


def dissect(
    folder: Folder,
    masks: MasksOption = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers, with commas between, lowest first: of the run (default: all that have positions), or any of "
            "its network, whose units alone are dissected."
        ),
    ] = None,
    colours: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add eleven names of colours by van de Weijer's table, w2c.mat or as text."),
    ] = None,
    sheet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONCEPT", help="Draw its contact sheet; may be repeated; default: the three detected best."
        ),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Another run that is dissected, to stand beside.")
    ] = None,
    images: Images = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """Which concepts do units and words detect? Masks of people against masks of the network.

    A unit's mask is where its activation, upsampled, is among the largest q of all (q = .005, .01, .02, .04); a word's,
    where the word is. For each: intersection over union (IoU) with every concept, and the best three; a detector has
    more than .04. Then units, and words, taken together for each concept: chosen on the training images, judged on the
    validation images, with intervals. Writes units, unit_concepts, word_concepts, word_units and unions; show prints
    one of them with --unit LAYER:UNIT or --word LAYER:WORD. Asked again, it only draws.

    Examples:

        inference-graphs dissect runs/cars-resnet50 --masks coco:../shared/data/car_parts/annotations.json#part

        inference-graphs dissect runs/cars-resnet50 --sheet wheel --sheet hood
    """
    from workflows.studies.dissect.command import DissectRequest, run_dissect

    names = tuple(name.strip() for name in layers.split(",") if name.strip()) if layers else ()
    request = DissectRequest(masks, colours, names, compare, tuple(sheet or ()))
    found = run_dissect(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)

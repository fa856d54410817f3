"""``inference-graphs ablate``: what breaks without some units."""

from __future__ import annotations

from typing import Annotated

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Classes, Folder, Images, asking, print_json

Ranking = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="By what units are taken: relevance (default), specific, activation (tables of relevance), dissect, or "
        "word:<layer>:<word> (tables of dissect). May be repeated.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="all|each|NAME",
        help="Where: all inner convolutions at once (default), each by itself, or one by name. May be repeated.",
    ),
]
Replace = Annotated[
    list[str] | None,
    typer.Option(metavar="mean|zero", help="What silenced units say: their mean over images (default), or zero."),
]
Shares = Annotated[str, typer.Option(help="Percentages of each layer's units.", metavar="1,2,3,10")]


def ablate(
    folder: Folder,
    class_name: Classes = None,
    ranking: Ranking = None,
    layers: Layers = None,
    replace: Replace = None,
    shares: Shares = "1,2,3,10",
    images: Images = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """What breaks without some units? Accuracy on a class and on all others with its best units silenced.

    Units are ranked by other studies, on training images (by dissect and words: on all images that dissect looked at),
    and tested on validation images; the worst units and random ones stand beside the best, and every accuracy has its
    interval. The first convolution and the last are left alone.
    Writes ablations.parquet, unit_classes.parquet (units that matter to several classes, for or against them) and
    figures/ablate.png.

    Example:

        inference-graphs relevance runs/cifar10-resnet20 --class all --images 500
        inference-graphs ablate runs/cifar10-resnet20 --class all --ranking relevance --ranking specific
    """
    from workflows.studies.ablate.ablations import AblateRequest, share_numbers
    from workflows.studies.ablate.command import run_ablate

    request = AblateRequest(
        tuple(class_name or ()),
        tuple(ranking or ("relevance",)),
        tuple(layers or ("all",)),
        tuple(dict.fromkeys(replace or ("mean",))),  # type: ignore[arg-type]  # checked by the request
        share_numbers(shares),
    )
    found = run_ablate(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)

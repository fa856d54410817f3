"""``inference-graphs relevance``: which units matter to a class."""

from __future__ import annotations

from typing import Annotated

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Classes, Folder, Images, asking, print_json

Masks = Annotated[
    str | None,
    typer.Option(
        metavar="KIND:PATH",
        help="Masks of the classes, coco:FILE, boxes:FILE, broden:FOLDER, labels:FOLDER or colours:FOLDER; default: "
        "data.masks of the run, or none.",
    ),
]
MaskOf = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=CONCEPT",
        help="The concept that shows a class; default: the concept of its name, or the object. May be repeated.",
    ),
]
Part = Annotated[str, typer.Option("--split", help="Whose images: train (S_T), validation (S_V) or all.")]
Steps = Annotated[int, typer.Option(help="Of the path from black to the image; one pass more than steps.")]
RuleName = Annotated[str, typer.Option("--rule", help="trapezoid, or left as in captum's LayerConductance.")]
Explained = Annotated[str, typer.Option("--output", help="What is explained: the class's logit, or its probability.")]
Normalise = Annotated[str, typer.Option(help="Masked relevance: none, or mask_area to divide by the mask's area.")]


def relevance(
    folder: Folder,
    class_name: Classes = None,
    masks: Masks = None,
    mask_of: MaskOf = None,
    split: Part = "train",
    steps: Steps = 32,
    rule: RuleName = "trapezoid",
    output: Explained = "logit",
    normalise: Normalise = "none",
    images: Images = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """Which units matter to a class? The conductance of every unit of every convolution, from black to the image.

    How much of the class's logit passes through a unit, on the images of the class: signed, absolute, within masks of
    the class, and specific, which is the unit's share of its layer less its mean share for the other classes asked for.
    Writes relevance.parquet, relevance_completeness.parquet (whether layers account for the whole logit, as cuts
    should), relevance_agreement.parquet (with dissect, where that was asked) and figures/relevance.png.

    Example:

        inference-graphs relevance runs/cifar10-resnet20 --class all --images 500
    """
    from workflows.studies.relevance.command import RelevanceRequest, concept_pairs, run_relevance

    request = RelevanceRequest(
        tuple(class_name or ()),
        split,  # type: ignore[arg-type]  # checked by the request
        steps,
        rule,  # type: ignore[arg-type]
        output,  # type: ignore[arg-type]
        masks or "",
        concept_pairs(mask_of or ()),
        normalise,  # type: ignore[arg-type]
    )
    found = run_relevance(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)

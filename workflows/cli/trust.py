"""``inference-graphs trust``: is a graph what the network does, and how sure is it."""

from __future__ import annotations

from typing import Annotated

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Classes, Folder, Images, asking, print_json

Interventions = Annotated[
    str,
    typer.Option(
        metavar="shift,mean",
        help="What columns say whose word is taken out: shift (x less the word's mean plus the layer's) or mean (the "
        "layer's mean column). Curves and edges take the first.",
    ),
]
Tops = Annotated[
    list[str] | None,
    typer.Option(
        "--top",
        metavar="Z",
        help="Words a layer of the graphs: 3 (default), or several, 3,1,2,5. Curves, edges and single words are of the "
        "first. May be repeated.",
    ),
]
Draws = Annotated[int, typer.Option(help="Of as many random columns, the control.")]
Shortcuts = Annotated[
    bool,
    typer.Option(
        "--shortcuts",
        help="Also rank each class's words by how much they look like a shortcut (in its images alone, at one place, "
        "off the object) and are used: shortcuts.parquet, figures/trust-shortcuts.png. Of an answer that is there, in "
        "seconds.",
    ),
]


def trust(
    folder: Folder,
    class_name: Classes = None,
    interventions: Interventions = "shift,mean",
    top: Tops = None,
    draws: Draws = 5,
    shortcuts: Shortcuts = False,
    images: Images = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """Is a graph what the network does? Its words are taken out of the layers, beside controls, and each alone.

    On the validation images predicted as a class: how far its logit drops without the graph's words, without as many
    random columns, and without other words of as many; words that are chosen by effect are chosen on one half of the
    images and judged on the other. Curves of words taken out one after another, edges tested, and how much of a layer
    lies in its words.
    Writes effects.parquet, effect_curves.parquet, edge_effects.parquet, completeness.parquet, word_effects.parquet and
    a page for each class, figures/trust-class-<id>.png.

    Example:

        inference-graphs trust runs/cifar10-resnet20 --top 3,1,2,5

        inference-graphs trust runs/cifar10-resnet20 --top 3,1,2,5 --shortcuts
    """
    from workflows.studies.trust.command import run_trust
    from workflows.studies.trust.request import TrustRequest, intervention_names, top_numbers

    request = TrustRequest(
        tuple(class_name or ("all",)), intervention_names(interventions), top_numbers(top or ("3",)), draws, shortcuts
    )
    found = run_trust(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)

"""``inference-graphs boxes``, which was called parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workflows.cli.options import AsJson, Folder, console, print_json

BoxesFile = Annotated[
    Path,
    typer.Argument(
        metavar="BOXES.csv",
        help="One object a line, with one of its parts: columns image (the end of the photo's path, such as "
        "n02391049/00001.jpg), obj_x0, obj_y0, obj_x1, obj_y1, part (a name, or empty) and part_x0, part_y0, "
        "part_x1, part_y1, in pixels of the photo file; others are not read.",
    ),
]
PartNames = Annotated[
    list[str] | None,
    typer.Option(help="What a part is called: [bold]part01=head[/bold]; may be repeated.", metavar="PART=NAME"),
]


def boxes(folder: Folder, table: BoxesFile, name: PartNames = None, as_json: AsJson = False) -> None:
    """Do the words of the class graphs sit on the object? Shares of their positions in boxes, against the area.

    For every chosen word: its exemplars and all its positions in the class's validation photos, photos with boxes only.
    Writes boxes.parquet and figures/[<scope>/]boxes.png; a run that draws its graphs again removes them.

    Example:

        inference-graphs boxes runs/animals-resnet50 ../shared/data/imagenet_animals/parts.csv --name part01=head
    """
    from workflows.data.boxes import part_names
    from workflows.studies.boxes.command import run_boxes

    found = run_boxes(folder, table, part_names(name or ()), console(stderr=as_json))
    if as_json:
        print_json(found)


def parts(folder: Folder, table: BoxesFile, name: PartNames = None) -> None:
    """What boxes was called; it writes boxes.parquet."""
    told = "[yellow]notice[/yellow] parts is called boxes now, and writes boxes.parquet"
    console(stderr=True).print(told, highlight=False, soft_wrap=True)
    boxes(folder, table, name)

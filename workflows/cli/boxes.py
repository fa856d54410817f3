"""``inference-graphs parts``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workflows.cli.options import Folder, console


def parts(
    folder: Folder,
    boxes: Annotated[
        Path,
        typer.Argument(
            metavar="BOXES.csv",
            help="One object a line, with one of its parts: columns image (the end of the photo's path, such as "
            "n02391049/00001.jpg), obj_x0, obj_y0, obj_x1, obj_y1, part (a name, or empty) and part_x0, part_y0, "
            "part_x1, part_y1, in pixels of the photo file; others are not read.",
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="What a part is called: [bold]part01=head[/bold]; may be repeated.", metavar="PART=NAME"),
    ] = None,
) -> None:
    """Do the words of the class graphs sit on the object? Shares of their positions in boxes, against the area.

    For every chosen word: its exemplars and all its positions in the class's validation photos, photos with boxes only.
    Writes parts.parquet and figures/[<scope>/]parts.png; a run that draws its graphs again removes them.

    Example:

        inference-graphs parts runs/animals-resnet50 ../shared/data/imagenet_animals/parts.csv --name part01=head
    """
    from workflows.studies.boxes.command import part_names, run_parts

    run_parts(folder, boxes, part_names(name or ()), console())

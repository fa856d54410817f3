"""``inference-graphs locate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Folder, asking, print_json

BOXES = "boxes"


def locate(
    folder: Folder,
    part: Annotated[str, typer.Option(help="The part, such as head; as [bold]patterns[/bold] was told its name.")],
    class_: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Name or id of the class; patterns must know it.")
    ],
    annotations: Annotated[
        str,
        typer.Option(metavar="boxes|FILE.csv", help="[bold]boxes[/bold]: draw three objects at a time of those "
                     "whose part is boxed, and tell how far off all others are; or a file with the columns image, y, x "
                     "of the part on three photos or more, in pixels, and object where boxes overlap."),
    ] = BOXES,
    triples: Annotated[int, typer.Option(help="Sets of three that are drawn from boxes.")] = 10,
    voters: Annotated[
        list[str] | None,
        typer.Option(help="Who remembers how far away the part was: [bold]patterns[/bold], [bold]peaks[/bold] of "
                     "units, [bold]words[/bold] of a dictionary. May be repeated. Default: patterns and peaks."),
    ] = None,
    top: Annotated[
        Literal["anchored", "free"] | None,
        typer.Option(help="Whose patterns vote; default: the first that patterns was asked for."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Layer whose voters vote; may be repeated: of those with patterns (default: all), and of "
                     "those that the run has words of (default: the top one of 10 x 10 positions or more)."),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Whose dictionary: joint, class-<id>, list-<name>. Default: the first that explains the "
                     "class."),
    ] = None,
    words: Annotated[
        list[int] | None,
        typer.Option(help="Instead of the run's, learn a dictionary of so many words from the objects of the class; "
                     "may be repeated. Needs no more of the run than its index."),
    ] = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Where is a part on every object of a class, told on three of them (the And-Or graph)?

    Each annotated object becomes a template: patterns (or raw peaks, or words) near the part, each with how far away
    the part was. On another object they vote from where they sit there, and the part is where most votes meet. Needs
    [bold]patterns[/bold] of the class: its objects, the way they face, and where everything sits. Writes
    templates.parquet (who votes), locations.parquet (the part on every object, in pixels of its photo) and, where the
    part is boxed, location_errors.parquet beside three controls: the middle of the object, the mean place of the three
    parts, a linear regression on the object's features. Figures show votes on objects and all errors.

    Examples:

        inference-graphs locate runs/animals-resnet50 --class tiger --part head --voters patterns --voters words

        inference-graphs locate runs/animals-resnet50 --class tiger --part head --voters words --words 60 --layer add13

        inference-graphs locate runs/animals-resnet50 --class zebra --part tail --annotations three_tails.csv
    """
    from workflows.studies.locate.command import run_locate
    from workflows.studies.locate.request import LocateRequest

    request = LocateRequest(
        class_name=class_,
        part=part.strip(),
        annotations=None if annotations == BOXES else Path(annotations),
        triples=triples,
        voters=tuple(voters or ("patterns", "peaks")),  # type: ignore[arg-type]
        top=top,
        layers=tuple(layer or ()),
        scope=scope,
        words=tuple(words or ()),
    )
    found = run_locate(asking(folder, as_json, None, anew, address, allow_code), request)
    if as_json:
        print_json(found)

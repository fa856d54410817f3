"""``inference-graphs agree``: how far runs with other seeds, epochs or networks agree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Classes, Folder, Images, asking, print_json

Others = Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Runs that it is compared with.")]
ScopeName = Annotated[str, typer.Option("--scope", help="Whose words and graphs: joint, class-<id> or list-<name>.")]


def agree(
    folder: Folder,
    others: Others,
    class_name: Classes = None,
    scope: ScopeName = "joint",
    images: Images = None,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """Do runs agree? Words matched, columns that graphs cover, and the nodes that other runs have too.

    Runs with other seeds, epochs or networks on the same validation images, done up to their stage mine. Layers are
    compared by name, or, where the networks share none, from the output downwards. All of it stands beside chance.
    Writes agreement.parquet, word_matches.parquet, consensus.parquet, figures/[<scope>/]agree.png and for each class
    agree-class-<id>.png, the graph of the first run with the number of other runs that cover each node; into the first
    run's folder.

    Example:

        inference-graphs agree runs/seed-0 runs/seed-1 runs/seed-2
    """
    from workflows.studies.agree.command import AgreeRequest, run_agree

    request = AgreeRequest(tuple(others), scope, tuple(class_name or ()))
    found = run_agree(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)

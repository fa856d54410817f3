"""``inference-graphs serve``: the report site and a box for SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from workflows.cli.options import Folder, console
from workflows.errors import RunError


def serve(
    folder: Folder,
    site: Annotated[Path | None, typer.Option(help="The report site; default: DIR/site.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Show a run in the browser of this machine: its report site, with a box for SQL.

    Listens on 127.0.0.1 alone; the address that is printed has a token, without which nothing is answered. Ctrl-C ends
    it. From another machine: ssh -L 8000:127.0.0.1:8000 HOST, and --port 8000.

    Examples:

        inference-graphs serve runs/digits

        inference-graphs serve runs/digits --port 8000
    """
    from workflows.queries.serving import serve_site
    from workflows.storage.run_folder import RunFolder

    run = RunFolder.open(folder)
    if site is not None and not (site / "index.html").is_file():
        raise RunError(f"serve: --site must be a report site, got {str(site)!r} without index.html; report writes one")

    def told(address: str) -> None:
        console().print(f"{escape(address)}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)

    serve_site(run, site or run.root / "site", port, told)

"""The folder of a site: written whole or not at all, never over what is no site; and the page that it begins with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from workflows.errors import RunFolderError, full_disk, is_full

MARKER = "inference-graphs-site.txt"
"""Stands in the folder of a site: what has it may be written anew."""

_BUILDING = ".building-"

_HERE = Path(__file__).parent

VENDOR = (
    "d3-dispatch",
    "d3-selection",
    "d3-drag",
    "d3-color",
    "d3-interpolate",
    "d3-timer",
    "d3-ease",
    "d3-transition",
    "d3-zoom",
)
"""Vendored packages, each behind those that it needs."""

SCRIPTS = ("kit", "data", "layout", "graph", "panel", "saving", "overview", "pages", "compare", "paths", "start")
"""Own scripts, in the order that the page loads them."""


@contextmanager
def new_site(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``, which takes its place when the block ends without an error.

    Raises:
        RunFolderError: ``target`` is a file, or a folder that holds something else than a site.
        DiskFull: the disk has no room.
    """
    _refuse_other(target)
    building = target.with_name(f".{target.name}{_BUILDING}{uuid4().hex[:8]}")
    try:
        building.mkdir(parents=True)
        (building / MARKER).write_text(
            "A report site of inference-graphs; the command report replaces this folder.\n", encoding="utf-8"
        )
        yield building
        old = target.with_name(f"{building.name}-old")
        if target.exists():
            target.rename(old)
        try:
            building.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if is_full(error):
            raise full_disk(error, target) from None
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _refuse_other(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise RunFolderError(f"report: --out must be a folder, got the file {str(target)!r}; give another")
    held = sorted(entry.name for entry in target.iterdir())
    if held and MARKER not in held:
        shown = ", ".join(held[:5])
        raise RunFolderError(
            f"report: --out must be a new or empty folder or an earlier site, got {str(target)!r}, which holds other "
            f"files ({shown}); give another --out"
        )


def write_shell(root: Path, name: str, network: str) -> None:
    """Write ``index.html`` and what it loads.

    Args:
        root: folder of the site.
        name: of the run, the title.
        network: the network's name.
    """
    places = [root / folder for folder in ("vendor", "assets")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for package in VENDOR:
        for ending in ("min.js", "LICENSE"):
            shutil.copyfile(_HERE / "vendor" / f"{package}.{ending}", root / "vendor" / f"{package}.{ending}")
    for file in ("site.css", *(f"{script}.js" for script in SCRIPTS)):
        shutil.copyfile(_HERE / "assets" / file, root / "assets" / file)
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("index.html.j2").render(
        name=name,
        network=network,
        vendor=[f"vendor/{package}.min.js" for package in VENDOR],
        scripts=[f"assets/{script}.js" for script in SCRIPTS],
    )
    (root / "index.html").write_text(page, encoding="utf-8", errors="xmlcharrefreplace")

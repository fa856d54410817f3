"""The page itself: index.html by a template that escapes what it is told, scripts and styles as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

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

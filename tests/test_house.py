"""The house: one thing has one name, one name is one thing, and no room is a drawer for everything."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflows.asking.registry import STUDIES
from workflows.storage.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gmm_ops", "workflows")

OWN_NAMES = ("cli", "stages", "studies")
"""Their files are named after a command or a verb."""

FORBIDDEN = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "managers"})

ARRAYS_ONLY = frozenset({"torch", "numpy", "numba", "jaxtyping", "gmm_ops"})
"""What gmm_ops may import beside the standard library."""

TWICE: frozenset[str] = frozenset()
"""Modules and public classes that stand twice today. It only shrinks: a name that no longer does must leave it."""


def modules(package: str) -> Iterator[Path]:
    """Every module of a package, without the files of packages themselves."""
    return (path for path in sorted((ROOT / package).rglob("*.py")) if path.name != "__init__.py")


def has_own_names(path: Path) -> bool:
    return path.relative_to(ROOT).parts[1] in OWN_NAMES


def public_classes(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def standing_twice(package: str) -> dict[str, list[str]]:
    """Names of modules and of public classes with the files they stand in, where these are several."""
    places = defaultdict(list)
    for path in modules(package):
        if not has_own_names(path):
            for name in (path.stem, *public_classes(path)):
                places[f"{package}: {name}"].append(str(path.relative_to(ROOT)))
    return {name: files for name, files in places.items() if len(files) > 1}


def test_no_name_stands_twice() -> None:
    found = {name: files for package in PACKAGES for name, files in standing_twice(package).items()}
    new = {name: files for name, files in found.items() if name not in TWICE}
    assert not new, "one name for two things: rename one of them"
    mended = sorted(TWICE - found.keys())
    assert not mended, f"these stand once now, take them out of TWICE: {mended}"


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_room_for_everything(package: str) -> None:
    paths = (ROOT / package).rglob("*")
    drawers = [str(path.relative_to(ROOT)) for path in paths if path.stem.strip("_") in FORBIDDEN]
    assert not drawers, "name what is in it"


def imported(path: Path) -> Iterator[str]:
    """First parts of the names of everything that a file imports, at its head or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module).partition(".")[0]


def test_gmm_ops_knows_arrays_alone() -> None:
    allowed = ARRAYS_ONLY | sys.stdlib_module_names
    for path in (ROOT / "gmm_ops").rglob("*.py"):
        foreign = set(imported(path)) - allowed
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_a_study_is_an_entry_a_folder_and_a_command() -> None:
    folders = {path.parent.name for path in (ROOT / "workflows" / "studies").glob("*/__init__.py")}
    commands = {path.stem for path in (ROOT / "workflows" / "cli").glob("*.py")}
    assert folders == set(STUDIES)
    assert folders <= commands
    tables = [table for study in STUDIES.values() for table in (*study.tables, *study.further)]
    assert set(tables) <= SCHEMAS.keys()
    assert len(set(tables)) == len(tables), "each table has one writer"

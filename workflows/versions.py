"""What computes: the sources of this project, and the libraries whose versions can change a value."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("gmm_ops", "workflows")
LIBRARIES = ("torch", "numpy", "numba")


@cache
def versions() -> dict[str, str]:
    """Of this process, by name: ``code``, a hash of the sources of both packages, ``python`` and the libraries.

    Nothing is imported for it. The answer is that of the first call: sources that change later are not those at work.
    """
    found = {name: version(name) for name in LIBRARIES}
    return {"code": _hash_of_sources(), "python": platform.python_version(), **found}


def unlike_versions(ours: Mapping[str, str], theirs: Mapping[str, str], who: str, they: str) -> list[str]:
    """A line for each that differs: ``torch: this driver has '2.13.0', the node '2.13.1'``."""
    return [
        f"{name}: {who} has {ours.get(name)!r}, {they} {theirs.get(name)!r}"
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(package)
        root = Path((spec.submodule_search_locations or [""])[0]) if spec is not None else Path()
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]

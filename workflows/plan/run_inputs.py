"""What a run was planned with and must still find: the weights file, and the source of an imported network.

Of weights at a URI the run fetches a copy of its own once, beside a note of what was there, with its SHA-256.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import os
import posixpath
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workflows.data.file_states import fault
from workflows.errors import NetworkError, RunFolderError
from workflows.plan.run_plan import Plan, is_library
from workflows.settings import Settings
from workflows.storage.atomic import write_bytes
from workflows.storage.damage import undamaged
from workflows.storage.identities import FileIdentity, hash_of
from workflows.storage.names import slug
from workflows.storage.object_store import download, is_uri
from workflows.storage.run_folder import RunFolder

_DIGITS = 12
"""Of a hash, in messages."""


def with_fetched_weights(settings: Settings, folder: RunFolder) -> Settings:
    """Settings that name the run's own copies where they name weights at a URI; what is not there yet is fetched.

    Raises:
        NetworkError: there is no such file, or no longer the one that the run has fetched first.
        StorageFault: the object store does not answer.
    """
    network, training = settings.network, settings.training
    if is_uri(network.weights):
        weights = str(_fetched(network.weights, "network.weights", folder))
        network = network.model_copy(update={"weights": weights})
    if training is not None and is_uri(training.start):
        training = training.model_copy(update={"start": str(_fetched(training.start, "training.start", folder))})
    return settings.model_copy(update={"network": network, "training": training})


def fetched_path(uri: str, field: str, folder: RunFolder) -> Path:
    """Where a run keeps its copy of weights; the ending tells files of safetensors from all others."""
    stem, ending = posixpath.splitext(posixpath.basename(uri))
    ending = ending if ending == ".safetensors" else ".state"
    return folder.fetched / f"{field.rpartition('.')[2]}-{slug(stem or 'file')}{ending}"


def _fetched(uri: str, field: str, folder: RunFolder) -> Path:
    path = fetched_path(uri, field, folder)
    note = path.with_name(f"{path.name}.json")
    known = _noted(note)
    if known is not None and path.exists() and hash_of(path) == known["sha256"]:
        return path
    try:
        seen, sha256 = download(uri, path)
    except FileNotFoundError as error:
        raise NetworkError(f"{field} {uri!r}: {error.strerror}; correct the URI of the state dict") from None
    except OSError as error:
        if error.filename != uri:  # it cannot be written
            raise
        raise fault(uri, error) from None
    if known is not None and known["sha256"] != sha256:
        path.unlink()
        raise NetworkError(
            f"{field} {uri!r}: must be the file that the run has fetched first, whose copy is lost or damaged: "
            f"{_both(known['sha256'], sha256)}; restore either, or give another --out"
        )
    told = {"uri": uri, "size": seen.size, "etag": seen.etag, "modified": seen.modified.isoformat()}
    write_bytes(note, json.dumps(told | {"sha256": sha256}, indent=1).encode())
    return path


def _noted(note: Path) -> dict[str, Any] | None:
    """What was noted of a copy; None: nothing.

    Raises:
        RunFolderError: the note is damaged.
    """
    if not note.exists():
        return None
    with undamaged(note, "delete it, and the weights are fetched again"):
        known: dict[str, Any] = json.loads(note.read_bytes())
        known["sha256"]
    return known


def weights_identity(weights: str) -> FileIdentity | None:
    """Of a weights file; None of a library's, which checks its downloads itself, and of one that is not trained yet."""
    return None if is_library(weights) or not Path(weights).is_file() else FileIdentity.of(Path(weights))


def refuse_changed_inputs(name: str, plan: Plan, folder: RunFolder) -> None:
    """Refuse a run whose weights or network source are no longer those that it was planned with.

    What is not there is refused by whoever needs it. A plan of an earlier version knows nothing and refuses nothing.

    Args:
        name: ``network.name``.
        plan, folder: of the run.

    Raises:
        RunFolderError: each differing file with both hashes.
    """
    lines = []
    if (
        plan.weights_file is not None
        and Path(plan.weights).is_file()
        and not plan.weights_file.fits(Path(plan.weights))
    ):
        found = hash_of(Path(plan.weights))
        lines.append(f"network.weights {plan.weights!r}: {_both(plan.weights_file.sha256, found)}")
    before = dict(plan.sources)
    now = network_sources(name) if before else {}
    for module in sorted(before.keys() | now.keys() if now else ()):
        if before.get(module) != now.get(module):
            lines.append(f"network.name, module {module!r}: {_both(before.get(module), now.get(module))}")
    if lines:
        raise RunFolderError(
            f"{str(folder.root)!r} holds a run of other inputs; these differ:\n  "
            + "\n  ".join(lines)
            + "\nrestore them, or give another --out"
        )


def _both(before: str | None, now: str | None) -> str:
    old, new = (f"SHA-256 {one[:_DIGITS]}" if one else "none" for one in (before, now))
    return f"the folder has {old}, the file {new}"


def network_sources(name: str) -> dict[str, str]:
    """SHA-256 by module of the source of ``network.name``: its module, and those of its own that it imports in turn.

    Its own are modules of the same package; of a single file, those in the same folder. Nothing where a library builds
    the network, or where there is no source.
    """
    if is_library(name):
        return {}
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where networks are looked for too
    importlib.invalidate_caches()
    first = name.partition(":")[0]
    waiting, found = [first], dict[str, str]()
    while waiting:
        module = waiting.pop()
        path = _source(module) if module not in found and _belongs(module, first) else None
        if path is None:
            continue
        content = path.read_bytes()
        found[module] = hashlib.sha256(content).hexdigest()
        waiting += _imported(content, module if path.name == "__init__.py" else module.rpartition(".")[0])
    return found


def _source(module: str) -> Path | None:
    """Its file, found without importing anything: a look at a run must not cost the imports of its network."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *below)
        for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _belongs(module: str, first: str) -> bool:
    top, own = module.partition(".")[0], first.partition(".")[0]
    if top == own:
        return True
    home, path = _source(own), _source(top)
    libraries = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    if home is None or path is None or home.name == "__init__.py" or home.parent in libraries:
        return False
    return path.is_relative_to(home.parent) and not any(path.is_relative_to(library) for library in libraries)


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Names that may be modules, of everything that a source imports. package: that relative names begin from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else relative
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)

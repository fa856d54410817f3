"""Files of weights: torch's or safetensors', on a file system or at a URI, from which each is downloaded once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import posixpath
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from workflows.errors import NetworkError
from workflows.storage.atomic import write_bytes
from workflows.storage.names import slug
from workflows.storage.object_store import download, is_uri, look_at

CACHE_VARIABLE = "INFERENCE_GRAPHS_CACHE"
"""Environment variable: folder for what is downloaded; default: ``inference-graphs`` in the user's cache folder."""

_SAFETENSORS = ".safetensors"


def read_weights_file(source: str, field: str) -> Any:
    """What a file holds. Only tensors are read, never code.

    Args:
        source: path or URI.
        field: the setting that names it.

    Raises:
        NetworkError: it is missing, damaged, or holds more than tensors.
    """
    path = local_weights(source, field)
    if source.endswith(_SAFETENSORS):
        return _read_safetensors(path, source, field)
    return _unpickle(path, source, field)


def local_weights(source: str, field: str) -> Path:
    """Where on this machine a file of weights lies; from a URI it is downloaded, unless the same is there already.

    It is the same while the store tells its size and etag of it (without an etag, its size and time), and the file has
    the SHA-256 that was taken when it came. Processes of one machine wait for the one that downloads.

    Raises:
        NetworkError: the store does not give it.
    """
    if not is_uri(source):
        return Path(source).expanduser()
    name = f"{hashlib.sha256(source.encode()).hexdigest()[:16]}-{slug(posixpath.basename(source) or 'weights')}"
    path = _cache() / name
    note = path.with_name(f"{name}.json")
    try:
        with _alone(path.with_name(f"{name}.lock")):
            seen = look_at(source)
            told = {"uri": source, "size": seen.size, "etag": seen.etag or seen.modified.isoformat()}
            if not _is_kept(path, note, told):
                _, sha256 = download(source, path)
                write_bytes(note, json.dumps(told | {"sha256": sha256}, indent=1).encode())
    except OSError as error:
        raise NetworkError(
            f"{field} {source!r}: must be a file that can be downloaded to {str(path.parent)!r}, got "
            f"{error.strerror or error}; correct the URI, its credentials or the network, or set {CACHE_VARIABLE}"
        ) from None
    return path


def _cache() -> Path:
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE_VARIABLE) or f"{user}/inference-graphs").expanduser() / "weights"


def _is_kept(path: Path, note: Path, told: dict[str, Any]) -> bool:
    try:
        kept = json.loads(note.read_bytes())
        sha256 = kept.pop("sha256")
        if kept != told or path.stat().st_size != told["size"]:
            return False
        with path.open("rb") as content:
            return bool(hashlib.file_digest(content, "sha256").hexdigest() == sha256)
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        return False


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _read_safetensors(path: Path, source: str, field: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise NetworkError(f"{field} {source!r} does not exist; give the file of a state dict") from None
    except (SafetensorError, OSError) as error:
        raise NetworkError(
            f"{field} {source!r} cannot be read, it is damaged or no file of safetensors ({error}); save it with "
            "safetensors.torch.save_file(network.state_dict(), file)"
        ) from None


def _unpickle(path: Path, source: str, field: str) -> Any:
    try:
        with warnings.catch_warnings():
            # About the pickle protocol of foreign files; what matters is raised.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NetworkError(f"{field} {source!r} does not exist; give the file of a state dict") from None
    except IsADirectoryError:
        raise NetworkError(f"{field} {source!r} is a folder; give the file of a state dict") from None
    except Exception as error:  # a damaged file fails in any way: KeyError, EOFError, RuntimeError, ...
        if "TorchScript" in str(error):
            raise NetworkError(
                f"{field} {source!r} must be a state dict, it is a TorchScript archive, which holds code; "
                "save its weights with torch.save(torch.jit.load(file).state_dict(), other_file)"
            ) from None
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None and not isinstance(error, UnpicklingError):
            raise NetworkError(
                f"{field} {source!r} cannot be read, it is damaged or no torch file "
                f"({type(error).__name__}: {_first_line(error)}); save it with torch.save(network.state_dict(), file)"
            ) from error
        # Torch's own words would advise to load it all the same.
        held = f"the pickle holds {foreign[1]}" if foreign else "it is a pickle that torch.save did not write"
        raise NetworkError(
            f"{field} {source!r} is not a plain state dict: {held}, which could run "
            "foreign code and is not loaded; save it with torch.save(network.state_dict(), file)"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]

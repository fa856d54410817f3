"""``run.json``: with which settings, in which format and by which versions a run was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workflows.errors import RunFolderError, SettingsError
from workflows.settings import Settings, parse_settings

FORMAT = 2
"""Version of the layout of a run folder (``RunFolder``); one of another version is refused."""

RUN_FILE = "run.json"
_CHANGEABLE = ("runtime", "count", "data.max_broken", "data.masks", "mine", "draw", "triage")
"""Fields that may differ when a run is resumed: they change no result, or only the last stages, which run again."""
_CHANGEABLE_BEFORE_FITS = (
    "discriminative",
    *(f"fit.{field}" for field in ("scopes", "lists", "loss", "min_confusions", "max_neighbours", "min_images")),
)
"""The same in a run without a dictionary: what the confusion matrix refuses need not cost another extraction."""


def read_record(root: Path) -> dict[str, Any]:
    """The content of the file.

    Raises:
        RunFolderError: there is none, or it is damaged or of another format.
    """
    path = root / RUN_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version, _ = record["format"], record["settings"]
    except FileNotFoundError:
        raise RunFolderError(f"{str(root)!r} holds no run ({RUN_FILE} is missing): give the --out of a run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{str(path)!r} is damaged ({error}): give another --out") from None
    if version != FORMAT:
        raise RunFolderError(
            f"{str(root)!r} holds a run of format {version!r}, this version reads {FORMAT}: give another --out"
        )
    return record


def recorded_settings(root: Path) -> Settings:
    """The settings in it. Raises RunFolderError: as ``read_record``, or this version does not know them."""
    record = read_record(root)
    try:
        return parse_settings(record["settings"])
    except SettingsError as error:
        raise RunFolderError(
            f"{str(root)!r} holds a run whose settings this version does not know, give another --out:\n{error}"
        ) from None


def differing_fields(stored: Settings, given: Settings, fitted: bool = True) -> list[str]:
    """Fields that change a result and differ, as ``section.field: stored -> given`` lines.

    ``fitted``: the run has dictionaries; without, their scopes and their loss may still be chosen.
    """
    changeable = _CHANGEABLE if fitted else (*_CHANGEABLE, *_CHANGEABLE_BEFORE_FITS)
    before, after = _flat(stored.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    lines = []
    for field in sorted(before.keys() | after.keys()):
        if not any(field == free or field.startswith(f"{free}.") for free in changeable):
            old, new = before.get(field), after.get(field)
            if old != new:
                lines.append(f"{field}: the folder has {old!r}, the command {new!r}")
    return lines


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

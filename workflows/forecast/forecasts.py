"""What a run is expected to take, and the file beside its folder that says so. Read without torch, Ray or Arrow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workflows.errors import SettingsError
from workflows.settings import Settings, parse_settings
from workflows.storage.atomic import write_bytes
from workflows.storage.run_folder import RunFolder, differing_fields


@dataclass(frozen=True)
class StageForecast:
    """What a stage is expected to take.

    Attributes:
        name: of the stage.
        seconds: from its first to its last work item.
        size: bytes of what it writes.
        files: that it leaves behind.
        memory: bytes that its actors hold at once on one machine, as they did in the trial; 0: it has none.
    """

    name: str
    seconds: float
    size: int
    files: int
    memory: int = 0


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take.

    Attributes:
        stages: in order.
        nodes, actors: machines, and actors of all of them.
        memory, memory_there: bytes that the plan takes at most on one machine, and that are free on this one.
        disk_at_most, disk_there: bytes that a run asks for before it starts, whatever the codec reaches; and free ones.
        object_store: bytes of Ray's object store at most, on one machine.
        trial_seconds: what the trial took, its start included.
        assumptions: in words.
    """

    stages: tuple[StageForecast, ...]
    nodes: int
    actors: int
    memory: int
    memory_there: int
    disk_at_most: int
    disk_there: int
    object_store: int
    trial_seconds: float
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def size(self) -> int:
        """Bytes of all stages."""
        return sum(stage.size for stage in self.stages)

    def write(self, root: Path, settings: Settings) -> Path:
        """Keep it beside a run folder, which need not exist yet, for ``status``; gives the file."""
        path = forecast_path(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"settings": settings.model_dump(mode="json"), "forecast": asdict(self)}
        write_bytes(path, json.dumps(content, indent=1).encode())
        return path


def forecast_path(root: Path) -> Path:
    """``runs/digits.plan.json``, beside ``runs/digits``."""
    resolved = root.resolve()
    return resolved.with_name(f"{resolved.name}.plan.json")


def forecast_of(folder: RunFolder) -> Forecast | None:
    """What was expected of a run; None where nothing was, it cannot be read, or other settings were meant."""
    return kept_forecast(folder.root, folder.settings())


def kept_forecast(root: Path, settings: Settings) -> Forecast | None:
    """The same for a folder where there is no run yet."""
    try:
        content: dict[str, Any] = json.loads(forecast_path(root).read_text(encoding="utf-8"))
        meant, found = parse_settings(content["settings"]), dict(content["forecast"])
        stages = tuple(StageForecast(**stage) for stage in found.pop("stages"))
        forecast = Forecast(stages=stages, assumptions=tuple(found.pop("assumptions")), **found)
    except (OSError, ValueError, KeyError, TypeError, SettingsError):
        return None
    return None if differing_fields(meant, settings) else forecast

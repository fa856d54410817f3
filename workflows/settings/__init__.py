"""What a run is told: frozen, documented field by field, without I/O.

A preset is a TOML file with one table per section below. ``--set section.field=value`` overrides one field.
Paths are relative to the folder the command is started in.
"""

from workflows.settings.data_settings import DataSettings, FolderLabel, PreprocessingSettings
from workflows.settings.fit_settings import DiscriminativeFitSettings, FitSettings, HMMSettings, ListScope
from workflows.settings.graph_settings import CountSettings, DrawSettings, MineSettings, TriageSettings
from workflows.settings.network_settings import DENSE, ExtractSettings, NetworkSettings, TrainingSettings
from workflows.settings.run_settings import Settings, load_settings, parse_settings
from workflows.settings.runtime_settings import RuntimeSettings

__all__ = [
    "DENSE",
    "CountSettings",
    "DataSettings",
    "DiscriminativeFitSettings",
    "DrawSettings",
    "ExtractSettings",
    "FitSettings",
    "FolderLabel",
    "HMMSettings",
    "ListScope",
    "MineSettings",
    "NetworkSettings",
    "PreprocessingSettings",
    "RuntimeSettings",
    "Settings",
    "TrainingSettings",
    "TriageSettings",
    "load_settings",
    "parse_settings",
]

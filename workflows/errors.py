"""What a run refuses. Every message names the setting, the rule, what came, and what to do."""

from __future__ import annotations


class RunError(Exception):
    """Base of every error that the command line prints without a traceback."""


class SettingsError(RunError):
    """A preset or a ``--set`` has an unknown, mistyped or contradictory field."""


class DataError(RunError):
    """Images or labels are missing, broken or do not fit the network."""


class NetworkError(RunError):
    """A network, its weights or a layer name cannot be used."""


class BudgetError(RunError):
    """The plan needs more disk or memory than there is."""


class RunFolderError(RunError):
    """The output folder holds another run, or not what a stage needs."""


class ShardError(RunError):
    """Work items kept failing after every allowed attempt."""


class DivergedFit(RunError):
    """A fit by gradient left the finite numbers, or nearly."""

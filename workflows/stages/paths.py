"""path_parts -> paths.parquet, transitions.parquet, triage.parquet, junctions.parquet, where the run has an HMM."""

from __future__ import annotations

from workflows.stages.context import StageContext


def run(context: StageContext) -> None:
    """The stage: nothing without an [hmm] section."""
    if context.settings.hmm is None:
        context.begin(0)
        return
    raise NotImplementedError

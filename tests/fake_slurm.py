"""Slurm's two commands for a script that is tried on one machine: every node of the allocation is this one."""

from __future__ import annotations

from pathlib import Path

SRUN = """#!/bin/bash
# Leaves its own options out and becomes the command.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") printf '%s\\n' ${3//,/ } ;;
  "requeue $SLURM_JOB_ID") echo "$2" >> "$(dirname "$0")/requeued" ;;
  *) echo "scontrol: unknown: $*" >&2; exit 1 ;;
esac
"""


def fake_slurm(folder: Path) -> dict[str, str]:
    """Write the commands into a folder; gives what Slurm sets in a job of two nodes with a core each."""
    folder.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node1,node2", "SLURM_CPUS_PER_TASK": "1"}

"""The studies: what may be asked of a finished run, in any order, each resumable by itself.

A new study is one entry of ``STUDIES``, one folder ``workflows/studies/<name>`` and one file
``workflows/cli/<name>.py``. One study never imports another; it may read its tables.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """One entry of the registry.

    Attributes:
        name: of its folder, its command and its figure.
        question: that it answers.
        tables: names of its Parquet tables.
    """

    name: str
    question: str
    tables: tuple[str, ...]


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("sweep", "how many words, and by which loss", ("sweep",)),
        Study("boxes", "do words sit on objects", ("boxes",)),
    )
}
"""By name, in the order of ``status``."""

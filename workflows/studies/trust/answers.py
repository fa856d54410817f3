"""What is made of the tables of trust alone: figures and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.asking.study import StudyContext
from workflows.report.trust_figure import draw_trust_figure
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.tables import read_table


def draw_and_print(study: StudyContext) -> None:
    """A page for each class, and one table for people."""
    tables = {name: read_table(path) for name, path in study.own.tables().items()}
    nodes = read_table(study.folder.table("nodes")).to_pylist()
    effects = tables["effects"].to_pylist()
    pages = dict.fromkeys((row["scope"], row["class"], row["criterion"]) for row in effects)
    for scope, label, criterion in pages:
        if label is None:
            continue
        key = (scope, f"class:{label}", criterion)
        name = f"class-{label}" if criterion == LIKELIHOOD else f"{criterion}-class-{label}"
        draw_trust_figure(
            {one: _of_page(table, scope, label, criterion) for one, table in tables.items()},
            [row for row in nodes if (row["scope"], row["graph"], row["criterion"]) == key],
            study.figure("png", name, scope),
            study.figure("svg", name, scope),
            network=study.settings.name,
        )
    for criterion in dict.fromkeys(row["criterion"] for row in effects):
        study.asked.console.print(_table([row for row in effects if row["criterion"] == criterion], criterion))


def _of_page(table: Any, scope: str, label: int, criterion: str) -> list[dict[str, Any]]:
    """Rows of a class; curves and completeness are of all criteria alike."""
    own = table.filter((pc.field("scope") == scope) & (pc.field("class") == label))
    return [row for row in own.to_pylist() if row.get("criterion", criterion) == criterion]


def _table(effects: Sequence[Mapping[str, Any]], criterion: str) -> Table:
    """By layer, intervention and Z, of all classes together, and of how many the interval lies above random."""
    title = None if criterion == LIKELIHOOD else f"graphs by {criterion}, chosen on all images (effect: on others)"
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in ("layer", "by", "Z", "share", "drop", "above random", "classes", "frequent", "effect"):
        shown.add_column(name, justify="left" if name in ("layer", "by") else "right", no_wrap=True)
    judged = [row for row in effects if row["half"] == "judged"]
    groups: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in judged:
        if row["class"] is None:
            groups.setdefault((row["layer"], row["intervention"], row["top"]), {})[row["selection"]] = row
    for key, own in groups.items():
        alike = [row for row in judged if (row["layer"], row["intervention"], row["top"]) == key]
        lows = [row["excess_low"] for row in alike if row["selection"] == "graph" and row["class"] is not None]
        graph = own["graph"]
        shown.add_row(
            Text(key[0]),
            key[1],
            str(key[2]),
            f"{100 * graph['column_share']:.0f} %",
            f"{graph['drop']:.2f}",
            "[{excess_low:.2f}, {excess_high:.2f}]".format(**graph),
            f"{sum((low or 0) > 0 for low in lows)}/{len(lows)}",
            *(f"{own[name]['drop']:.2f}" for name in ("frequent", "effect")),
        )
    return shown

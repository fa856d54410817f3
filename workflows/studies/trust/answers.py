"""What is made of the tables of trust alone: figures and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from statistics import fmean
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
        if label is None or not _is_due(study, scope, label, criterion):
            continue
        key, name = (scope, f"class:{label}", criterion), _page(label, criterion)
        draw_trust_figure(
            {one: _of_page(table, scope, label, criterion) for one, table in tables.items()},
            [row for row in nodes if (row["scope"], row["graph"], row["criterion"]) == key],
            study.figure("png", name, scope),
            study.figure("svg", name, scope),
            network=study.settings.name,
        )
    for criterion in dict.fromkeys(row["criterion"] for row in effects):
        study.asked.console.print(effect_table([row for row in effects if row["criterion"] == criterion], criterion))


def _page(label: int, criterion: str) -> str:
    return f"class-{label}" if criterion == LIKELIHOOD else f"{criterion}-class-{label}"


def _is_due(study: StudyContext, scope: str, label: int, criterion: str) -> bool:
    """Pages of an answer that is there stay as they are."""
    paths = [study.figure(ending, _page(label, criterion), scope) for ending in ("png", "svg")]
    return study.begun or not all(path.exists() for path in paths)


def _of_page(table: Any, scope: str, label: int, criterion: str) -> list[dict[str, Any]]:
    """Rows of a class; curves and completeness are of all criteria alike."""
    own = table.filter((pc.field("scope") == scope) & (pc.field("class") == label))
    return [row for row in own.to_pylist() if row.get("criterion", criterion) == criterion]


def effect_table(effects: Sequence[Mapping[str, Any]], criterion: str) -> Table:
    """By layer, intervention and Z, of all classes together, and of how many the interval lies above random."""
    scopes = {row["scope"] for row in effects}
    titles = [] if criterion == LIKELIHOOD else [f"graphs by {criterion}, chosen on all images (effect: on others)"]
    titles += [f"means over the classes of {len(scopes):,} scopes"] if len(scopes) > 1 else []
    shown = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title="; ".join(titles) or None,
        title_justify="left",
    )
    for name in ("layer", "by", "Z", "share", "drop", "above random", "classes", "frequent", "effect"):
        shown.add_column(name, justify="left" if name in ("layer", "by") else "right", no_wrap=True)
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in effects:
        if row["half"] == "judged":
            groups.setdefault((row["layer"], row["intervention"], row["top"]), []).append(row)
    for (layer, intervention, top), rows in groups.items():
        shown.add_row(Text(layer), intervention, str(top), *_numbers(rows, together=len(scopes) == 1))
    return shown


def _numbers(rows: Sequence[Mapping[str, Any]], together: bool) -> Iterator[str]:
    """together: one dictionary explains all classes, so that rows of all of them together have an interval."""
    classes = [row for row in rows if row["class"] is not None]
    means = [row for row in rows if row["class"] is None] if together else classes
    lows = [row["excess_low"] for row in classes if row["selection"] == "graph"]
    yield f"{100 * _mean(means, 'graph', 'column_share'):.0f} %"
    yield f"{_mean(means, 'graph', 'drop'):.2f}"
    if together:
        (graph,) = (row for row in means if row["selection"] == "graph")
        yield f"[{graph['excess_low']:.2f}, {graph['excess_high']:.2f}]"
    else:
        yield f"{_mean(means, 'graph', 'excess'):.2f}"
    yield f"{sum((low or 0) > 0 for low in lows)}/{len(lows)}"
    yield from (f"{_mean(means, name, 'drop'):.2f}" for name in ("frequent", "effect"))


def _mean(rows: Sequence[Mapping[str, Any]], selection: str, name: str) -> float:
    known = [row[name] for row in rows if row["selection"] == selection and row[name] is not None]
    return fmean(known) if known else nan

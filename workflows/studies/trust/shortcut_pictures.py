"""What people see of shortcuts: the first words of each class on images, and in a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from rich import box
from rich.table import Table
from rich.text import Text

from workflows.asking.study import StudyContext
from workflows.figures.draw_graphs import position_centres
from workflows.figures.saved_pictures import SavedPictures
from workflows.plan.run_plan import LayerPlan
from workflows.plan.scopes import read_scopes
from workflows.report.lettering import short_name
from workflows.report.numbers import percent
from workflows.report.shortcut_figure import ClassSuspects, Suspect, SuspectPicture, draw_shortcut_figure
from workflows.storage.images_table import ImageColumns
from workflows.words.scope_images import ScopeImages
from workflows.words.word_maps import read_image_maps

Rows = Sequence[Mapping[str, Any]]

_FIRST, _PICTURES = 3, 4
"""Words of a class, and images of a word."""

_CLASSES = 12
"""Of a figure at most: those whose first word is most of a shortcut."""


def draw_shortcuts(study: StudyContext, rows: Rows) -> list[Path]:
    """A figure for each scope."""
    images, drawn = ImageColumns.read(study.folder, 0, study.plan.images), list[Path]()
    for scope, firsts in _by_scope(rows).items():
        order = sorted(firsts, key=lambda label: -max(row["looks"] * row["weight"] for row in firsts[label]))
        shown = sorted(order[:_CLASSES])
        figures = study.figure("png", "shortcuts", scope), study.figure("svg", "shortcuts", scope)
        draw_shortcut_figure(
            [_class(study, images, firsts[label]) for label in shown],
            *figures,
            network=study.settings.name,
            words=_FIRST,
            pictures=_PICTURES,
            left_out=len(order) - len(shown),
        )
        drawn += figures
    return drawn


def _by_scope(rows: Rows) -> dict[str, dict[int, list[Mapping[str, Any]]]]:
    """By scope and class: its first words, best first; none that looks like nothing of a shortcut."""
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: (row["scope"], row["class"], row["rank"])):
        if row["rank"] < _FIRST and row["looks"] > 0:
            found.setdefault(row["scope"], {}).setdefault(row["class"], []).append(row)
    return found


def _class(study: StudyContext, images: ImageColumns, rows: Rows) -> ClassSuspects:
    layers = {layer.name: layer for layer in study.plan.layers}
    (scope,) = (scope for scope in read_scopes(study.folder) if scope.name == rows[0]["scope"])
    members = ScopeImages(images).members(scope)
    omega = members[(members >= study.plan.train_images) & (images.predicted[members] == rows[0]["class"])]
    pictures = SavedPictures(study.settings, study.folder)
    words = [_word(study, pictures, layers[row["layer"]], omega, row) for row in rows]
    return ClassSuspects(rows[0]["class_name"], tuple(words))


def _word(
    study: StudyContext,
    pictures: SavedPictures,
    layer: LayerPlan,
    omega: Int[np.ndarray, " n"],
    row: Mapping[str, Any],
) -> Suspect:
    maps = read_image_maps(study.folder, row["scope"], layer.name, omega, study.settings.extract).numpy()
    here = maps == row["word"]
    most = np.argsort(-here.sum(axis=(1, 2)), kind="stable")[:_PICTURES]
    shown = [SuspectPicture(pictures.read(int(omega[at])), _dots(study, layer, here[at])) for at in most]
    details = (
        f"{percent(row['image_share'])}, others {_share(row['other_share'])} · place {row['positional_entropy']:.2f} · "
        f"{row['drop']:.2f}, {_control(row)}"
    )
    return Suspect(f"{layer.given} word {row['word']}", row["used"], details, tuple(shown))


def _dots(study: StudyContext, layer: LayerPlan, here: np.ndarray) -> np.ndarray:
    """(n, 2): middles (x, y) of receptive fields."""
    y, x = here.nonzero()
    rows = position_centres(layer.pixels.rows, layer.height, study.plan.input_height)
    columns = position_centres(layer.pixels.columns, layer.width, study.plan.input_width)
    return np.stack([columns[x], rows[y]], axis=1)


def shortcut_table(rows: Rows) -> Table:
    """The first words of each class."""
    title = "the first words of each class by looks and use"
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    on_object = ["on object"] if any(row["share_on_object"] is not None for row in rows) else []
    texts, numbers = ("class", "layer", "used"), ("looks", "images", "others", "place", "drop", "control")
    for name in ("class", "layer", "word", "used", *numbers, *on_object):
        shown.add_column(name, justify="left" if name in texts else "right", no_wrap=name != "class", min_width=4)
    scopes = _by_scope(rows)
    for scope, firsts in scopes.items():
        for row in (row for words in firsts.values() for row in words):
            named = short_name(row["class_name"]) if row["rank"] == 0 else ""
            within = f" ({scope})" if len(scopes) > 1 and named else ""
            last = [_share(row["share_on_object"])] if on_object else []
            shown.add_row(Text(f"{named}{within}"), Text(row["layer"]), *_numbers(row), *last)
    return shown


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["word"]),
        "" if row["used"] is None else "yes" if row["used"] else "no",
        f"{row['looks']:.1f}",
        percent(row["image_share"]),
        _share(row["other_share"]),
        f"{row['positional_entropy']:.2f}",
        f"{row['drop']:.2f}",
        _control(row),
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _control(row: Mapping[str, Any]) -> str:
    return "–" if row["control"] is None else f"{row['control']:.2f}"

"""The figure and the terminal table of words on objects: what is drawn where, what is coloured, what is left out."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from rich.console import Console

from workflows.errors import RunFolderError
from workflows.report.parts_report import _figure, draw_parts_figure, parts_table
from workflows.storage.schemas import SCHEMAS

NAMES = ["tiger, Panthera tigris", "zebra", *(f"class {number}" for number in range(2, 9))]
TITLES = {"layer1": "add3", "layer4": "add16"}


def made_up_parts(
    classes: int = 2, parts: tuple[str, ...] = ("object", "head"), scopes: tuple[str, ...] = ("joint",)
) -> pa.Table:
    """Three words a layer: 0.5, 0.7 and 0.9 inside, together 0.7 in [0.6, 0.8]; the object takes 0.55, a part 0.9."""
    rows: list[dict[str, Any]] = []
    for scope in scopes:
        for graph in range(classes):
            for layer in ("layer4", "layer1"):
                for source in ("exemplars", "validation"):
                    for part in parts:
                        key = {
                            "graph": f"class:{graph}",
                            "scope": scope,
                            "layer": layer,
                            "source": source,
                            "part": part,
                        }
                        for word, share in ((4, 0.5), (9, 0.7), (2, 0.9), (None, 0.7)):
                            rows.append({**key, "word": word, **counted(share, 0.55 if part == "object" else 0.9)})
    return pa.Table.from_pylist(rows, SCHEMAS["boxes"])


def counted(share: float | None, area: float | None) -> dict[str, Any]:
    known = share is not None
    numbers = {"images": 10 * known, "images_without": 3, "positions": 100 * known, "inside": 70 * known}
    low, high = (share - 0.1, share + 0.1) if share is not None else (None, None)
    return {**numbers, "share": share, "share_low": low, "share_high": high, "area": area}


def printed(rows: pa.Table, colour: bool = True, titles: dict[str, str] = TITLES) -> str:
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=colour, color_system="standard" if colour else None)
    console.print(parts_table(rows, NAMES, titles))
    return written.getvalue()


def test_long_titles_are_folded_before_numbers_are_cut() -> None:
    text = printed(made_up_parts(), colour=False, titles=TITLES | {"layer4": "features.12.squeeze.activation"})
    assert "…" not in text
    for whole in ("object", "share, 95 %", "photos", "70 [60, 80]"):
        assert whole in text
    starts = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert "features.12.squeeze.activation" in "".join(starts)


def colours(panel: Axes) -> set[str]:
    return {to_hex(line.get_color()) for line in panel.lines}


def test_a_panel_a_part_and_source_with_words_sum_and_area() -> None:
    figure = _figure(made_up_parts().to_pylist(), "made-up", NAMES, TITLES)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["object", "head"] * 2
    for panel, area in zip(figure.axes, (0.55, 0.9) * 2, strict=True):
        assert [label.get_text() for label in panel.get_xticklabels()] == ["add3", "add16"]
        words = [line for line in panel.lines if len(line.get_ydata()) == 3]
        assert [line.get_ydata().tolist() for line in words] == [[0.5, 0.7, 0.9]] * 4
        together = [line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) == 1]
        assert together == [0.7] * 4
        heights = [segment[:, 1] for lines in panel.collections for segment in lines.get_segments()]
        np.testing.assert_allclose(heights, [[area, area], [0.6, 0.8]] * 4)
        assert len(colours(panel)) == 2


def test_nothing_of_a_panel_overlaps_another_class() -> None:
    figure = _figure(made_up_parts(classes=6).to_pylist(), "made-up", NAMES, TITLES)
    for panel in figure.axes:
        spans = [segment[:, 0] for lines in panel.collections[::2] for segment in lines.get_segments()]
        assert len(spans) == 12
        edges = np.array(sorted(span.tolist() for span in spans)).ravel()
        assert (np.diff(edges) > 0).all()


def test_more_classes_and_parts_than_fit_are_said_to_be_left_out(tmp_path: Path) -> None:
    many = made_up_parts(classes=9, parts=("object", "head", "tail", "ear", "wing"))
    draw_parts_figure(
        many, tmp_path / "a.png", tmp_path / "a.svg", network="made-up", class_names=NAMES, layer_titles=TITLES
    )
    texts = [
        "".join(node.itertext()) for node in ElementTree.parse(tmp_path / "a.svg").iter() if node.tag[-4:] == "text"
    ]
    assert any("the first 4 of 5 parts; the first 6 of 9 classes" in text for text in texts)
    assert "tiger" in texts
    assert "class 5" in texts
    assert "class 6" not in texts
    assert "wing" not in texts


def test_the_same_table_gives_the_same_bytes_an_empty_one_none(tmp_path: Path) -> None:
    words = {"network": "made-up", "class_names": NAMES, "layer_titles": TITLES}
    for name in "ab":
        draw_parts_figure(made_up_parts(), tmp_path / f"{name}.png", tmp_path / f"{name}.svg", **words)
    for ending in ("png", "svg"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    with pytest.raises(RunFolderError, match=r"the table of parts is empty: ask for class graphs with mine\.classes"):
        draw_parts_figure(made_up_parts(0), tmp_path / "c.png", tmp_path / "c.svg", **words)


def test_the_table_fits_80_columns_and_colours_what_is_certain() -> None:
    rows = made_up_parts(parts=("object", "front legs"))
    text, lines = printed(rows), printed(rows, colour=False).splitlines()
    assert "…" not in "".join(lines)
    of_objects = [line.split() for line in lines if "object" in line]
    numbers = ["70", "[60,", "80]", "55", "10", "(3)"] * 2
    assert of_objects == [["tiger", "object", *numbers], ["zebra", "object", *numbers]] * 2
    assert [line.strip() for line in lines if line.strip() in TITLES.values()] == ["add16", "add3"]
    assert len(re.findall(r"\x1b\[32m *70 \[60, 80\]", text)) == 8, "above the area of the object"
    assert len(re.findall(r"\x1b\[31m *70 \[60, 80\]", text)) == 8, "below that of the legs"


def test_parts_without_a_photo_are_dashes_scopes_told_apart() -> None:
    rows = made_up_parts(1, scopes=("joint", "list-cats")).to_pylist()
    rows = [row | counted(None, None) if row["part"] == "head" else row for row in rows]
    table = pa.Table.from_pylist(rows, SCHEMAS["boxes"])
    text = printed(table, colour=False)
    heads = [line.split() for line in text.splitlines() if "head" in line]
    assert heads == [["head", *["–", "–", "0", "(3)"] * 2]] * 4
    titles = [line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0] in TITLES.values()]
    assert titles == [[layer, scope] for scope in ("joint", "list-cats") for layer in ("add16", "add3")]
    figure = _figure([row for row in rows if row["scope"] == "joint"], "made-up", NAMES, TITLES)
    assert not figure.axes[1].collections

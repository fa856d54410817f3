"""The figure of shortcuts: what stands on it, and that nothing leaves the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.workflows.report.test_unit_figures import margins_are_white, texts
from workflows.report.shortcut_figure import ClassSuspects, Suspect, SuspectPicture, draw_shortcut_figure


def suspect(used: bool | None, pictures: int = 4, name: str = "add3 word 7") -> Suspect:
    random = np.random.default_rng(0)
    shown = tuple(
        SuspectPicture(random.integers(0, 255, (32, 40, 3), np.uint8), random.uniform(0, 32, (place, 2)))
        for place in range(pictures)
    )
    return Suspect(name, used, "44 %, others 1.2 % · place 0.21 · 1.20, 0.61", shown)


@pytest.mark.parametrize("left_out", [0, 7])
def test_a_row_a_class_with_its_first_words(tmp_path: Path, left_out: int) -> None:
    classes = [
        ClassSuspects("hen, bird", (suspect(True), suspect(False), suspect(None))),
        ClassSuspects("a $name$ that is far too long for a page " * 8, (suspect(True, 1, "layer " * 40),)),
        ClassSuspects("none", ()),
    ]
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_shortcut_figure(classes, png, svg, network="made $x$ up", words=3, pictures=4, left_out=left_out)
    shown = texts(svg)
    assert "made $x$ up: words that look like shortcuts" in shown
    assert {"hen", "none", "add3 word 7 · used", "add3 word 7 · not used", "add3 word 7"} <= set(shown)
    assert any(f"{left_out} more classes in the table" in text for text in shown) == (left_out > 0)
    assert margins_are_white(png)

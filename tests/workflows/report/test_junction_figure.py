"""What the figures of decision junctions and paths draw, and that nothing overlaps."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from PIL import Image

from tests.workflows.report.made_up_graphs import CIFAR_NAMES
from tests.workflows.report.made_up_paths import made_up_junction, made_up_path, made_up_path_junctions
from tests.workflows.report.test_graph_figure import outside, overlaps
from workflows.report.chain_view import JunctionView, PathView, chosen_levels
from workflows.report.junction_figure import draw_junction_figure, junction_page
from workflows.report.page import Page
from workflows.report.path_figure import draw_path_figure, path_page
from workflows.report.scatter import PALETTE

LONG_NAMES = tuple(f"three-toed sloth number {i} of a very long row, ai, Bradypus" for i in range(1000))
A4 = (1653, 2339)
EIGHT = [400, 300, 200, 150, 120, 90, 60, 30]
MANY = [*EIGHT, 12, 11, 10, 9]


def texts(page: Page, kind: str) -> list[str]:
    return [text for own, text, _ in page.boxes() if own == kind]


def lines(page: Page, panel: int = 0) -> dict[str, Line2D]:
    """Drawn marks of a scatter by label; of the crosses the black ones, which lie on top."""
    return {str(line.get_label()): line for line in page.figure.axes[panel].get_lines()}


def written_over(page: Page) -> list[str]:
    """Texts and pictures inside a scatter other than its tags."""
    frames = [panel.get_window_extent() for panel in page.figure.axes]
    return [
        f"{kind} {text!r}"
        for kind, text, box in page.boxes()
        for frame in frames
        if kind != "tag"
        and min(box.x1, frame.x1) - max(box.x0, frame.x0) > 0.5
        and min(box.y1, frame.y1) - max(box.y0, frame.y0) > 0.5
    ]


def assert_readable(page: Page) -> None:
    assert overlaps(page) == []
    assert outside(page) == []
    assert written_over(page) == []
    sizes = [artist.get_size() for artist in page.figure.get_children() if hasattr(artist, "get_size")]
    assert min(sizes) >= 5.0
    for panel in page.figure.axes:  # no scatter touches another one or a card's pictures
        frame = panel.get_window_extent()
        assert 0 < frame.x0 < frame.x1 < page.width_pixels
        assert 0 < frame.y0 < frame.y1 < page.height_pixels
    for one, two in combinations([panel.get_window_extent() for panel in page.figure.axes], 2):
        assert one.x1 < two.x0 or two.x1 < one.x0


@pytest.mark.parametrize(
    ("sizes", "errors"),
    [([5], 0), ([40, 30], 1), ([40, 30, 2], 7), ([90, 60, 30, 20], 13), (EIGHT, 0), (MANY, 30), ([1], 1), ([1, 1], 6)],
)
def test_nothing_overlaps_in_a_junction(sizes: list[int], errors: int) -> None:
    page = junction_page(made_up_junction(sizes, errors=errors), "made_up")
    assert_readable(page)
    assert page.width_pixels <= A4[0]
    assert page.height_pixels <= A4[1]


@pytest.mark.parametrize("options", [
    {"names": LONG_NAMES, "long": True},
    {"names": LONG_NAMES, "level": 3, "levels": 3},
    {"apart": 0.0},
    {"apart": 60.0},
    {"units": 1},
    {"word": 39_999},
])  # fmt: skip
@pytest.mark.parametrize("sizes", [[40, 30], MANY])
def test_unusual_junctions_do_not_overlap_either(options: dict, sizes: list[int]) -> None:
    assert_readable(junction_page(made_up_junction(sizes, errors=14, **options), "a_rather_long_name_of_a_run" * 8))


def test_a_junction_figure_says_what_it_shows() -> None:
    view = made_up_junction([300, 200, 2, 1], errors=14)
    page = junction_page(view, "made_up")
    assert texts(page, "heading")[0] == "Decision junction dense2 · word 17 → dense3"
    assert texts(page, "explained") == [
        "14 errors of the validation images decided here, 12 % of all · most often airplane taken for truck (7)"
    ]
    assert texts(page, "sub-cluster") == ["word 0", "word 1"]
    assert texts(page, "tag") == ["0", "1"]
    assert texts(page, "share") == ["60 % · 300", "40 % · 200"]
    expected = [f"{part.word.dominant_class} {part.word.dominant_share:.0%}" for part in view.subclusters]
    assert texts(page, "dominant") == [text.replace("%", " %") for text in expected]
    assert texts(page, "others") == ["2 other words, 0.6 % of members"]
    assert len([box for kind, _, box in page.boxes() if kind == "example"]) == 6
    assert texts(page, "label") == [example.label for part in view.subclusters for example in part.examples]
    assert len([box for kind, _, box in page.boxes() if kind == "error"]) == 12
    assert "Errors decided here, 12 of 14" in texts(page, "title")
    assert texts(page, "error label")[:2] == ["airplane", "→ truck"]
    assert texts(page, "axis") == ["↑ principal component", "discriminant →"]


def test_every_member_is_a_full_circle_and_every_error_a_cross() -> None:
    view = made_up_junction([300, 200, 2, 1], errors=14)
    drawn = lines(junction_page(view, "made_up"))
    assert set(drawn) == {"others", "sub-cluster 0", "sub-cluster 1", "errors"}
    for index, part in enumerate(view.subclusters):
        line = drawn[f"sub-cluster {index}"]
        np.testing.assert_array_equal(np.stack(line.get_data(), axis=1), part.points)
        assert to_hex(line.get_markerfacecolor()) == PALETTE[index]
        assert line.get_marker() == "o"
    np.testing.assert_array_equal(np.stack(drawn["errors"].get_data(), axis=1), [e.point for e in view.errors])
    assert drawn["errors"].get_marker() == "x"
    assert len(drawn["others"].get_xdata()) == 3


def test_errors_beyond_the_marked_ones_are_counted() -> None:
    page = junction_page(made_up_junction([30, 20], errors=3), "made_up")
    assert "Errors decided here" in texts(page, "title")
    assert "Crosses: misclassified validation images" in " ".join(texts(page, "legend"))
    assert "Crosses" not in " ".join(texts(junction_page(made_up_junction([30, 20]), "made_up"), "legend"))


def page_of(
    path: PathView, sizes: Sequence[int], *, names: Sequence[str] = CIFAR_NAMES, long: bool = False
) -> tuple[list[JunctionView], Page]:
    junctions = made_up_path_junctions(path, chosen_levels(path), sizes, names=names, long=long)
    return junctions, path_page(path, junctions)


@pytest.mark.parametrize(
    ("levels", "leaves", "sizes"),
    [(1, 2, [5]), (2, None, []), (3, 1, [40, 30]), (5, 3, MANY), (6, 7, MANY), (7, 4, [9, 1]), (12, 12, MANY)],
)
def test_nothing_overlaps_in_a_path(levels: int, leaves: int | None, sizes: list[int]) -> None:
    _, page = page_of(made_up_path(levels, leaves=leaves), sizes)
    assert_readable(page)
    assert page.width_pixels <= A4[0]
    if levels <= 7:
        assert page.height_pixels <= A4[1]


@pytest.mark.parametrize("levels", [2, 6])
@pytest.mark.parametrize("sizes", [[40, 30], MANY])
def test_long_names_do_not_overlap_in_a_path(levels: int, sizes: list[int]) -> None:
    path = made_up_path(levels, names=LONG_NAMES, long=True)
    _, page = page_of(path, sizes, names=LONG_NAMES, long=True)
    assert_readable(page)
    heading = texts(page, "heading")[0]
    assert heading.startswith("Inference path of image 4711, predicted three-toe")
    assert ", true label three-toe" in heading
    assert all("· word" in text for text in texts(page, "title")), "a layer's name gives way, the word stays"


def test_a_path_figure_says_what_it_shows() -> None:
    path = made_up_path(3, leaves=2, odds=[9.0, 4.0, 0.25])
    junctions, page = page_of(path, [40, 30, 20])
    assert texts(page, "heading") == [
        "Inference path of image 4711, predicted truck (62 %), true label airplane",
        "made_up · scope joint · log P(path) −0.73 nats",
    ]
    assert texts(page, "layer") == ["dense1", "dense2", "dense3", "output"]
    assert texts(page, "word") == ["word 11", "word 12", "word 13", "truck"]
    assert texts(page, "runner-up")[-3:] == ["over word 3", "by 0.25 nats", "the prediction"]
    assert texts(page, "departure") == ["leaves airplane", "not word 1: 2.50"]
    assert [view.level for view in junctions] == [1, 2, 3]
    assert texts(page, "title") == [
        "dense1 · word 11 → dense2",
        "dense2 · word 12 → dense3",
        "dense3 · word 13 → output",
    ]
    assert texts(page, "letter") == ["a", "b", "c", "a", "b", "c"]
    assert "expected of airplane" in texts(page, "mark")
    assert texts(page, "mark").count("★ this image") == 3
    assert "90 members · leaves the paths of airplane here" in texts(page, "detail")
    legend = " ".join(texts(page, "legend"))
    assert "Red: the first layer where the path leaves those of correctly classified airplane images." in legend
    assert "Red" not in " ".join(texts(page_of(made_up_path(3, leaves=None), [9, 8])[1], "legend"))


def test_the_own_subcluster_is_full_and_the_image_a_star() -> None:
    path = made_up_path(2, leaves=None)
    junctions, page = page_of(path, [*[20] * 12, 40])  # word 12 is the next word at level 1: the largest sub-cluster
    view, drawn = junctions[0], lines(page)
    assert view.subclusters[0].taken
    for index, part in enumerate(view.subclusters):
        line = drawn[f"sub-cluster {part.word.word}"]
        full = line.get_markerfacecolor() != "none"
        assert full == part.taken == (index == 0)
        assert to_hex(line.get_markerfacecolor() if full else line.get_markeredgecolor()) == PALETTE[index]
    np.testing.assert_array_equal(np.concatenate(drawn["image"].get_data()), view.image_point)
    assert drawn["image"].get_marker() == "*"
    keys = texts(page, "key")
    assert keys[: len(view.subclusters)] == ["●", *["○"] * 7]


def test_a_way_that_no_training_image_takes_is_told() -> None:
    path = made_up_path(2, leaves=2, expected=None)
    _, page = page_of(path, [40, 30])
    assert "no training image" in texts(page, "dominant")
    assert texts(page, "departure") == ["leaves airplane"]
    assert_readable(page)


def test_the_chain_marks_where_the_path_leaves_in_red() -> None:
    path = made_up_path(3, leaves=3)
    page = page_of(path, [40, 30])[1]
    red = [artist for artist in page.figure.get_children() if str(artist.get_label()) == "departure"]
    assert {artist.get_color() for artist in red} == {"#d1261f"}
    word = {text: box for kind, text, box in page.boxes() if kind == "word"}
    left = [box for kind, _, box in page.boxes() if kind == "departure"]
    assert all(abs((box.x0 + box.x1) - (word["word 13"].x0 + word["word 13"].x1)) < 4 for box in left)


def test_the_chosen_junctions() -> None:
    odds = [5.0, 1.0, 9.0, 0.5, 7.0, 3.0]
    assert chosen_levels(made_up_path(6, leaves=None, odds=odds)) == (1, 3, 5), "next words that won by least"
    assert chosen_levels(made_up_path(6, leaves=3, odds=odds)) == (1, 2, 3), "the one where it leaves comes first"
    assert chosen_levels(made_up_path(6, leaves=7, odds=odds)) == (1, 3, 6), "the prediction has no runner-up"
    assert chosen_levels(made_up_path(6, leaves=1, odds=odds)) == (1, 3, 5), "no junction below the first layer"
    assert chosen_levels(made_up_path(2, leaves=None)) == (1, 2)
    assert chosen_levels(made_up_path(6, leaves=3, odds=odds), wanted=1) == (2,)


def test_each_junction_has_its_own_call(tmp_path: Path) -> None:
    path = made_up_path(3)
    junctions = made_up_path_junctions(path, [1, 2], [9, 8])
    files = tmp_path / "a.png", tmp_path / "a.svg"
    with pytest.raises(ValueError, match="dense1 · word 11 explains one image: draw it with draw_path_figure"):
        draw_junction_figure(junctions[0], "made_up", *files)
    with pytest.raises(ValueError, match="must lie on the path of image 4711 and show it; got dense2 · word 17"):
        draw_path_figure(path, [made_up_junction([9, 8])], *files)
    with pytest.raises(ValueError, match="must show a junction of its path; got none"):
        draw_path_figure(path, [], *files)
    assert not list(tmp_path.iterdir())


def test_files_are_written_reproducibly_with_escaped_text(tmp_path: Path) -> None:
    names = ('<b>&"evil" $x_1$', *CIFAR_NAMES[1:])
    path = made_up_path(2, names=names)
    junctions = made_up_path_junctions(path, [1, 2], [30, 20, 10], names=names)
    for copy in ("a", "b"):
        draw_path_figure(path, junctions, tmp_path / f"path-{copy}.png", tmp_path / f"path-{copy}.svg")
        view = made_up_junction([30, 20, 10], names=names, errors=3)
        draw_junction_figure(view, "made_up", tmp_path / f"junction-{copy}.png", tmp_path / f"junction-{copy}.svg")
    for kind in ("path", "junction"):
        for ending in ("png", "svg"):
            pair = [(tmp_path / f"{kind}-{copy}.{ending}").read_bytes() for copy in "ab"]
            assert pair[0] == pair[1]
        root = ElementTree.parse(tmp_path / f"{kind}-a.svg")
        written = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert any('<b>&"evil" $x_1$' in text for text in written)
        with Image.open(tmp_path / f"{kind}-a.png") as picture:
            assert picture.mode == "RGB"

"""The report site in Debian's Chromium, from disk: what a reader sees, types, saves and links to.

Needs chromium (`apt-get install chromium`) and playwright (`pip install playwright`); axe-core comes from npm.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import command
from tests.workflows.site.named_run import LAYER, NAMES, WORD_NAME, renamed, site_of
from tests.workflows.site.test_site import mined
from workflows.cli.show import graph_content
from workflows.report.numbers import frequency, log_ratio, percent
from workflows.run import open_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
AXE = "axe-core@4.14.1"
AXE_RUN = """() => axe.run({preload: false}).then(result => result.violations.map(
    one => [one.id, one.nodes.map(node => node.html.slice(0, 160)).slice(0, 3)]
))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; skipped where it or playwright is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    program = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def sites(digits_run: Path, chain_run: Path, build_once: BuildOnce) -> dict[str, Path]:
    """Sites of a run with strange names, of one beside itself, and of a chain."""

    def named(root: Path) -> None:
        site_of(renamed(digits_run, root), root / "site")

    def beside(root: Path) -> None:
        assert command(["report", str(digits_run), "--beside", str(digits_run), "--out", str(root)]) == 0

    return {
        "named": build_once("browser-named", named) / "site",
        "beside": build_once("browser-beside", beside),
        "chain": build_once("browser-chain", lambda root: site_of(chain_run, root)),
    }


class Reader:
    """A page that notes everything that goes wrong."""

    def __init__(self, browser: Any, site: Path, size: dict[str, int] = WIDE, theme: str = "light") -> None:
        self.context = browser.new_context(viewport=size, color_scheme=theme, offline=True, accept_downloads=True)
        self.page, self.site, self.wrong = self.context.new_page(), site, list[str]()
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        self.page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"file://{self.site}/", "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")

    def open(self, route: str) -> Any:
        """Go to a route and wait until it is shown with its pictures."""
        self.page.evaluate("delete document.documentElement.dataset.shown")
        self.page.goto(f"file://{self.site}/index.html{route}")
        self.page.wait_for_selector("html[data-shown]")
        self.page.wait_for_timeout(400)
        return self.page


@pytest.fixture
def reader(browser: Any) -> Iterator[Any]:
    """Makes readers; at the end none may have met an error, a message or a request."""
    readers: list[Reader] = []

    def made(site: Path, size: dict[str, int] = WIDE, theme: str = "light") -> Reader:
        readers.append(Reader(browser, site, size, theme))
        return readers[-1]

    yield made
    for one in readers:
        one.context.close()
        assert one.wrong == []


def image_of(site: Path) -> int:
    """An image with a graph."""
    overview = re.search(r'"kind":"(c*)i', (site / "data" / "overview" / "all.js").read_text(encoding="utf-8"))
    assert overview is not None
    content = json.loads(
        "[" + re.findall(r'"number":\[([\d,]*)\]', (site / "data" / "overview" / "all.js").read_text())[0] + "]"
    )
    return int(content[len(overview.group(1))])


def routes(site: Path, kind: str) -> list[str]:
    """Every kind of page of a site."""
    if kind == "chain":
        wrong = re.findall(r'"triage":\{"image":\[(\d+)', (site / "data" / "junctions" / "all.js").read_text())[0]
        return ["#/", "#/class/1", "#/paths", f"#/path/{wrong}", "#/word/joint/relu1/0"]
    pages = [
        "#/",
        "#/class/3",
        "#/class/5?z=12&t=1",
        f"#/image/{image_of(site)}",
        f"#/word/joint/{LAYER}/1",
        "#/compare",
    ]
    return [*pages, "#/nothing", "#/class/99", "#/word/joint/__proto__/0", "#/constructor", "#/image/12345678"]


@pytest.mark.parametrize("kind", ["named", "beside", "chain"])
def test_every_page_opens_from_disk_in_silence(sites: dict[str, Path], reader: Any, kind: str) -> None:
    one = reader(sites[kind])
    for route in routes(sites[kind], kind):
        page = one.open(route)
        assert len(page.inner_text("h1")) > 1, route
        assert "could not be shown" not in page.inner_text("main"), route


def test_names_are_shown_as_text(sites: dict[str, Path], reader: Any) -> None:
    one = reader(sites["named"])
    page = one.open("#/")
    shown = page.eval_on_selector_all(".classes tbody th", "cells => cells.map(cell => cell.textContent)")
    assert shown == list(NAMES)
    assert page.evaluate("document.hacked") is None
    assert page.query_selector_all("main img[src=x], main b, main script") == []
    for label, name in enumerate(NAMES):
        assert one.open(f"#/class/{label}").inner_text("h1").split() == f"Class {name}".split()
        assert page.text_content(".node title").startswith(f"class {name}")
    assert WORD_NAME in one.open(f"#/word/joint/{LAYER}/1").inner_text("h1")
    page = one.open("#/")
    page.fill("#search", "斑马")
    rows = "rows => rows.filter(row => !row.hidden).map(row => row.querySelector('th').textContent)"
    assert page.eval_on_selector_all(".classes tbody tr", rows) == [NAMES[3]]


def test_numbers_are_those_of_show(sites: dict[str, Path], digits_run: Path, reader: Any) -> None:
    one, run = reader(sites["beside"]), open_run(digits_run)
    for graph, route in (
        ("class:3", "#/class/3"),
        (f"image:{image_of(sites['beside'])}", f"#/image/{image_of(sites['beside'])}"),
    ):
        content, page = graph_content(run, graph), one.open(route)
        box = page.query_selector(".graphbox")
        drawn = [edge for edge in content["edges"] if edge["drawn"] != "hidden"]
        expected = sorted((frequency(edge["relative_frequency"]), log_ratio(edge["log_ratio"])) for edge in drawn)
        labels = box.eval_on_selector_all(
            ".edgelabel", "labels => labels.map(label => label.textContent.split(/\\s+/))"
        )
        assert sorted(map(tuple, labels)) == expected
        strong = sum(edge["drawn"] == "strong" for edge in drawn)
        assert len(box.query_selector_all(".edge.strong")) == strong
        named = box.eval_on_selector_all(
            ".node", "nodes => nodes.map(node => [node.dataset.key, node.querySelector('title').textContent])"
        )
        labels_of = dict(named)
        for node in content["nodes"]:
            key = f"{node['layer']}:{node['word']}"
            if node["layer"] != "output":
                assert f"{percent(node['share'])} of positions" in labels_of[key]
                mostly = f"mostly {node['dominant_name']} ({percent(node['dominant_share'])})"
                assert mostly in labels_of[key]
        assert len(named) == len(content["nodes"])


def test_halves_are_rounded_as_in_the_terminal(sites: dict[str, Path], reader: Any) -> None:
    page = reader(sites["beside"]).open("#/")
    values = [
        0.125,
        0.375,
        0.005,
        0.625,
        2.5,
        0.135,
        1.005,
        0.045,
        3.0625,
        0.0,
        1.0,
        0.285,
        12.345,
        0.99,
        0.0995,
        0.09949,
    ]
    values += np.random.default_rng(0).random(200).round(3).tolist()
    shown = page.evaluate(
        "values => values.map(x => [IG.percent(x), IG.frequency(x), IG.ratio(x), IG.ratio(-x)])", values
    )
    assert shown == [[percent(x), frequency(x), log_ratio(x), log_ratio(-x)] for x in values]


def set_slider(page: Any, place: int, value: float) -> None:
    page.eval_on_selector_all(
        ".slider input",
        "(inputs, [place, value]) => { inputs[place].value = value; inputs[place].dispatchEvent(new Event('input')); }",
        [place, value],
    )
    page.wait_for_timeout(250)


def test_the_slider_gives_the_words_of_mining(sites: dict[str, Path], digits_run: Path, reader: Any) -> None:
    run, page = open_run(digits_run), reader(sites["beside"]).open("#/class/8")
    layers = ["output", *reversed(run.layers())]
    for top in range(1, 13):
        set_slider(page, 0, top)
        shown = set(page.eval_on_selector_all(".node", "nodes => nodes.map(node => node.dataset.key)"))
        expected = mined(run, "class:8", top)
        assert shown == {f"{layer}:{word}" for layer, words in zip(layers, expected, strict=True) for word in words}


def test_the_threshold_hides_arrows(sites: dict[str, Path], digits_run: Path, reader: Any) -> None:
    page = reader(sites["beside"]).open("#/class/3")
    edges = graph_content(open_run(digits_run), "class:3")["edges"]
    for value in (-1, 0, 1, 2):
        set_slider(page, 1, value)
        assert len(page.query_selector_all(".edge")) == sum(edge["log_ratio"] > value for edge in edges)


SEEN = """() => [
    document.querySelector('.inner').getAttribute('transform'),
    document.querySelector('.node.selected').dataset.key,
    document.querySelector('.details h2').textContent,
    document.querySelectorAll('.edge').length,
    document.querySelectorAll('.node').length,
]"""
"""Transform, selection, what the panel is about, arrows and words of a graph."""


def test_a_link_restores_the_view(sites: dict[str, Path], reader: Any) -> None:
    page = reader(sites["beside"]).open("#/class/3")
    set_slider(page, 0, 5)
    set_slider(page, 1, 0.5)
    page.click(".node:nth-of-type(4)")
    page.click("text=+")
    page.wait_for_timeout(400)
    before, link = page.evaluate(SEEN), page.url
    assert before[4] == 16
    assert len(link) - len(page.url.split("#")[0]) < 140
    fresh = reader(sites["beside"]).open("#" + link.split("#")[1])
    after = fresh.evaluate(SEEN)
    assert after[1:] == before[1:]
    numbers = [[float(x) for x in re.findall(r"-?[\d.]+", text)] for text in (before[0], after[0])]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.01)


def test_the_keyboard_reaches_everything(sites: dict[str, Path], reader: Any) -> None:
    page = reader(sites["beside"]).open("#/class/3")
    page.focus(".node[tabindex='0']")
    focused = "document.activeElement.dataset.key"
    assert page.evaluate(focused) == "output:3"
    page.keyboard.press("ArrowDown")
    first = page.evaluate(focused)
    assert first.startswith("layer3.0.add:")
    assert page.inner_text(".details h2") == f"Word {first.split(':')[1]} of add3"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) != first
    transform = "document.querySelector('.inner').getAttribute('transform')"
    whole = page.evaluate(transform)
    page.keyboard.press("+")
    larger = page.evaluate(transform)
    assert larger != whole
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert page.evaluate(transform) == whole
    page.keyboard.press("Escape")
    assert page.query_selector(".node.selected") is None
    page.keyboard.press("/")
    page.wait_for_selector("#search")
    page.wait_for_selector("#search:focus")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core; skipped where npm or the registry is absent."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, for axe-core")
    place = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(["npm", "pack", AXE, "--silent"], cwd=place, capture_output=True, text=True, check=False)
    if packed.returncode:
        pytest.skip(f"npm gives no axe-core: {packed.stderr.strip()[:200]}")
    subprocess.run(["tar", "xzf", packed.stdout.strip().splitlines()[-1]], cwd=place, check=True)
    return (place / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["named", "chain"])
def test_axe_finds_no_barriers(sites: dict[str, Path], reader: Any, axe: str, kind: str, theme: str) -> None:
    wide, narrow = reader(sites[kind], theme=theme), reader(sites[kind], NARROW, theme)
    pages = routes(sites[kind], kind)[:7]
    for one, route in [*((wide, page) for page in pages), *((narrow, page) for page in pages[:4])]:
        page = one.open(route)
        page.evaluate(axe)
        found = page.evaluate(AXE_RUN)
        assert found == [], (route, theme)


@pytest.mark.parametrize("kind", ["named", "beside", "chain"])
def test_a_narrow_screen_scrolls_one_way(sites: dict[str, Path], reader: Any, kind: str) -> None:
    one = reader(sites[kind], NARROW)
    for route in routes(sites[kind], kind):
        page = one.open(route)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], route
    page = one.open("#/class/1")
    assert page.is_visible(".aslist"), "a list instead of the drawing"
    assert not page.is_visible("svg.graph")


def test_saved_figures_hold_their_pictures(sites: dict[str, Path], reader: Any) -> None:
    page = reader(sites["named"]).open("#/class/3")
    with page.expect_download() as saving:
        page.click("text=SVG")
    text = Path(saving.value.path()).read_text(encoding="utf-8")
    assert saving.value.suggested_filename.endswith("-class-3-z3.svg")
    assert text.count("data:image/webp;base64,") >= 9 * 6
    assert "var(--" not in text
    assert not re.search(r'(?:href|src)="(?!data:)', text), "nothing outside the file"
    with page.expect_download() as saving:
        page.click("text=PNG")
    with Image.open(io.BytesIO(Path(saving.value.path()).read_bytes())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[0] > 800
    black = (pixels.sum(2) < 30).mean()
    assert black > 0.03, "digits stand on black: the exemplars are drawn"


def test_comparing_a_run_with_itself_finds_every_word(sites: dict[str, Path], reader: Any) -> None:
    page = reader(sites["beside"]).open("#/compare?a=joint%7Cclass%3A3&b=%40joint%7Cclass%3A3")
    assert "9 words in both, 0 only left, 0 only right; words are matched by overlap on 125 images" in page.inner_text(
        "main"
    )
    assert len(page.query_selector_all(".node.shared")) == 18
    assert "overlap 100 %" in page.text_content(".node.shared title")


def test_print_shows_the_graph_without_controls(sites: dict[str, Path], reader: Any) -> None:
    page = reader(sites["beside"], theme="dark").open("#/class/3")
    page.emulate_media(media="print")
    assert not page.is_visible(".tools")
    assert not page.is_visible(".top")
    assert page.is_visible("svg.graph")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"

"""The report site without a browser: chunks, numbers, names, what is missing, what is refused."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr

from gmm_ops.graphs.inference_graph import mine
from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import FIRST_LAYER, command, copy_until
from tests.workflows.site.named_run import LAYER, NAMES, WORD_NAME, renamed, site_of
from workflows.errors import RunFolderError
from workflows.figures.word_matching import match_words, resized
from workflows.run import Run, open_run
from workflows.site.chunks import read_chunk, script_string
from workflows.site.class_list import likeness
from workflows.site.site_folder import MARKER, write_shell
from workflows.storage.images_table import ImageColumns
from workflows.storage.tables import write_table
from workflows.words.mining import ScopeCounts

Content = dict[str, Any]


@pytest.fixture(scope="session")
def site(digits_run: Path, build_once: BuildOnce) -> Path:
    """The site of the small run on digits."""
    return build_once("digits-site", lambda out: site_of(digits_run, out))


@pytest.fixture(scope="session")
def named_site(digits_run: Path, build_once: BuildOnce) -> Path:
    """The same run with names that break pages, and its site in it."""

    def build(root: Path) -> None:
        site_of(renamed(digits_run, root), root / "site")

    return build_once("named-site", build) / "site"


def overview(site: Path) -> Content:
    found: Content = read_chunk(site / "data" / "overview" / "all.js")
    return found


def graphs(site: Path) -> dict[str, Content]:
    found = [read_chunk(path) for path in (site / "data" / "graph").glob("*.js")]
    return {content["graph"]: content for content in found}


def chosen(content: Content, top: int) -> list[list[int]]:
    """Words of each layer at some Z, best first."""
    ranked = content["ranked"][content["tops"].index(top)]
    return [[words[at] for at in places[:top]] for words, places in zip(content["words"], ranked, strict=True)]


def test_every_file_that_the_page_loads_is_there(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'(?:src|href)="((?!data:|#)[^"]+)"', page)
    assert len(loaded) > 15
    for name in loaded:
        assert (site / name).stat().st_size > 100, name
    assert "script-src 'self' file:" in page
    assert not re.search(r"<script(?![^>]* src=)|https?://", page), "no script in the page, nothing from elsewhere"
    chunks = list((site / "data").rglob("*.js"))
    assert len(chunks) > 90
    assert all(read_chunk(path) is not None for path in chunks)


def test_each_vendored_file_has_its_licence(site: Path) -> None:
    files = sorted((site / "vendor").glob("*.min.js"))
    assert len(files) == 9
    for path in files:
        assert "Copyright" in (site / "vendor" / path.name.replace(".min.js", ".LICENSE")).read_text()


def test_graphs_hold_the_numbers_of_the_tables(site: Path, digits_run: Path) -> None:
    run = open_run(digits_run)
    found = graphs(site)
    assert set(found) == set(run.graphs())
    for name in ("class:3", "class:8", next(graph for graph in run.graphs() if graph.startswith("image"))):
        content, graph = found[name], run.graph(name)
        nodes = {(layer, word): places for layer, places in _placed(content) for word, places in places.items()}
        for level, layer in enumerate(content["layers"]):
            own = sorted((known["rank"], word) for (of, word), known in graph.nodes(data=True) if of == layer)
            assert chosen(content, content["top"])[level] == [word for _, word in own]
        for (upper, lower), known in zip(graph.edges, graph.edges.values(), strict=True):
            level, (i, j) = content["layers"].index(upper[0]), (nodes[upper], nodes[lower])
            assert content["pairs"][level][i][j] == known["count"]
            assert content["ratios"][level][i][j] == pytest.approx(known["log_ratio"], rel=1e-6)
            assert known["count"] / content["sums"][level][i] == known["relative_frequency"]
            (sure,) = [one[4:] for one in content["intervals"] if one[:4] == [*upper, *lower]]
            assert sure[:2] == pytest.approx([known["log_ratio_low"], known["log_ratio_high"]], rel=1e-6, abs=1e-6)
            assert sure[2] == known["images"]
        again = {node: known["chosen_again"] for node, known in graph.nodes(data=True) if "chosen_again" in known}
        assert {(layer, word): share for layer, word, share in content["again"]} == again
        assert bool(again) == name.startswith("image")  # a class has fewer images than folds here
        for (layer, word), known in graph.nodes(data=True):
            level = content["layers"].index(layer)
            if not level:
                assert known["positions"] == content["omega"]
            else:
                assert content["positions"][level - 1][nodes[layer, word]] == known["positions"]
                assert known["positions"] / content["whole"][level - 1] == known["share"]


def _placed(content: Content) -> list[tuple[str, dict[int, int]]]:
    layers = zip(content["layers"], content["words"], strict=True)
    return [(layer, {word: place for place, word in enumerate(words)}) for layer, words in layers]


def mined(run: Run, graph: str, top: int) -> list[list[int]]:
    """Words of each layer, from the output down, as mining with that Z chooses them."""
    counted = ScopeCounts.load(run.folder, run.settings, run.plan, "joint")
    kind, _, number = graph.partition(":")
    if kind == "class":
        root, counts = int(number), counted.class_counts(int(number))
    else:
        root = int(ImageColumns.read(run.folder, 0, run.plan.images).predicted[int(number)])
        counts = counted.map_counts(counted.image_maps(int(number), root))
    found = mine(root, counts, counted.ratios, top, run.settings.mine.positive_only)
    return [[node.word for node in found.nodes_of(level)] for level in range(len(counts), -1, -1)]


def test_words_of_every_z_are_those_that_mining_chooses(site: Path, digits_run: Path) -> None:
    run, found = open_run(digits_run), graphs(site)
    image = next(graph for graph in found if graph.startswith("image"))
    for graph in ("class:0", "class:3", image):
        assert found[graph]["tops"] == list(range(1, 13))
        for top in range(1, 13):
            assert chosen(found[graph], top) == mined(run, graph, top), (graph, top)


def test_what_came_next_is_what_a_larger_z_chooses(site: Path) -> None:
    content = graphs(site)["class:3"]
    ranked = content["ranked"]
    first = [content["words"][1][at] for at in ranked[2][1]]
    assert len(first) == 3 + 4, "Z, and four below the cut"
    assert first == [content["words"][1][at] for at in ranked[6][1][:7]], "of the layer below the class, Z cuts a list"


def test_words_hold_the_numbers_of_the_tables(site: Path, digits_run: Path) -> None:
    run, about = open_run(digits_run), overview(site)
    number = about["words"]["first"][0][1] + 4
    word = read_chunk(site / "data" / "word" / f"{number}.js")
    assert (word["layer"], word["word"]) == (LAYER, 4)
    (row,) = run.table("words", filters=[("layer", "=", LAYER), ("word", "=", 4)]).to_pylist()
    assert word["row"]["columns"] == row["columns"] == sum(count for _, count in word["train"])
    wanted = [("lower_layer", "=", LAYER), ("lower_word", "=", 4)]
    above = sorted(
        -pair["log_ratio"] for pair in run.table("pairs", filters=wanted).to_pylist() if pair["class"] is None
    )[:8]
    assert [-ratio for *_, ratio in word["above"]] == pytest.approx(above, rel=1e-6)
    assert word["sheet"]["columns"] * word["sheet"]["rows"] >= len(word["exemplars"]) > 0


def test_the_overview_counts_what_the_images_table_says(site: Path, digits_run: Path) -> None:
    rows = open_run(digits_run).table("images", filters=[("split", "=", "validation")]).to_pylist()
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    about, listed = overview(site), read_chunk(site / "data" / "wrong" / "all.js")
    assert listed["image"] == [row["image"] for row in wrong]
    assert listed["total"] == len(wrong) == sum(count for *_, count in about["confusions"])
    assert sum(about["classes"]["right"]) == len(rows) - len(wrong)


def test_similar_graphs_stand_together() -> None:
    words = {0: {("a", 1), ("a", 2)}, 4: {("a", 7), ("a", 8)}, 5: {("a", 1), ("a", 2)}, 9: {("a", 7), ("a", 9)}}
    found = likeness(words)
    assert found["nearest"] == [5, 9, 0, 4]
    assert found["jaccard"] == pytest.approx([1, 1 / 3, 1, 1 / 3])
    places = dict(zip(found["class"], found["place"], strict=True))
    assert abs(places[0] - places[5]) == abs(places[4] - places[9]) == 1


@pytest.mark.parametrize("text", [*NAMES, "\\'", "\ud800", "\u2029\x00\n", "');alert(1)//"])
def test_any_text_comes_back_from_a_chunk(text: str, tmp_path: Path) -> None:
    path = tmp_path / "one.js"
    path.write_bytes(f"IG.put('a/b','{script_string([text])}');\n".encode())
    assert read_chunk(path) == [text]
    assert path.read_bytes().count(b"\n") == 1


def test_names_stay_data(named_site: Path) -> None:
    about = overview(named_site)
    assert about["classes"]["name"] == list(NAMES)
    assert about["names"] == [[0, LAYER, 1, WORD_NAME]]
    files = [path.name for path in named_site.rglob("*")]
    assert all(re.fullmatch(r"[\w.-]+", name) for name in files), "no name of a class or word is a name of a file"


def test_the_name_of_a_run_is_escaped_in_the_page(digits_run: Path, tmp_path: Path) -> None:
    write_shell(tmp_path, NAMES[7], NAMES[0])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert NAMES[7] not in page
    assert NAMES[0] not in page
    assert NAMES[7] in unescape(page)


def test_classes_that_are_asked_for_alone(digits_run: Path, tmp_path: Path) -> None:
    assert command(["report", str(digits_run), "--class", "3", "--out", str(tmp_path / "three")]) == 0
    found = graphs(tmp_path / "three")
    assert "class:3" in found
    assert "class:4" not in found
    about = overview(tmp_path / "three")
    assert len(list((tmp_path / "three" / "data" / "word").glob("*.js"))) == len(about["words"]["shown"]) < 75


def test_a_class_without_a_graph_is_told(chain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["report", str(chain_run), "--class", "1", "--class", "5", "--out", str(tmp_path / "site")]) == 0
    printed = capsys.readouterr().out
    assert "not shown: graph of class '5' (the run has none; mine.classes asks for graphs)" in " ".join(printed.split())
    assert "class '1'" not in printed


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a refused command says."""
    assert command(["report", *arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_bad_input_gets_one_clear_line(named_site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(named_site.parent)
    assert "holds no run" in told(capsys, str(tmp_path)) or "run.json" in told(capsys, str(tmp_path))
    assert "--class: there is no class '__prot__'; did you mean __proto__?" in told(capsys, run, "--class", "__prot__")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    words = told(capsys, run, "--out", str(tmp_path / "other"))
    assert "must be a new or empty folder or an earlier site" in words
    assert "thesis.tex" in words
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"
    (tmp_path / "file").write_text("")
    assert "must be a folder, got the file" in told(capsys, run, "--out", str(tmp_path / "file"))


def test_a_damaged_table_is_named_and_the_old_site_stays(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_until(digits_run, tmp_path / "run", "draw")
    out = tmp_path / "site"
    out.mkdir()
    (out / MARKER).write_text("")
    (out / "index.html").write_text("old")
    (run / "heatmaps.parquet").write_bytes(b"PAR1 cut off")
    words = told(capsys, str(run), "--out", str(out))
    assert "heatmaps.parquet" in words
    assert "damaged" in words
    assert (out / "index.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "site"], "nothing half built is left"


def test_an_unfinished_run_shows_what_is_there(digits_run: Path, tmp_path: Path) -> None:
    run = copy_until(digits_run, tmp_path / "run", "fit")
    site_of(run, tmp_path / "site")
    about = overview(tmp_path / "site")
    missing = dict(about["missing"])
    assert about["run"]["predictions"] == 125
    assert missing["inference graphs"] == "table nodes: the stage mine has not written it"
    assert "words and how pure they are" in missing
    assert about["graphs"]["number"] == []
    assert about["confusions"], "predictions are there"
    assert read_chunk(tmp_path / "site" / "data" / "scope" / "0.js")["history"], "and so are the fits"


def test_without_counts_a_graph_has_the_z_of_the_run(site: Path, digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run, ignore=shutil.ignore_patterns("cooccurrence", "words", "activations", "figures"))
    site_of(run, tmp_path / "site")
    own, whole = graphs(tmp_path / "site")["class:3"], graphs(site)["class:3"]
    assert own["tops"] == [own["top"]]
    assert chosen(own, own["top"]) == chosen(whole, own["top"])
    for level, words in enumerate(own["words"][:-1]):
        for i, upper in enumerate(words):
            assert own["sums"][level][i] == whole["sums"][level][whole["words"][level].index(upper)]


def test_pictures_that_are_gone_are_told(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_until(digits_run, tmp_path / "run", "draw")
    for path in (run / "pictures").glob("*.png"):
        path.write_bytes(b"no picture")
    broken = len(list((run / "pictures").glob("*.png")))
    assert command(["report", str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"not shown: {broken} pictures" in printed
    assert overview(run / "site")["missing"][-1][0] == f"{broken} pictures"


def test_the_site_is_replaced(digits_run: Path, tmp_path: Path) -> None:
    site_of(digits_run, tmp_path / "site")
    (tmp_path / "site" / "data" / "stale.js").write_text("")
    site_of(digits_run, tmp_path / "site")
    assert not (tmp_path / "site" / "data" / "stale.js").exists()


def test_words_of_two_runs_are_matched_by_what_they_cover(digits_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(digits_run, other, ignore=shutil.ignore_patterns("activations", "figures", "pictures"))
    array = zarr.open_array(other / "words" / "joint" / f"{FIRST_LAYER}.zarr", mode="r+")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).numpy()
    array[:] = np.where(array[:] < 0, -1, order[array[:]])
    matched = match_words(open_run(digits_run), open_run(other))
    assert matched["images"] == 125
    lowest = matched["layers"][0]
    assert lowest["names"] == [FIRST_LAYER, FIRST_LAYER]
    assert len(lowest["pairs"]) > 10
    assert all(match == order[word] and overlap == 1 for word, match, overlap in lowest["pairs"])


def test_maps_of_other_sizes_are_read_at_the_nearest_position() -> None:
    maps = np.arange(4).reshape(1, 2, 2)
    assert resized(maps, (4, 4))[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert resized(resized(maps, (4, 4)), (2, 2)).tolist() == maps.tolist()


def test_runs_without_common_images_are_refused(digits_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(digits_run, other, ignore=shutil.ignore_patterns("activations", "figures", "pictures", "words"))
    table = open_run(other).table("images")
    paths = pa.array([f"elsewhere{path}" for path in table["path"].to_pylist()])
    write_table(other / "images.parquet", table.set_column(table.column_names.index("path"), "path", paths), "images")
    with pytest.raises(RunFolderError, match="--beside: must be a run on some of the same validation images"):
        match_words(open_run(digits_run), open_run(other))


def test_paths_of_a_chain_hold_the_numbers_of_the_tables(chain_run: Path, tmp_path: Path) -> None:
    site_of(chain_run, tmp_path / "site")
    run = open_run(chain_run)
    content = read_chunk(tmp_path / "site" / "data" / "junctions" / "all.js")
    rows = run.table("junctions").sort_by("rank").to_pylist()
    assert [row["errors"] for row in content["junctions"]] == [row["errors"] for row in rows]
    assert [row["junction"] for row in content["junctions"]] == [row["junction"] for row in rows]
    wrong = run.table("triage", filters=[("split", "=", "validation")]).to_pylist()
    assert content["triage"]["image"] == sorted(row["image"] for row in wrong)
    paths = read_chunk(tmp_path / "site" / "data" / "path" / "0.js")
    image = content["triage"]["image"][0]
    steps = run.table("paths", filters=[("image", "=", image)]).sort_by("level").to_pylist()
    assert [step["word"] for step in paths[str(image)]["steps"]] == [row["word"] for row in steps]

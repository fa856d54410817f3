"""The front door to a finished run: what it gives, what it refuses, and that it agrees with the tables."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from workflows.errors import DataError, RunFolderError
from workflows.pipeline import STAGES
from workflows.run import Run, open_run
from workflows.storage.tables import read_table


@pytest.fixture(scope="module")
def run(digits_run: Path) -> Run:
    return open_run(digits_run)


def test_what_a_run_is_about(run: Run, digits_run: Path) -> None:
    assert run.classes() == tuple("0123456789")
    assert run.scopes() == ("joint",)
    assert run.layers() == tuple(layer.name for layer in run.plan.layers)
    assert repr(run).startswith(f"Run('{digits_run}': network digits, 625 images of 10 classes, layers layer1.0.add, ")
    assert run == open_run(str(digits_run))
    assert run.image(3) == open_run(digits_run).image(3)
    assert run.image(3) != run.image(4)


def test_a_graph_can_be_asked_and_written(run: Run, tmp_path: Path) -> None:
    graph = run.graph("class:3")
    assert set(run.graphs("joint")) == set(run.graphs())
    assert "class:3" in run.graphs()
    nodes = run.table("nodes", filters=[("graph", "=", "class:3")])
    assert sorted(graph) == sorted(zip(nodes["layer"].to_pylist(), nodes["word"].to_pylist(), strict=True))
    nx.write_graphml(graph, tmp_path / "three.graphml")
    back = nx.read_graphml(tmp_path / "three.graphml")
    assert (len(back), back.number_of_edges()) == (len(graph), graph.number_of_edges())
    assert run.figure("class:3").exists()


def test_rows_of_words_and_images(run: Run) -> None:
    top = run.plan.layers[-1]
    words = run.words(top.given, "joint")
    assert words.num_rows == top.words
    assert set(words["layer"].to_pylist()) == {top.name}
    assert run.words("output")["word"].to_pylist() == list(range(10))
    assert run.words().num_rows == sum(layer.words for layer in run.plan.layers) + 10
    record, rows = run.image(600), read_table(run.folder.images_table)
    assert (record.image, record.label_name, record.split) == (600, str(record.label), "validation")
    assert record.predicted == rows["predicted"][600].as_py()
    wrong = [name for name in run.graphs() if name.startswith("image:")]
    assert wrong
    assert any(run.image(int(name.removeprefix("image:"))).predicted_name is not None for name in wrong)


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda run: run.graph("3"), DataError, r"graph: must be class:<id or name> or image:<id>, got '3'"),
        (lambda run: run.graph("class:eleven"), DataError, r"class: there is no class 'eleven'"),
        (lambda run: run.graph("image:625"), DataError, r"image 625 is no image of this run; ids run from 0 to 624"),
        (
            lambda run: run.graph("class:3", "jont"),
            DataError,
            r"scope: the run has no scope 'jont'; did you mean joint",
        ),
        (lambda run: run.graph("image:0"), RunFolderError, r"has no graph 'image:0' of scope 'joint'"),
        (lambda run: run.image(-1), DataError, r"image -1 is no image of this run"),
        (lambda run: run.words("layer1.0.ad"), DataError, r"layer: the run does not model 'layer1.0.ad'; did you mean"),
        (lambda run: run.words(scope="x"), DataError, r"scope: the run has no scope 'x'; it has joint"),
        (lambda run: run.table("node"), DataError, r"table: must be one of infra/tables\.md, got 'node'; did you mean"),
        (lambda run: run.table("sweep"), RunFolderError, r"sweep\.parquet' is missing: run the stage that writes it"),
        (lambda run: open_run("nowhere"), RunFolderError, r"holds no run"),
    ],
)
def test_what_it_refuses(run: Run, ask, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ask(run)


def test_stages_and_their_files_are_the_same() -> None:
    folder = Path(__file__).resolve().parents[2] / "workflows" / "stages"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(STAGES)
    assert len(STAGES) == 11
    written = [name for stage in STAGES.values() for name in stage.writes]
    assert len(set(written)) == len(written), "each artefact has one writer"

"""The documents tell the truth: their code and queries run, their commands, links and names exist."""

from __future__ import annotations

import ast
import contextlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import duckdb
import nbformat
import pytest
from PIL import Image
from typer.main import get_command

from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import command, copy_until, run_arguments
from tests.workflows.studies.made_masks import dissecting
from tests.workflows.studies.trusted_run import trusting
from workflows.cli.app import app
from workflows.cli.options import find_preset
from workflows.pipeline import STAGES
from workflows.settings import Settings, load_settings
from workflows.storage.tables import SCHEMAS, schema_markdown

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    ROOT / name
    for name in (
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "infra/tables.md",
        "infra/cluster/README.md",
    )
) + tuple(sorted((ROOT / "infra" / "docs").glob("*.md")))
TABLES_PAGE = ROOT / "infra" / "tables.md"
GENERATED = "by `python -m tests.test_documents`. -->\n\n"
LONG = ("images_to_graph", "two_networks")
"""Notebooks that compute, and not only ask."""
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXAMPLE_RUN = "runs/digits"
CHAIN_RUN = "runs/cifar10-mlp"
"""The run folder that README and the cluster recipe query."""


@pytest.fixture(scope="session")
def asked_run(build_once: BuildOnce, digits_run: Path) -> Path:
    """The small run on digits, asked whether its graphs can be trusted; for reading only."""
    return build_once("digits-trusted", trusting(digits_run))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def relation(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=relation)


def executed(page: Path, run: Path) -> str:
    """What the Python of a page prints, its run folder replaced by this one."""
    code = "\n".join(blocks(page, "python")).replace(EXAMPLE_RUN, str(run))
    assert code
    with contextlib.redirect_stdout(StringIO()) as printed:
        exec(compile(code, page.name, "exec"), {})
    return printed.getvalue()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "infra/docs/queries.md"], ids=relation)
def test_the_python_of_the_pages_runs(page: Path, asked_run: Path) -> None:
    assert executed(page, asked_run) == ""


@pytest.mark.slow
def test_the_python_on_arrays_mines_a_graph(asked_run: Path) -> None:
    printed = executed(ROOT / "infra/docs/arrays.md", asked_run)
    edge = re.compile(r"layer ([12]) word (\d+) <- word (\d+): (-?\d+\.\d\d) bits")
    found = [edge.fullmatch(line) for line in printed.splitlines()]
    assert len(found) > 6, "three words a layer give at most 3 + 9 edges"
    assert all(found)
    top = [float(match[4]) for match in found if match and match[1] == "2"]
    assert len(top) == 3
    assert min(top) > 0, "the words that speak for a class are more frequent in it"


PAGES_OF_QUERIES = (
    "cluster/README.md",
    "docs/queries.md",
    "docs/dense_layers.md",
    "docs/completeness.md",
    "docs/shortcuts.md",
)


@pytest.mark.parametrize("page", [ROOT / "infra" / name for name in PAGES_OF_QUERIES], ids=relation)
def test_the_queries_run(page: Path, asked_run: Path, chain_run: Path) -> None:
    text = page.read_text(encoding="utf-8")
    queries = [query for block in blocks(page, "sql") for query in block.split(";") if query.strip()]
    queries += re.findall(r'duckdb\.sql\(\\"(.*?)\\"\)', text)
    assert queries
    for query in queries:
        here = re.sub(rf"(?:/shared/)?{EXAMPLE_RUN}", str(asked_run), query)
        rows = duckdb.sql(here.replace(CHAIN_RUN, str(chain_run))).fetchall()
        assert rows, query


@pytest.mark.slow
def test_the_queries_of_decision_words_run(digits_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    root = copy_until(digits_run, tmp_path / "run", "extract")
    decide = ("fit.loss=discriminative", "discriminative.epochs=1")
    assert command(run_arguments(root, digits_weights, *decide)) == 0
    for query in itertools.chain(*(block.split(";") for block in blocks(ROOT / "infra/docs/decision_words.md", "sql"))):
        assert not query.strip() or duckdb.sql(query.replace(EXAMPLE_RUN, str(root))).fetchall(), query


@pytest.mark.slow
def test_the_queries_of_dissect_run(build_once: BuildOnce, digits_run: Path) -> None:
    dissected = build_once("digits-dissected", dissecting(digits_run))
    queries = [query for block in blocks(ROOT / "infra/docs/dissect.md", "sql") for query in block.split(";")]
    for query in filter(str.strip, queries):
        assert duckdb.sql(query.replace(EXAMPLE_RUN, str(dissected))).fetchall(), query


@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in NOTEBOOKS]
)
def test_a_notebook_runs_and_defines_nothing(asked_run: Path, digits_run: Path, tmp_path: Path, path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for cell in code for node in ast.walk(ast.parse(cell.source)) if isinstance(node, defined)]
    assert not any(cell.outputs or cell.execution_count for cell in code), "clear the outputs before committing"
    executed = tmp_path / "executed.ipynb"
    # A process of its own: the kernel's client warns of things that are no business of this suite.
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", str(path), f"--output={executed}"],
        env={**os.environ, "INFERENCE_GRAPHS_RUN": str(asked_run), "INFERENCE_GRAPHS_OTHER": str(digits_run)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    outputs = [cell.outputs for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
    assert all(len(of_cell) == 1 for of_cell in outputs), "every cell shows one thing"
    shown = [of_cell[0].data for of_cell in outputs]
    assert any("image/png" in one for one in shown) or path.stem in ("images_to_graph", "two_networks")
    for table in (one["text/plain"] for one in shown if "┤" in one["text/plain"]):
        assert "│" in table.partition("┤")[2], "no row below the heading"


def test_the_page_of_tables_is_up_to_date() -> None:
    _, _, generated = TABLES_PAGE.read_text(encoding="utf-8").partition(GENERATED)
    assert generated == schema_markdown(), "run `python -m tests.test_documents` to write it again"
    assert generated.count("### ") == len(SCHEMAS) == 52, "the page of queries says up to fifty-two"


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@every_page
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:workflows|gmm_ops|tests|infra|notebooks)/[\w./*]+)`", text)
    for name in named:
        assert list(ROOT.glob(name.rstrip("/"))), name


@every_page
def test_no_page_names_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/tmp/|/root/|/home/\w+/(?!inference)|\b(?:10|192|172)\.\d+\.\d+\.\d+", text)


def commands(text: str) -> Iterator[list[str]]:
    """Every ``inference-graphs ...`` of a page or manifest, as arguments."""
    joined = text.replace("\\\n", " ")
    for line in re.findall(r"(?:^|\n|-- )[ ]*(?:entrypoint: )?inference-graphs ([^`\n#]+)", joined):
        yield shlex.split(line)
    for line in re.findall(r"`inference-graphs ([^`]+)`", joined):
        yield shlex.split(line)


def test_named_tests_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    lost = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^ *def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert not lost


@pytest.mark.parametrize("page", [*PAGES, ROOT / "infra/cluster/rayjob.yaml"], ids=relation)
def test_commands_exist(page: Path) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    for arguments in commands(page.read_text(encoding="utf-8")):
        name, *rest = arguments
        options = {option for parameter in known[name].params for option in parameter.opts}
        given = [argument for argument in rest if argument.startswith("--") and argument != "--help"]
        assert set(given) <= options, arguments
        if name == "run" and "--help" not in rest and not rest[0].endswith((".toml", "PRESET")):
            overrides = [value for option, value in itertools.pairwise(rest) if option == "--set"]
            assert isinstance(load_settings(find_preset(rest[0]), overrides), Settings)


def test_the_pages_hold_commands() -> None:
    found = [list(commands((ROOT / page).read_text())) for page in ("README.md", "infra/cluster/README.md")]
    assert all(len(of_page) >= 4 for of_page in found), "the pattern of commands() finds what a reader sees"


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_the_readme_begins_with_the_two_commands() -> None:
    found = re.findall(r"^    (make [\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert found[:2] == ["make demo", "make test"]


def test_the_readme_names_every_preset_and_artefact() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for preset in (ROOT / "infra" / "presets").glob("*.toml"):
        assert f"`{preset.stem}`" in text
    for stage in STAGES.values():
        for name in stage.writes:
            assert name in text
    for package in ("workflows", "gmm_ops"):
        for room in (ROOT / package).iterdir():
            if (room / "__init__.py").exists():
                assert f"{room.name}/" in text
    assert text.count("\n") <= 150, "measurements and how-tos belong in infra/docs"


def test_the_picture_can_be_read_on_a_page() -> None:
    paths = list((ROOT / "infra" / "pictures").glob("*.png"))
    assert len(paths) == 4
    for path in paths:
        with Image.open(path) as picture:
            assert 900 <= picture.width <= 1300
        assert path.stat().st_size < 500_000


def write_tables_page() -> None:
    """Write the generated part of the page of tables again."""
    head, marker, _ = TABLES_PAGE.read_text(encoding="utf-8").partition(GENERATED)
    assert marker, f"{TABLES_PAGE} has lost its marker line"
    TABLES_PAGE.write_text(head + marker + schema_markdown(), encoding="utf-8")


if __name__ == "__main__":
    write_tables_page()

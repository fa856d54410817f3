"""A query reads the tables of its run and nothing else; a mistake is told with what there is."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.small_digits import command
from tests.workflows.queries.hostile import HOSTILE
from workflows.queries import asking_sql, confined
from workflows.queries.asking_sql import QueryError, query, tables_of
from workflows.queries.examples import EXAMPLES
from workflows.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def own_run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: what hostile statements find could be written over."""
    return Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("asked") / "run"))


def fingerprints(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*.parquet"))}


def test_hostile_statements_are_refused(own_run: Path, tmp_path: Path) -> None:
    assert len(HOSTILE) >= 60
    tables = tables_of(RunFolder.open(own_run))
    before = fingerprints(own_run)
    secret_of_the_caller = duckdb.sql("SELECT 42 AS secret")
    assert secret_of_the_caller.fetchall() == [(42,)]
    answered = []
    for template in HOSTILE:
        sql = template.format(file=tables["nodes"], out=tmp_path / "written")
        connection = confined.connect(tables, "200MB", 5)
        try:
            answered.append((sql, confined.answer(connection, sql).read_all()))
        except (duckdb.Error, confined.RefusedStatement):
            continue
        finally:
            connection.close()
    assert answered == []
    assert list(tmp_path.iterdir()) == []
    assert fingerprints(own_run) == before


def test_statements_without_end_are_ended(own_run: Path) -> None:
    folder = RunFolder.open(own_run)
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range + b.range = 7"
    for sql, told in (
        (endless, "the statement was ended after 1 s: ask for less at once, or give more time with --seconds"),
        ("SELECT length(repeat('x', 4000000000))", "the statement took more memory than a query has"),
    ):
        with pytest.raises(QueryError, match=told), query(folder, sql, seconds=1):
            pass


@pytest.mark.parametrize("number", range(1, 11))
def test_the_ten_questions_have_answers(own_run: Path, number: int) -> None:
    connection = confined.connect(tables_of(RunFolder.open(own_run)), "1GB", 20)
    assert len(confined.answer(connection, EXAMPLES[number - 1].sql).read_all())


def test_what_is_shown_is_what_the_tables_hold(
    own_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.parquet"
    assert command(["query", str(own_run), "SELECT * FROM nodes", "--format", "parquet", "--out", str(out)]) == 0
    assert pq.read_table(out).to_pylist() == pq.read_table(own_run / "nodes.parquet").to_pylist()
    capfd.readouterr()
    sql = "SELECT graph, count(*) AS n, 'nan'::DOUBLE AS nothing FROM nodes GROUP BY ALL ORDER BY graph"
    assert command(["query", str(own_run), sql, "--format", "json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows[0]["graph"] == "class:0"
    assert rows[0]["nothing"] is None
    assert sum(row["n"] for row in rows) == len(pq.read_table(own_run / "nodes.parquet"))
    assert command(["query", str(own_run), "SELECT 1 AS one, 'a,b' AS two", "--format", "csv"]) == 0
    assert capfd.readouterr().out == '"one","two"\n1,"a,b"\n'
    assert command(["query", str(own_run), "SELECT word FROM nodes", "--rows", "2"]) == 0
    assert "2 of them shown: --rows" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["SELECT foo FROM nodes"], 'Referenced column "foo" not found'),
        (["SELECT foo FROM nodes"], "nodes has: graph, scope, criterion, layer, word, rank"),
        (["SELECT * FROM nods"], "tables: images, nodes, edges"),
        (["DROP TABLE nodes"], "only statements that read are answered, such as SELECT, got DROP"),
        ([], "query: give one of a statement, --schema, --examples and --example N"),
        (["SELECT 1", "--format", "parquet"], "query: --format parquet needs a file to write: give --out FILE"),
        (["SELECT [1] AS many", "--format", "csv"], "CSV cannot hold many, whose values are lists"),
    ],
)
def test_mistakes_are_told(own_run: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert command(["query", str(own_run), *arguments]) == 2
    assert told in " ".join(capfd.readouterr().err.split())


def test_values_of_json_are_numbers_and_none_is_lost(own_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT sum(word) AS n, 1 AS q, 2 AS q, MAP {'a': 'nan'::DOUBLE} AS m FROM nodes"
    assert command(["query", str(own_run), sql, "--format", "json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert isinstance(row["n"], int)
    assert (row["q"], row["q_2"]) == (1, 2)
    assert "NaN" not in json.dumps(row["m"])


def test_the_ending_says_the_format(own_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for ending, begin in ((".parquet", b"PAR1"), (".csv", b'"one"'), (".json", b"[")):
        out = tmp_path / f"rows{ending}"
        assert command(["query", str(own_run), "SELECT 1 AS one", "--out", str(out)]) == 0
        assert out.read_bytes().startswith(begin)
    assert command(["query", str(own_run), "SELECT 1", "--out", str(tmp_path / "rows.txt")]) == 2
    assert "query: --out must end in .csv, .json or .parquet" in capfd.readouterr().err.replace("\n", " ")


def test_too_many_rows_are_told(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_sql, "RESULT_BYTES", 1 << 20)
    told = pytest.raises(QueryError, match=r"the rows take more than 0.000977 GB: ask for fewer")
    with told, query(RunFolder.open(own_run), "SELECT range AS n FROM range(1000000)"):
        pass


def test_code_of_the_current_folder_is_not_run(own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "duckdb.py").write_text("raise SystemExit('run')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with query(RunFolder.open(own_run), "SELECT 1 AS one") as reader:
        assert reader.read_all().to_pylist() == [{"one": 1}]


def test_a_damaged_table_is_named(own_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(own_run, tmp_path / "run"))
    (root / "edges.parquet").write_bytes(b"no table")
    assert command(["query", str(root), "SELECT 1"]) == 2
    assert "edges.parquet' is damaged" in " ".join(capfd.readouterr().err.split())


def test_the_schema_and_the_questions_are_printed(own_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(["query", str(own_run), "--schema"]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "pairs (" in told
    assert "P(t|s)/P(t)" in told
    assert command(["query", str(own_run), "--examples"]) == 0
    assert capfd.readouterr().out.count("\n-- ") == 9

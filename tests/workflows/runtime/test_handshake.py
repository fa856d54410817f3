from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import gmm_ops
import workflows
from workflows.runtime.handshake import Terms, prove
from workflows.runtime.nodes import root_cause
from workflows.versions import PACKAGES, versions


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    return Terms.of(tmp_path / "run" / "run.json")


def test_the_same_installation_proves_itself_and_leaves_nothing(terms: Terms, tmp_path: Path) -> None:
    assert prove(terms) == ""
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ["code", "python", "torch", "numpy", "numba"])
def test_another_version_is_refused_with_both_values(terms: Terms, name: str) -> None:
    other = replace(terms, versions=versions() | {name: "0.0"})
    assert prove(other).startswith(
        f"must have the driver's versions, got {name}: the driver has '0.0', it {versions()[name]!r}; install the same"
    )


def test_a_folder_that_is_another_or_none_is_refused(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.runtime.handshake._LATE_S", 0.0)
    assert terms.seen is not None
    terms.seen.write_text("{'a': 'local folder of the same name'}")
    assert "as the driver does, got a file with other content; mount the run folder" in prove(terms)
    terms.seen.unlink()
    words = prove(terms)
    assert words.startswith(f"must see {str(terms.seen)!r} as the driver does, got FileNotFoundError (No such file")


def test_a_folder_that_cannot_be_written_is_refused(terms: Terms) -> None:
    assert terms.seen is not None
    # Root may write anywhere, so the proof is asked of somebody else.
    code = (
        "import os, pickle, sys; from workflows.runtime.handshake import prove, versions; versions();"
        " terms = pickle.load(sys.stdin.buffer); os.geteuid() or os.setuid(65534); print(prove(terms))"
    )
    for folder in (one for one in terms.seen.parents if "pytest-" in str(one)):
        folder.chmod(0o555 if folder == terms.seen.parent else 0o755)
    asked = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(terms), capture_output=True, check=True)
    assert f"must be able to write in {str(terms.seen.parent)!r}, got PermissionError (Permission" in str(asked.stdout)


def test_the_hash_is_that_of_all_sources(tmp_path: Path) -> None:
    """Of a copy it is the same; one other byte, in either package, changes it."""
    for package in (gmm_ops, workflows):
        source = Path(next(iter(package.__path__)))
        shutil.copytree(source, tmp_path / package.__name__, ignore=shutil.ignore_patterns("__pycache__", "*.nb*"))

    def code_of_copy() -> str:
        told = [sys.executable, "-c", "from workflows.versions import versions; print(versions()['code'])"]
        surroundings = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            told, env=surroundings, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert code_of_copy() == versions()["code"]
    for package in PACKAGES:
        with (tmp_path / package / "errors.py").open("a") as file:
            file.write("# another\n")
        assert code_of_copy() != versions()["code"]


def test_the_root_cause_of_a_ray_error_has_no_colours() -> None:
    told = (
        "The actor died because of an error raised in its creation task, \x1b[36mray::ActorProcess.__init__()\x1b[39m "
        '(pid=17400, ip=10.0.0.2)\n  File "<frozen importlib>", line 1\n           ^^^^^^\n'
        "ModuleNotFoundError: No module named 'workflows'"
    )
    assert root_cause(RuntimeError(told)) == "ModuleNotFoundError: No module named 'workflows'"
    assert root_cause(RuntimeError("\x1b[31mkilled\x1b[0m")) == "killed"

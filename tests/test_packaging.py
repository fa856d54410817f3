"""What stands beside the code agrees with it: versions, the citation, the checks that GitHub runs, names of tests."""

from __future__ import annotations

import ast
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
NAME_LENGTH = 60
"""Characters of a test's name at most: a failure is told in one line."""


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return found


def supported_pythons() -> list[str]:
    prefix = "Programming Language :: Python :: "
    return [entry.removeprefix(prefix) for entry in project()["classifiers"] if entry.startswith(prefix)]


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project()["version"]
    assert citation["license"] == project()["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project()["authors"]]
    assert date.fromisoformat(citation["date-released"]) >= date(2026, 11, 28)
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text()
    assert [author["family-names"] for author in paper["authors"]] == ["Konforti", "Shpigler", "Lerner", "Bar-Hillel"]


def test_github_runs_lint_docs_and_tests_on_every_python() -> None:
    jobs = workflow()["jobs"]
    assert jobs.keys() == {"lint", "tests", "docs"}
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported_pythons() == ["3.11", "3.12", "3.13"]
    assert project()["requires-python"] == f">={supported_pythons()[0]}"


def test_github_calls_targets_that_exist_and_torch_for_cpus() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, job in workflow()["jobs"].items():
        commands = [step["run"].split() for step in job["steps"] if "run" in step]
        assert [words[0] for words in commands] == ["make"] * 2, name
        assert {words[1] for words in commands} <= targets
        assert commands[0][1] == "install"
        # A variable of the repository says where builds without CUDA lie; unset, pip's own index is asked.
        assert "TORCH_INDEX=${{ vars.TORCH_INDEX }}" in " ".join(commands[0])


def test_torch_of_the_makefile_is_that_of_the_project() -> None:
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("TORCH "))
    assert set(re.findall(r'"(torch[^"]*)"', line)) == {
        entry for entry in project()["dependencies"] if entry.startswith("torch")
    }


def test_names_of_tests_fit_a_line() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > NAME_LENGTH
    ]
    assert not found

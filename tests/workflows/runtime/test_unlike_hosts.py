"""Hosts with other code, without the project, the folder or the images; one that joins, is lost, or stands still."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).resolve().parents[3]


def may_mount() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run(["unshare", "-m", "true"], check=False).returncode


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``node_trials`` saw, by trial."""
    if not may_mount():
        pytest.skip("needs leave to make mount namespaces")
    folder = tmp_path_factory.mktemp("hosts")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_AUTH_MODE": "disabled"}
    arguments = [sys.executable, "-m", "tests.workflows.runtime.node_trials", str(folder)]
    # Elsewhere than in the project, which Ray would show to every worker.
    ended = subprocess.run(
        arguments, env=environment, cwd=folder, capture_output=True, text=True, timeout=580, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return json.loads((folder / "told.json").read_text())


def one_with(words: list[str], *parts: str) -> str:
    (found,) = [line for line in words if all(part in line for part in parts)]
    return found


def test_hosts_that_cannot_do_the_work_get_none_of_it(told: dict[str, Any]) -> None:
    seen, words = told["strange_hosts"], told["warnings"]["strange_hosts"]
    assert seen["used"] == ["good"]
    assert seen["items"] == 8
    assert len(words) == 4
    by_kind = {kind: one_with(words, name[:8]) for name, kind in seen["names"].items() if kind != "good"}
    assert all(line.startswith("node ") and "is not used: " in line for line in words)
    assert "must have the driver's versions, got code: the driver has '" in by_kind["code"]
    assert "ModuleNotFoundError: No module named 'workflows" in by_kind["project"]
    assert "run.json' as the driver does, got FileNotFoundError" in by_kind["folder"]
    assert "must be able to write in" in by_kind["write"]
    assert "Read-only file system" in by_kind["write"]
    assert not any("\x1b" in line for line in words)


def problems(seen: dict[str, Any], host: str) -> dict[str, list[str]]:
    (found,) = [node["problems"] for node in seen["nodes"] if f", {host[:8]})" in node["name"]]
    return found


def test_a_check_tells_before_any_work_what_is_wrong_where(told: dict[str, Any]) -> None:
    seen, names = told["strange_hosts"]["check"], told["strange_hosts"]["names"]
    assert (seen["code"], seen["fit"]) == (2, False)
    assert len(seen["nodes"]) == 6, "the head, which has no cores, is asked as well"
    found = {kind: problems(seen, name) for name, kind in names.items()}
    assert found["good"] == {}
    assert {kind: list(of_kind) for kind, of_kind in found.items() if kind != "good"} == {
        "code": ["code"],
        "project": ["code"],
        "folder": ["folder"],
        "write": ["folder"],
    }
    assert "must have the driver's versions, got code: the driver has '" in found["code"]["code"][0]
    assert "must have this project, got ModuleNotFoundError" in found["project"]["code"][0]
    assert "as the driver does, got FileNotFoundError" in found["folder"]["folder"][0]
    assert "Read-only file system" in found["write"]["folder"][0]
    assert seen["left"] == ["run.json"], "the check leaves nothing"


def test_a_check_sees_that_a_host_has_no_images(told: dict[str, Any]) -> None:
    seen = told["blind_host"]["check"]
    assert problems(seen, told["blind_host"]["blind"]).keys() == {"images"}
    (words,) = problems(seen, told["blind_host"]["blind"])["images"]
    assert "images/1', got FileNotFoundError" in words
    assert sum(bool(node["problems"]) for node in seen["nodes"]) == 1


def test_a_host_that_joins_gets_work_and_may_be_lost(told: dict[str, Any]) -> None:
    seen = told["late_host"]
    assert seen["items"], "all are done"
    assert seen["lost_after"], "the late host has done some"
    assert seen["attempts"] == [1], "with one attempt allowed: the lost node was none"


def test_a_host_that_does_not_see_the_images_is_avoided(told: dict[str, Any]) -> None:
    seen, words = told["blind_host"], told["warnings"]["blind_host"]
    assert seen["items"] == 20
    assert seen["avoided"] == seen["avoided by reduction"] == [seen["blind"]]
    assert seen["sum"] == 20
    assert seen["fits"] == 4
    line = one_with(words, seen["blind"][:8])
    assert "gets no more work: 2 failures in a row there, last: FileNotFoundError" in line


def test_an_actor_that_stands_still_is_noticed(told: dict[str, Any]) -> None:
    assert (told["stopped_actor"]["items"], told["stopped_actor"]["attempts"]) == (8, 2)
    line = one_with(told["warnings"]["stopped_actor"], "overdue")
    assert line.startswith("shard 5 is overdue: it was still at work after 3 s and was stopped on node ")

"""What is asked of every node before a run; unlike hosts: ``tests/workflows/runtime/test_unlike_hosts``."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.end_to_end.small_digits import command
from workflows.runtime.handshake import Terms
from workflows.runtime.preflight import CHECKS, Post, Wanted, inspect
from workflows.storage.object_store import size_when_read, upload

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").write_bytes(b"12345")
    return tmp_path / "images"


def check(root: Path, images: Path, *more: str) -> int:
    fields = ("data.source=folders", f"data.folders={json.dumps([str(images)])}", *more)
    return command(["check", "digits", "--out", str(root), *(part for field in fields for part in ("--set", field))])


def test_a_fit_node_is_a_row_and_nothing_stays(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path / "runs" / "new", images) == 0
    told = capsys.readouterr().out
    assert "1 node asked, nothing is wrong" in told
    assert told.count(" ok") == 4, told
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_what_a_node_lacks_is_a_line_each_and_the_exit_code(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path / "new", images, "runtime.threads=3", "runtime.device=cuda") == 2
    told = capsys.readouterr().out
    assert "cores: must have those of an actor (runtime.threads = 3), got 2; lower runtime.threads" in told
    assert "GPUs: must have a GPU for runtime.device = 'cuda', got none that Ray knows; set it to 'auto'" in told
    assert "1 node asked, 1 with problems; a run has none" in told


def test_a_folder_without_images_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "new", tmp_path / "none") == 2
    assert "must be a folder with images here, got none; correct the setting" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_node_says_what_it_lacks_with_both_numbers(tmp_path: Path, images: Path) -> None:
    seen = tmp_path / "seen"
    seen.write_text("1")
    inputs = tuple((str(images / name), size) for name, size in (("cat/1.png", 5), ("dog/1.png", 6), ("bird.png", 5)))
    said = inspect(Wanted(Terms.of(seen), inputs, size_when_read, disk=10**18, memory=10**15))
    found = said["problems"]
    assert {check for check in CHECKS if found.get(check)} == {"images", "disk", "memory"}
    assert "dog/1.png' with 6 bytes, got 5 (and 1 more); mount the images and weights" in found["images"][0]
    assert found["disk"][0].startswith(f"must have 1e+06 TB free at {str(tmp_path)!r}, got ")
    assert "must have 1e+03 TB of free memory, got " in found["memory"][0]
    assert 0 < said["disk"] < 10**18


def test_images_in_a_store_are_looked_at_by_the_node(tmp_path: Path, images: Path, bucket: str) -> None:
    (tmp_path / "seen").write_text("1")
    uris = [f"{bucket}/checked/{name}/1.png" for name in ("cat", "dog")]
    for uri in uris:
        upload(images / "cat" / "1.png", uri)
    terms = Terms.of(tmp_path / "seen")
    assert inspect(Wanted(terms, tuple((uri, 5) for uri in uris), size_when_read))["problems"]["images"] == []
    lost = ((uris[0], 6), (f"{bucket}/checked/bird.png", 5))
    (told,) = inspect(Wanted(terms, lost, size_when_read))["problems"]["images"]
    assert f"must read {uris[0]!r} with 6 bytes, got 5 (and 1 more)" in told


def test_a_port_that_nobody_opens_is_told() -> None:
    post, caller = Post(), Post()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    try:
        host, port = post.open()
        assert caller.call([("node a", host, port)]) == []
        (words,) = caller.call([("node a", host, port), ("node b", "127.0.0.1", closed)])
    finally:
        post.close()
    assert words.startswith(f"must reach node b at port {closed}, one of those that the system gives, got ")
    assert words.endswith("; open all ports between the nodes")

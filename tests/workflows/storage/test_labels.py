"""labels.csv: users' names of words, read and shown, or refused with the line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.small_digits import command
from workflows.errors import DataError
from workflows.run import open_run
from workflows.storage.labels import read_labels
from workflows.storage.run_folder import RunFolder


def test_names_are_those_of_the_scope(tmp_path: Path) -> None:
    lines = ["scope,layer,word,name", 'joint,add3,7,"a loop, open"', "joint,layer2.0.add,1, 猫", "class-3,add3,7,x"]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "joint,add3,8,\n"]), encoding="utf-8")
    found = read_labels(RunFolder(tmp_path), "joint", {"add3": "layer3.0.add"})
    assert found == {("layer3.0.add", 7): "a loop, open", ("layer2.0.add", 1): "猫"}
    assert read_labels(RunFolder(tmp_path / "none"), "joint") == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"joint,add3,7,wheel\njoint,add3,8,x\n", "line 2 must have the columns scope, layer, word, name"),
        (b"scope,layer,word,name\njoint,add3\n", "line 2 must have the columns"),
        (b"scope,layer,word,name\njoint,add3,7,a loop, open\n", "put a name with a comma into quotes"),
        (b"scope,layer,word,name\njoint,add3,seven,x\n", "line 2: word must be a number from 0, got 'seven'"),
        (b"scope,layer,word,name\njoint,add3,7,\xff\n", "must be a CSV file in UTF-8"),
    ],
)
def test_a_damaged_file_names_the_line(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text)
    with pytest.raises(DataError, match=told):
        read_labels(RunFolder(tmp_path), "joint")


def test_show_has_the_names(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(digits_run, tmp_path / "run"))
    graph = open_run(root).graph("class:3")
    layer, word = next(node for node in graph if node[0] == "layer3.0.add")
    assert command(["show", str(root), "--class", "3"]) == 0
    assert "bow" not in capsys.readouterr().out
    (root / "labels.csv").write_text(f"scope,layer,word,name\njoint,{layer},{word},[b]bow\n", encoding="utf-8")
    assert command(["show", str(root), "--class", "3"]) == 0
    assert "[b]bow" in capsys.readouterr().out

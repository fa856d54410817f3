"""How commands end: one line that says what, where and what to do, and an exit code that says whether to try again."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from tests.end_to_end.folder_runs import FolderRun, assert_nothing_was_made, write_folder_run
from tests.workflows.cli.test_cli import Call, call, help_of
from workflows.cli.options import PlainConsole, find_preset, print_json, visible
from workflows.errors import SettingsError
from workflows.settings import load_settings
from workflows.storage import atomic
from workflows.storage.run_folder import RunFolder

__all__ = ["call"]

STRANGE = "z\x1b]0;owned\x07e\x9b31mbra\u202e\udce9"
"""A name that would set the title of the window, colours, and the direction of the line, and is no UTF-8."""


@pytest.fixture
def run(tmp_path: Path) -> FolderRun:
    return write_folder_run(tmp_path, images_a_class=4)


def told(finished: tuple[int, str, str], code: int, *words: str) -> None:
    """One line with these words, and no traceback."""
    ended, output, errors = finished
    assert "Traceback" not in output + errors
    assert ended == code, errors
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("error ")
    for word in words:
        assert word in errors


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "must have room on its disk, got no space is left"),
        (errno.EDQUOT, "got the quota is used up"),
        (errno.EROFS, "Read-only file system; mount it for writing"),
        (errno.EIO, "Input/output error; see that its storage is there, then give the same command again"),
        (errno.ESTALE, "see that its storage is there"),
        (errno.ENOTDIR, "Not a directory; a part of the path is a file where a folder must be"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    run: FolderRun, call: Call, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    real = atomic.sync

    def refused(path: Path) -> None:
        if "plan.json" in path.name:
            raise OSError(code, os.strerror(code))  # as fsync does, without the file
        real(path)

    monkeypatch.setattr(atomic, "sync", refused)
    told(call(*run.arguments()), 1, "plan.json'", words)
    assert_nothing_was_made(run)
    monkeypatch.setattr(atomic, "sync", real)
    assert call(*run.arguments(["fit.words=4"]))[0] == 0, "the folder is free for another run"


def test_a_file_in_the_way_of_the_run_folder(run: FolderRun, call: Call) -> None:
    (run.root / "file").write_text("")
    arguments = ["run", str(run.preset), "--until", "index", "--out"]
    told(call(*arguments, str(run.root / "file" / "out")), 2, "--out: must be a folder", "Not a directory")
    (run.root / "loop").symlink_to("loop")
    told(call(*arguments, str(run.root / "loop" / "out")), 2, "--out: must be")
    told(call("status", str(run.root / "loop")), 2, "loop")
    told(call(*arguments, str(run.root / ("x" * 300))), 2, "--out: must be a folder", "File name too long")


def test_a_link_that_leads_to_itself_is_left_out(run: FolderRun, call: Call) -> None:
    (run.images / "cat" / "circle.png").symlink_to("circle.png")
    (run.images / "round").symlink_to("round")
    code, output, errors = call(*run.arguments())
    assert (code, errors) == (0, "")
    assert "1 file was left out: 1 link that leads in a circle" in " ".join(output.split())


def test_an_interrupted_index_leaves_no_run_behind(run: FolderRun, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workflows.plan.run_plan.Plan.write", interrupted)
        assert call(*run.arguments())[0] == 130
    assert_nothing_was_made(run)


def test_a_finished_run_is_never_forgotten(run: FolderRun, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(*run.arguments())[0] == 0
    RunFolder(run.out).ledger("index").path.unlink()
    (run.out / "activations").mkdir()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workflows.stages.index.write_table", interrupted)
    assert call(*run.arguments())[0] == 130
    assert (run.out / "run.json").exists()
    assert (run.out / "plan.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(0)",
        "def network(): raise SystemExit(0)",
        "import torch\nclass network(torch.nn.Module):\n    def state_dict(self): raise SystemExit(0)",
    ],
    ids=["module", "factory", "use"],
)
def test_a_network_cannot_end_a_run_as_if_it_were_done(
    run: FolderRun, call: Call, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(run.root)
    monkeypatch.setattr(sys, "path", list(sys.path))  # where the folder is added
    (run.root / "own_ending.py").write_text(text)
    fields = ["network.name=own_ending:network", "network.arguments={}"]
    try:
        told(call(*run.arguments(fields)), 1, "own_ending.py:", "ended the program by sys.exit(")
    finally:
        sys.modules.pop("own_ending", None)
    assert_nothing_was_made(run)


def test_a_preset_cannot_name_any_callable(run: FolderRun, call: Call) -> None:
    fields = ["network.name=os:system", f"network.arguments={{command='touch {run.root}/called'}}"]
    told(call(*run.arguments(fields)), 2, "network.name: must be of torchvision", "--allow-code os")
    told(call("layers", "os:system"), 2, "network.name: must be of torchvision")
    assert not (run.root / "called").exists()
    told(call(*run.arguments(fields), "--allow-code", "os"), 2, "must give a torch.nn.Module, gave a int")
    assert (run.root / "called").exists(), "the user said so"


@pytest.mark.parametrize(
    "name", ["run", "layers", "sweep", "dissect", "relevance", "ablate", "resample", "patterns", "locate"]
)
def test_whatever_loads_a_network_takes_the_option(name: str) -> None:
    assert "--allow-code" in help_of(name)


def test_exit_codes_are_in_the_help_and_the_guide() -> None:
    words = " ".join(help_of().replace("│", "").split())
    guide = " ".join(Path("infra/docs/runs.md").read_text().split())
    for code in ("0", "1", "2", "130"):
        assert f"{code} " in words.partition("Exit codes:")[2]
        assert f"| {code} |" in guide


def test_control_characters_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = PlainConsole(file=io.StringIO(), force_terminal=True, width=60, color_system="standard")
    table = Table()
    table.add_column(STRANGE)
    table.add_row(STRANGE)
    out.print(STRANGE, highlight=False)
    out.print(Text(STRANGE, style="bold"))
    out.print(table)
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count(r"\x1b]0;owned") == 4
    assert r"\x9b31mbra\u202e\udce9" in shown
    assert "\x1b[1m" in shown, "the console's own"
    assert not set("\x07\x9b\u202e\udce9") & set(shown)
    assert "\x1b]" not in shown
    print_json({"name": STRANGE})
    printed = capsys.readouterr().out
    assert not set("\x07\x9b\u202e\udce9\x1b") & set(printed)
    assert json.loads(printed) == {"name": STRANGE}
    assert visible("Größe 象 👩‍🔬\n\t") == "Größe 象 👩‍🔬\n\t"


def test_a_strange_name_of_a_class_does_not_reach_the_terminal(run: FolderRun, call: Call) -> None:
    (run.images / "cat").rename(run.images / "c\x1b[31mat")
    (run.images / "dog" / "a\x1b]0;x\x07.txt").write_text("")
    (run.images / "fox" / os.fsdecode(b"f\xe9.txt")).write_text("")
    refused = call(*run.arguments(["mine.classes=['cat']"]))
    finished = call(*run.arguments())
    assert (refused[0], finished[0]) == (2, 0)
    assert not set("\x1b\x07\udce9") & set("".join((*refused[1:], *finished[1:])))


def test_numbers_without_end_are_refused_by_name() -> None:
    preset = find_preset("digits")
    for field in (
        *(
            "seed",
            "data.max_broken",
            "data.max_train",
            "preprocessing.mean",
            "preprocessing.std",
            "preprocessing.scale",
        ),
        *("preprocessing.crop", "fit.words", "fit.minibatch", "fit.epochs", "fit.var_floor", "runtime.threads"),
        *(
            "runtime.disk_margin",
            "runtime.memory_gb",
            "runtime.actors",
            "extract.images_per_shard",
            "mine.pseudo_count",
        ),
        *("network.arguments.n_classes", "network.arguments.deep.inside"),
    ):
        for number in ("inf", "-inf", "nan", "1e999", "1" + "0" * 40, "[3, inf]"):
            with pytest.raises(SettingsError, match=rf"^{field}: must be a finite number, .* \(came: "):
                load_settings(preset, [f"{field}={number}"])

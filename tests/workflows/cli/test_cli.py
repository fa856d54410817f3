"""The command line: help that teaches, presets by name, exit codes, errors as one message."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from workflows.cli.app import app, main
from workflows.cli.options import find_preset
from workflows.errors import RunError
from workflows.pipeline import STAGES
from workflows.settings import load_settings

COMMANDS = (
    "plan",
    "check",
    "run",
    "layers",
    "status",
    "show",
    "report",
    "query",
    "serve",
    "export",
    "publish",
    "clean",
    "demo",
    "sweep",
    "boxes",
    "dissect",
    "relevance",
    "ablate",
    "resample",
    "patterns",
    "locate",
    "trust",
)
QUICK = (
    "--until",
    "index",
    "--set",
    "data.max_train=100",
    "--set",
    "data.max_validation=50",
    "--set",
    "fit.min_images=2",
)
"""A run that ends before it needs Ray or a trained network."""

Finished = tuple[int, str, str]
Call = Callable[..., Finished]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the console script's entry point in this process: (exit code, output, errors)."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["inference-graphs", *arguments])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def help_of(*arguments: str) -> str:
    finished = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "200"})
    assert finished.exit_code == 0, finished.output
    return finished.output


def test_the_first_help_names_every_command_and_where_to_start() -> None:
    text = help_of()
    assert all(re.search(rf"│ {name} ", text) for name in COMMANDS)
    assert "Start with inference-graphs demo" in text
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert tuple(name for name, command in commands.items() if not command.hidden) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    text = help_of(name)
    for parameter in get_command(app).commands[name].params:  # type: ignore[attr-defined]
        assert parameter.help, f"{name} {parameter.name} says nothing"
        assert all(option in text for option in parameter.opts if option.startswith("--"))


def test_until_names_every_stage() -> None:
    assert f"Last stage: {', '.join(STAGES)}." in " ".join(help_of("run").split())


@pytest.mark.parametrize("name", ["run", "show"])
def test_the_examples_of_a_help_are_commands_that_work(name: str) -> None:
    _, found, examples = help_of(name).partition("Examples:")
    lines = re.findall(r"^ *inference-graphs (.+?) *$", examples, re.MULTILINE)
    assert found
    assert len(lines) >= 2, "more than one way to use it"
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    for line in lines:
        first, *rest = shlex.split(line)
        assert first == name
        parameters = command.make_context(name, rest).params
        if name == "run":
            load_settings(find_preset(parameters["preset"]), parameters["set_"] or ())


def test_without_a_command_the_help_is_shown(call: Call) -> None:
    code, output, errors = call()
    assert code == 2
    assert re.search(r"Usage: .*inference-graphs \[OPTIONS\] COMMAND", output + errors)


def test_presets_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(find_preset("digits")).name == "digits"
    (tmp_path / "digits").mkdir()  # a run folder, say: a shipped name stays one
    assert load_settings(find_preset("digits")).name == "digits"
    own = tmp_path / "digits.toml"
    own.write_text(find_preset("digits").read_text().replace('name = "digits"', 'name = "my-digits"'))
    assert load_settings(find_preset("digits.toml")).name == "my-digits"


def test_an_unknown_preset_offers_the_shipped_ones() -> None:
    words = r"preset 'digit' is neither a file nor a shipped preset; shipped are animals_resnet50, "
    with pytest.raises(RunError, match=words):
        find_preset("digit")
    assert find_preset("absent.toml") == Path("absent.toml"), "load_settings says that the file is missing"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nosuch"], "preset 'nosuch' is neither a file nor a shipped preset; shipped are animals_resnet50"),
        (["run", ":cat: [b]"], "preset ':cat: [b]' is neither a file nor a shipped preset"),
        (["run", "nosuch.toml"], "preset 'nosuch.toml' does not exist; presets ship in infra/presets"),
        (["run", "digits", "--set", "fit.wrds=3"], "fit.wrds: no such field; did you mean words?"),
        (["run", "digits", "--until", "dinner"], "--until 'dinner' is no stage; the stages are index, train, extract"),
        (["status", "nowhere"], "holds no run (run.json is missing): give the --out of a run"),
        (["show", "nowhere", "--class", "3"], "holds no run"),
        (["show", "nowhere"], "give one of --class NAME, --image ID, --unit LAYER:UNIT and --word LAYER:WORD"),
        (
            ["show", "nowhere", "--class", "3", "--image", "4"],
            "give one of --class NAME, --image ID, --unit LAYER:UNIT and --word LAYER:WORD",
        ),
    ],
    ids=lambda value: "-".join(value[:4]) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_message(
    arguments: list[str], words: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = call(*arguments)
    assert code == 2
    assert errors.startswith("error ")
    assert words in errors
    assert "Traceback" not in output + errors
    assert not list(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument"),
        (["run", "digits", "--outt", "x"], "No such option"),
        (["show", "runs/digits", "--image", "three"], "Invalid value for '--image': Input should be a valid integer"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_on_the_line_is_a_usage_error(arguments: list[str], words: str, call: Call) -> None:
    code, output, errors = call(*arguments)
    assert code == 2
    assert words in errors
    assert "Traceback" not in output + errors


def test_a_run_from_start_to_refusal(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = call("run", "digits", *QUICK)
    assert (code, errors) == (0, "")
    assert re.search(r"^done index +1/1 ", output, re.MULTILINE)
    assert output.splitlines()[-1] == f"run folder {tmp_path / 'runs' / 'digits'}"

    again = call("run", "digits", *QUICK)
    assert again == (0, f"run folder {tmp_path / 'runs' / 'digits'}\n", ""), "what is done is not done again"

    code, _, errors = call("run", "digits", *QUICK, "--set", "fit.words=7")
    assert code == 2
    assert re.search(r"fit\.words: the folder has \[20, 30, 30\], the command \[7\]", errors)

    code, output, _ = call("status", "runs/digits")
    assert code == 0
    assert re.search(r"index +done +1 +0 +0 ", output)
    assert re.search(r"extract +waiting ", output)

    code, _, errors = call("show", "runs/digits", "--class", "eleven")
    assert code == 2
    assert "--class: there is no class 'eleven'" in errors
    code, _, errors = call("show", "runs/digits", "--class", "3")
    assert code == 2
    assert "nodes.parquet' is missing: run the stage that writes it" in errors
    code, _, errors = call("show", "runs/digits", "--image", "150")
    assert code == 2
    assert "--image 150 is no image of this run; ids run from 0 to 149" in errors


def test_both_entry_points_say_the_same() -> None:
    script = Path(sys.executable).with_name("inference-graphs")
    texts = [
        subprocess.run([*entry, "status", "nowhere"], capture_output=True, text=True, timeout=60, check=False)
        for entry in ([str(script)], [sys.executable, "-m", "workflows"])
    ]
    assert [finished.returncode for finished in texts] == [2, 2]
    assert texts[0].stderr == texts[1].stderr
    assert "Traceback" not in texts[0].stderr


def test_an_interrupt_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    endless = ["--set", "training.epochs=10000", "--set", "data.max_train=300", "--until", "train"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "workflows", "run", "digits", "--out", str(tmp_path / "run"), *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that was started behind an `&` ignores interrupts, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as driver:
        try:
            assert driver.stdout is not None
            assert any(line.startswith("done index") for line in iter(driver.stdout.readline, ""))
            driver.send_signal(signal.SIGINT)
            output, errors = driver.communicate(timeout=60)
        finally:
            driver.kill()
    assert driver.returncode == 130
    assert "Traceback" not in output + errors

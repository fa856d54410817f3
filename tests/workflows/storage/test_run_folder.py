from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.errors import RunFolderError
from workflows.settings import Settings, parse_settings
from workflows.storage.names import joined_slug, slug
from workflows.storage.run_folder import RunFolder, size_of
from workflows.versions import versions


def settings(**sections: dict[str, Any]) -> Settings:
    raw: dict[str, Any] = {
        "name": "toy",
        "data": {"source": "digits"},
        "network": {"name": "package.module:net", "weights": "w.pt", "layers": ["add2", "add4"]},
        "fit": {"words": [10, 20]},
    }
    for section, fields in sections.items():
        raw[section] = {**raw.get(section, {}), **fields}
    return parse_settings(raw)


def test_a_run_is_opened_again_with_the_same_settings(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "run"
    first = RunFolder.create_or_open(root, settings())
    assert first == RunFolder.create_or_open(root, settings())
    assert RunFolder.open(root).settings() == settings()
    assert json.loads(first.run_file.read_text())["format"] == 2
    assert first.size() == first.run_file.stat().st_size > 0


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path / "run", settings())
    other = settings(
        fit={"words": [10, 30]}, extract={"dtype": "float32"}, runtime={"actors": 7}, count={"scheduler": "ray"}
    )
    with pytest.raises(RunFolderError) as caught:
        RunFolder.create_or_open(tmp_path / "run", other)
    words = str(caught.value)
    assert "holds another run" in words
    assert "extract.dtype: the folder has 'float16', the command 'float32'" in words
    assert "fit.words: the folder has [10, 20], the command [10, 30]" in words
    assert "give another --out" in words
    assert "runtime" not in words
    assert "scheduler" not in words


def noted_versions(folder: RunFolder) -> list[dict[str, str]]:
    return json.loads(folder.run_file.read_text())["versions"]


def test_a_run_of_other_versions_is_refused_until_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create_or_open(tmp_path / "run", settings())
    folder.claim_versions()
    assert noted_versions(folder) == [versions()]
    begun = versions()
    monkeypatch.setattr("workflows.storage.run_folder.versions", lambda: begun | {"code": "other", "numba": "9.9"})
    assert RunFolder.create_or_open(tmp_path / "run", settings()) == folder, "it may be looked at"
    with pytest.raises(RunFolderError) as caught:
        folder.claim_versions()
    words = str(caught.value)
    assert f"code: the folder has {begun['code']!r}, this installation 'other'" in words
    assert f"numba: the folder has {begun['numba']!r}, this installation '9.9'" in words
    assert "torch" not in words
    assert words.endswith("give another --out, or go on with --accept-versions, which run.json notes")
    assert noted_versions(folder) == [begun]
    folder.claim_versions(accept=True)
    folder.claim_versions()
    assert noted_versions(folder) == [begun, begun | {"code": "other", "numba": "9.9"}]
    assert RunFolder.create_or_open(tmp_path / "run", settings(runtime={"actors": 3})) == folder
    assert len(noted_versions(folder)) == 2, "another [runtime] forgets none of them"


def test_a_run_from_before_versions_were_noted_still_opens(tmp_path: Path) -> None:
    folder = RunFolder.create_or_open(tmp_path / "run", settings())
    record = json.loads(folder.run_file.read_text())
    del record["versions"]
    folder.run_file.write_text(json.dumps(record))
    assert RunFolder.open(tmp_path / "run").settings() == settings()
    RunFolder.create_or_open(tmp_path / "run", settings()).claim_versions()
    assert noted_versions(folder) == [versions()]


def test_runtime_settings_may_differ_on_resume(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path / "run", settings())
    RunFolder.create_or_open(
        tmp_path / "run", settings(runtime={"actors": 7, "threads": 2}, count={"scheduler": "ray"})
    )
    assert RunFolder.open(tmp_path / "run").settings().runtime.actors == 7, "the folder tells the latest"


SCOPES = {"scopes": ["class"], "loss": "discriminative", "min_images": 5}


def test_scopes_and_loss_may_be_chosen_until_the_first_fit(tmp_path: Path) -> None:
    RunFolder.create_or_open(tmp_path / "run", settings())
    folder = RunFolder.create_or_open(tmp_path / "run", settings(fit=SCOPES, discriminative={"epochs": 9}))
    assert folder.settings().fit.scopes == ("class",)
    folder.mixture("class-3", "add2").parent.mkdir(parents=True)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.create_or_open(tmp_path / "run", settings())
    words = str(caught.value)
    for line in ("fit.scopes: the folder has ['class'], the command ['joint']", "fit.loss", "discriminative.epochs"):
        assert line in words


def test_figures_of_other_scopes_have_their_own_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.figure("class:3", "png") == tmp_path / "figures" / "class-3.png"
    assert folder.figure("class:3", "png", "class-3") == tmp_path / "figures" / "class-3" / "class-3.png"
    assert folder.figure("image:20417", "svg", "list-big/cats").parent.name == "list-big%2Fcats"


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        RunFolderError, match=r"is not empty and holds no run \(it has thesis.tex\): give another --out"
    ):
        RunFolder.create_or_open(tmp_path, settings())
    with pytest.raises(RunFolderError, match="is a file: --out must be a folder"):
        RunFolder.create_or_open(tmp_path / "thesis.tex", settings())


def test_a_driver_killed_before_run_json_leaves_a_usable_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.0123456789ab.tmp").write_text('{"format"')
    assert RunFolder.create_or_open(tmp_path, settings()).settings() == settings()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no run .run.json is missing."),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 0, "settings": {}}', "holds a run of format 0, this version reads 2"),
        ('{"format": 2, "settings": {"name": "x", "sead": 3}}', "settings this version does not know"),
    ],
)
def test_no_run_or_a_damaged_one(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=words):
        RunFolder.open(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from workflows.storage.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_driver_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunFolderError, match=rf"in use by another driver \(process {holder.pid} on "),
            folder.lock(),
        ):
            pass
        (tmp_path / "mixtures").mkdir()
        leftover = tmp_path / "mixtures" / ".layer.npz.0123456789ab.tmp"
        leftover.touch()
        shard = tmp_path / "activations" / "add2.zarr" / "c" / "0" / "0.3a5f.partial"
        shard.parent.mkdir(parents=True)
        shard.touch()
        holder.send_signal(signal.SIGKILL)
    with folder.lock():
        kept = shard.with_name("1")
        kept.write_bytes(b"123")
        assert folder.remove_leftovers(["mixtures", "activations", "words"]) == 3
        assert kept.exists()
        assert not leftover.exists()
        assert not shard.exists(), "what the killed driver left is swept"
        with pytest.raises(RunFolderError, match=f"process {os.getpid()} "), folder.lock():
            pass
    with folder.lock():
        pass


@given(st.text(min_size=1), st.text(min_size=1))
def test_slugs_are_safe_and_injective(one: str, other: str) -> None:
    made = slug(one)
    assert (made == slug(other)) == (one == other)
    assert made == os.path.basename(made)
    assert not made.startswith(".")
    assert made.isascii()
    assert len(made) <= 100
    assert "__" not in made


@given(*[st.text(alphabet="a_%.", min_size=1, max_size=6)] * 4)
def test_joined_slugs_tell_pairs_apart(a: str, b: str, c: str, d: str) -> None:
    assert (joined_slug(a, b) == joined_slug(c, d)) == ((a, b) == (c, d))


def test_known_slugs() -> None:
    assert slug("layer1.2.add") == "layer1.2.add"
    assert slug("conv2_1") == "conv2_1"
    assert slug("class:3") == "class%3A3"
    assert slug("..") == "%2E."
    assert slug("../../etc/passwd") == "%2E.%2F..%2Fetc%2Fpasswd"
    with pytest.raises(ValueError, match="must not be empty"):
        slug("")


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_no_path_leaves_the_folder(layer: str, scope: str) -> None:
    folder = RunFolder(Path("/runs/one"))
    paths = [
        folder.activations(layer),
        folder.activations(layer, scope),
        folder.mixture(scope, layer),
        folder.fit_state(scope, layer),
        folder.words(scope, layer),
        folder.cooccurrence(scope, layer, scope),
        folder.word_summary(scope, layer),
        folder.table(layer),
        folder.ledger(layer).path,
    ]
    for path in paths:
        assert Path(os.path.normpath(path)).is_relative_to("/runs/one")
    assert len(set(paths)) == len(paths)


def test_sizes_count_every_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"12345")
    (tmp_path / "a" / "y").write_bytes(b"123")
    assert size_of(tmp_path / "a") == 8
    assert size_of(tmp_path / "none") == 0


def test_a_path_of_home_and_one_that_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder.claimed(Path("~/run")).root == tmp_path / "run"
    with pytest.raises(RunFolderError, match=r"--out: must be a path of UTF-8 characters, got '.*caf.udce9/run'; give"):
        RunFolder.claimed(tmp_path / os.fsdecode(b"caf\xe9") / "run")

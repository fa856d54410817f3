"""Weights and source of a network are those that the run was planned with, wherever the run lies now."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from workflows.errors import RunFolderError
from workflows.plan.run_inputs import network_sources, refuse_changed_inputs, weights_identity
from workflows.plan.run_plan import Plan, plan_path
from workflows.storage.identities import FileIdentity
from workflows.storage.run_folder import RunFolder

NOTHING = "torchvision:vgg16"


def plan_of(weights: Path | str, **more: object) -> Plan:
    plan = Plan((), ("a",), images=2, train_images=1, input_height=8, input_width=8, weights=str(weights))
    return dataclasses.replace(plan, **more)  # type: ignore[arg-type]


def test_other_weights_are_refused_with_both_hashes(tmp_path: Path) -> None:
    folder, weights = RunFolder(tmp_path / "run"), tmp_path / "w.pt"
    weights.write_bytes(b"one")
    plan_of(weights, weights_file=weights_identity(str(weights))).write(folder)
    plan = Plan.read(folder)
    refuse_changed_inputs(NOTHING, plan, folder)
    os.utime(weights, ns=(0, 0))
    refuse_changed_inputs(NOTHING, plan, folder)  # the same bytes at another time
    weights.write_bytes(b"two")
    old, new = (one.sha256[:12] for one in (plan.weights_file, FileIdentity.of(weights)) if one is not None)
    with pytest.raises(RunFolderError) as caught:
        refuse_changed_inputs(NOTHING, plan, folder)
    assert f"network.weights '{weights}': the folder has SHA-256 {old}, the file SHA-256 {new}" in str(caught.value)
    assert "restore them, or give another --out" in str(caught.value)
    weights.unlink()
    refuse_changed_inputs(NOTHING, plan, folder)  # who needs them says so


def test_other_source_is_refused_also_where_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ownnet.py").write_text("import os\nimport numpy\nfrom ownblocks import block\n")
    (tmp_path / "ownblocks.py").write_text("def block(): ...\n")
    (tmp_path / "unrelated.py").write_text("")
    sources = network_sources("ownnet:net")
    assert sources.keys() == {"ownnet", "ownblocks"}
    assert network_sources("timm:resnet50") == network_sources("nosuchmodule:net") == {}
    folder = RunFolder(tmp_path / "run")
    plan_of(NOTHING, sources=tuple(sources.items())).write(folder)
    plan = Plan.read(folder)
    refuse_changed_inputs("ownnet:net", plan, folder)
    (tmp_path / "ownblocks.py").write_text("def block(): return 2\n")
    with pytest.raises(
        RunFolderError, match=r"network.name, module 'ownblocks': the folder has SHA-256 [0-9a-f]{12}, the"
    ):
        refuse_changed_inputs("ownnet:net", plan, folder)


def test_source_of_a_package_is_followed_inside_it() -> None:
    found = network_sources("workflows.networks.architectures:digits_resnet")
    assert "workflows.networks.architectures" in found
    assert all(module.startswith("workflows") for module in found)


def test_own_weights_move_and_are_copied_with_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    plan = plan_of(folder.weights)
    plan.write(folder)
    folder.weights.write_bytes(b"trained")
    dataclasses.replace(plan, weights_file=FileIdentity.of(folder.weights)).write(folder)
    assert json.loads(plan_path(folder).read_text())["weights"] == "weights.pt"
    copied = RunFolder(Path(shutil.copytree(folder.root, tmp_path / "copied")))
    assert Plan.read(copied).weights == str(copied.weights)
    refuse_changed_inputs(NOTHING, Plan.read(copied), copied)
    copied.weights.unlink()
    assert Plan.read(copied).weights == str(copied.weights), "never those of the other run"
    copied.weights.write_bytes(b"another")
    with pytest.raises(RunFolderError, match=r"network.weights"):
        refuse_changed_inputs(NOTHING, Plan.read(copied), copied)


def test_a_plan_of_an_earlier_version_opens_and_knows_nothing(tmp_path: Path) -> None:
    folder, weights = RunFolder(tmp_path / "run"), tmp_path / "w.pt"
    plan_of(weights).write(folder)
    raw = json.loads(plan_path(folder).read_text())
    del raw["weights_file"], raw["sources"]
    plan_path(folder).write_text(json.dumps(raw))
    weights.write_bytes(b"any")
    plan = Plan.read(folder)
    assert (plan.weights_file, plan.sources, plan.weights) == (None, (), str(weights))
    refuse_changed_inputs("ownnet:net", plan, folder)

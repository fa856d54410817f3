"""A user's own network: a module in the folder of the command, trained and then modelled, actors included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.killing import address_of_local_ray
from tests.end_to_end.small_digits import SETTINGS, TRAINING
from workflows.plan.run_plan import Plan
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

MODULE = '''
"""Two blocks of convolutions for digits of 32 x 32 pixels."""

from torch import nn


def block(below, above):
    return [nn.Conv2d(below, above, 3, padding=1), nn.BatchNorm2d(above), nn.ReLU(inplace=True), nn.MaxPool2d(2)]


def network(units):
    layers = [part for pair in zip([3, *units], units) for part in block(*pair)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * units[-1], 10))
'''
FIELDS = (
    "network.name=my_network:network",
    "network.arguments={units=[8,16,16]}",
    "network.layers=['conv2_1','8']",
    "fit.words=[8,10]",
)
SMALL = (*SETTINGS, "mine.images=['misclassified:3']", "mine.classes=['3','8']")


def console_script(folder: Path, *fields: str, out: str, until: str) -> subprocess.CompletedProcess[str]:
    """The installed command, started in a folder; a console script has not that folder on its path."""
    script = Path(sys.executable).parent / "inference-graphs"
    if not script.exists():
        pytest.skip("needs the project installed: pip install -e .")
    chosen = [part for field in fields for part in ("--set", field)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    surroundings.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(script), "run", "digits", "--out", out, "--until", until, "--address", address_of_local_ray(), *chosen],
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_module_in_the_current_folder_runs_through_every_stage(tmp_path: Path) -> None:
    """The Ray was started elsewhere, so its workers know the folder from the driver alone."""
    (tmp_path / "my_network.py").write_text(MODULE)
    trained = console_script(tmp_path, *FIELDS, *TRAINING, out="trained", until="train")
    assert trained.returncode == 0, trained.stderr
    weights = f"network.weights={Path('trained') / 'weights.pt'}"
    ended = console_script(tmp_path, *SMALL, *FIELDS, weights, out="run", until="draw")
    assert ended.returncode == 0, ended.stderr
    folder = RunFolder.open(tmp_path / "run")
    assert [(layer.name, layer.given, layer.units) for layer in Plan.read(folder).layers] == [
        ("4", "conv2_1", 16),
        ("8", "8", 16),
    ]
    images = read_table(folder.images_table).to_pylist()
    right = [row["predicted"] == row["label"] for row in images if row["split"] == "validation"]
    assert sum(right) > 0.6 * len(right), "the trained weights came into the actors"
    graphs = set(read_table(folder.table("nodes"))["graph"].to_pylist())
    assert {"class:3", "class:8"} <= graphs
    assert (folder.root / "figures" / "class-3.png").exists()
    (tmp_path / "my_network.py").rename(tmp_path / "moved.py")
    lost = console_script(tmp_path, *SMALL, *FIELDS, weights, out="again", until="index")
    assert lost.returncode == 2
    assert "network.name 'my_network:network': module 'my_network' cannot be imported" in lost.stderr
    assert "start the command in its folder, put the folder on PYTHONPATH, or install it" in lost.stderr

"""What the frozen network hands out: refused where the storage dtype rounds a layer's differences away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.end_to_end.small_digits import TRAINING, command
from workflows.cli.options import find_preset
from workflows.data.shards import Shard
from workflows.errors import DataError
from workflows.plan.run_plan import Plan
from workflows.settings import load_settings
from workflows.storage.run_folder import RunFolder
from workflows.words.forward import FrozenForward, spread_lost

MODULE = """
import torch.nn.functional as F
from torch import nn


class Shifted(nn.Module):
    def __init__(self, factor=1.0, offset=0.0):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 5, 2), nn.Conv2d(8, 16, 5, 2), nn.Linear(16, 10)
        self.factor, self.offset = factor, offset

    def forward(self, x):
        x = self.conv1(x) * self.factor + self.offset
        return self.fc(F.relu(self.conv2((x - self.offset) / self.factor)).mean((2, 3)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module of the network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shifted_here.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("shifted_here", None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "dtype", "refused"),
    [
        ("{factor=1e-8}", "float16", True),
        ("{offset=4000.0}", "float16", True),
        ("{offset=-4000.0}", "float16", True),
        ("{factor=1e-8}", "float32", False),
        ("{offset=4000.0}", "float32", False),
        ("{}", "float16", False),
    ],
)
def test_a_layer_that_float16_cannot_hold_is_refused(folder: Path, arguments: str, dtype: str, refused: bool) -> None:
    fields = (
        *("network.name=shifted_here:Shifted", f"network.arguments={arguments}", f"extract.dtype={dtype}"),
        *("network.layers=['add','conv2']", "fit.words=[8,10]", *TRAINING, "training.epochs=1"),
    )
    chosen = [part for field in fields for part in ("--set", field)]
    assert command(["run", "digits", "--out", "run", "--until", "train", *chosen]) == 0
    run = RunFolder.open(folder / "run")
    forward = FrozenForward(load_settings(find_preset("digits"), fields), Plan.read(run), run)
    if refused:
        words = r"layer 'add': extract\.dtype must keep .* 100% of its units .* set extract\.dtype = 'float32'"
        with pytest.raises(DataError, match=words):
            next(forward(Shard(0, 0, 100)))
    else:
        assert next(forward(Shard(0, 0, 100))).logits.shape == (100, 10)


def test_what_a_cast_loses() -> None:
    columns = torch.randn((4000, 32), generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    assert spread_lost(columns, torch.float16)[1] == 0
    assert spread_lost(columns.relu(), torch.float16)[1] == 0
    assert spread_lost(columns * 1e-3 + 0.01, torch.float16)[1] == 0
    assert spread_lost(columns * 1e-8, torch.float16)[1] == 1
    assert spread_lost(columns * 1e-8, torch.float32)[1] == 0
    assert spread_lost(columns * 1e-3 + 4, torch.float16)[1] == 1
    assert spread_lost(torch.zeros(100, 8), torch.float16)[1] == 0
    half = columns.clone()
    half[:, :16] += 4000
    assert spread_lost(half, torch.float16)[1] == pytest.approx(0.5)
    dead = columns.clone()
    dead[:, :12] *= 1e-12
    assert spread_lost(dead, torch.float16)[1] == 0, "dead units are not counted"

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from workflows.errors import RunFolderError
from workflows.storage.states import load_state, save_state


def test_states_come_back_bit_for_bit(tmp_path: Path) -> None:
    state = {
        "step": np.asarray(7),
        "mean": np.random.default_rng(0).standard_normal((3, 4)),
        "none": np.zeros((0, 4), np.float32),
        "layer": np.asarray("add2"),
        "odd": np.array([np.nan, -0.0, np.inf]),
    }
    save_state(tmp_path / "fit" / "state.npz", state)
    back = load_state(tmp_path / "fit" / "state.npz")
    assert list(back) == list(state)
    for name, values in state.items():
        assert back[name].dtype == values.dtype
        assert back[name].shape == values.shape
        assert back[name].tobytes() == values.tobytes()


def test_pickles_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state 'a' is no plain array"):
        save_state(tmp_path / "s.npz", {"a": np.array([{}], dtype=object)})
    np.savez(tmp_path / "evil.npz", a=np.array([{}], dtype=object))
    with pytest.raises(RunFolderError, match="is damaged"):
        load_state(tmp_path / "evil.npz")


def test_missing_and_truncated_states_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"s.npz.* is missing: run the fit stage"):
        load_state(tmp_path / "s.npz")
    save_state(tmp_path / "s.npz", {"a": np.arange(1000)})
    content = (tmp_path / "s.npz").read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "s.npz").write_bytes(content[:length])
        with pytest.raises(RunFolderError, match=r"s.npz.* is damaged"):
            load_state(tmp_path / "s.npz")


REWRITE = """
import sys
from pathlib import Path
import numpy as np
from workflows.storage.states import save_state
for step in range(10**9):
    save_state(Path(sys.argv[1]), {"step": np.asarray(step), "values": np.full(200_000, step)})
    print(step, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_state(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    for waited in (3, 4, 5):
        with subprocess.Popen([sys.executable, "-c", REWRITE, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(waited):
                writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
        state = load_state(path)
        assert state["step"] >= waited - 1
        assert (state["values"] == state["step"]).all()


def test_mixtures_come_back_bit_for_bit(tmp_path: Path) -> None:
    from gmm_ops.mixtures.mixture import Mixture
    from workflows.storage.mixtures import load_mixture, load_reseeded, save_mixture

    torch.manual_seed(0)
    mixture = Mixture(
        log_pi=torch.log_softmax(torch.randn(3, dtype=torch.float64), 0),
        mean=torch.randn(3, 4, dtype=torch.float64),
        variance=torch.rand(3, 4, dtype=torch.float64) + 0.1,
        center=torch.randn(4, dtype=torch.float64),
    )
    path = tmp_path / "m.npz"
    save_mixture(path, mixture, reseeded=torch.tensor([0, 2, 1]))
    back = load_mixture(path)
    for name in ("log_pi", "mean", "variance", "center"):
        assert torch.equal(getattr(back, name), getattr(mixture, name))
        assert getattr(back, name).dtype == torch.float64
    assert load_reseeded(path).tolist() == [0, 2, 1]
    save_mixture(path, mixture)
    assert load_reseeded(path).tolist() == [0, 0, 0]
    save_state(path, {"mean": np.zeros(3)})
    with pytest.raises(RunFolderError, match="is no mixture: it has no log_pi, variance, center, reseeded"):
        load_mixture(path)

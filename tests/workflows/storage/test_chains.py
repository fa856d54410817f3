from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmm_ops.hmm.model import HiddenMarkovModel
from tests.gmm_ops.hmm.drawn_chains import random_model
from workflows.errors import RunFolderError
from workflows.storage.chains import chain_path, load_chain, save_chain
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state


def model(observed: bool = True) -> HiddenMarkovModel:
    return random_model((3, 4, 2), (5, 2, 6), (True, True, False), 10 if observed else None)


@pytest.mark.parametrize("observed", [True, False])
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, observed: bool) -> None:
    path = chain_path(RunFolder(tmp_path), "joint")
    assert path == tmp_path / "mixtures" / "joint" / "chain.npz"
    saved = model(observed)
    save_chain(path, saved)
    back = load_chain(path)
    assert back.shape == saved.shape
    assert [layer.rectified for layer in back.layers] == [True, True, False]
    for name, values in saved.to_arrays().items():
        assert back.to_arrays()[name].dtype == values.dtype
        assert back.to_arrays()[name].tobytes() == values.tobytes(), name


def test_a_missing_file_names_itself_and_the_stage(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"chain.npz' is missing: run the fit stage"):
        load_chain(tmp_path / "chain.npz")


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "chain.npz"
    save_chain(path, model())
    content = path.read_bytes()
    for length in (0, 30, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        with pytest.raises(RunFolderError, match=r"chain.npz' is damaged \(.*delete it and run again"):
            load_chain(path)


@pytest.mark.parametrize("name", ["initial", "transition_1", "mean_2", "variance_0", "rectified"])
def test_a_file_without_some_array_is_no_model(tmp_path: Path, name: str) -> None:
    path = tmp_path / "chain.npz"
    arrays = model().to_arrays()
    del arrays[name]
    save_state(path, arrays)
    with pytest.raises(RunFolderError, match=f"is no hidden Markov model: it has no .*{name}"):
        load_chain(path)


def test_a_file_whose_numbers_make_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.npz"
    save_chain(path, model())
    good = load_state(path)
    for name, values in (
        ("transition_0", 2 * good["transition_0"]),
        ("transition_0", good["transition_0"].T),
        ("initial", np.full(7, 1 / 7)),
        ("mean_1", good["mean_1"][:2]),
    ):
        save_state(path, {**good, name: values})
        with pytest.raises(RunFolderError, match=r"holds no hidden Markov model \(.*delete it and the fit stage's"):
            load_chain(path)


def test_a_chain_of_one_layer_has_no_table(tmp_path: Path) -> None:
    one = random_model((3,), (5,), (True,))
    save_chain(tmp_path / "one.npz", one)
    assert load_chain(tmp_path / "one.npz").shape == one.shape

"""Fits whose words are sliced over two actors: the same as the whole dictionary's, and after a killed actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gmm_ops.fitting.collective import LONE
from gmm_ops.graphs.windows import Window
from tests.end_to_end.killing import ActorKiller
from tests.workflows.made_labelled import JOINT, Made, make, results, settings_of
from workflows.errors import RunFolderError, SettingsError
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.fit_history import history_path
from workflows.fits.layer_fit import LayerFit
from workflows.fits.needs import sliced_bytes
from workflows.fits.sliced_fit import SlicedFit
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.runtime.fit_group import FitJob, run_fit
from workflows.runtime.generation import GroupSettings
from workflows.settings import Settings, load_settings
from workflows.storage.states import load_state, save_state
from workflows.storage.tables import read_table
from workflows.words.sliced_words import SliceFiles, remove_slices

pytestmark = pytest.mark.slow

PRESETS = Path(__file__).parents[3] / "infra" / "presets"
WORDS, HALVES = 9, (4, 5)
FIT = {"words": [WORDS], "min_share": 0.5}
"""Some words take half of others; and one epoch, for float32 rounding grows from step to step."""


def inputs_of(made: Made) -> dict[str, Any]:
    settings, plan, folder = made
    return {"settings": settings, "plan": plan, "folder": folder, "layer": plan.layers[0], "scope": JOINT}


def fitted_sliced(made: Made, **callbacks: Any) -> dict[str, Any]:
    """On two actors; the checkpoint and the slices are left."""
    job = FitJob("made", SlicedFit, made[2].fit_state("joint", "made"), inputs_of(made))
    group = GroupSettings(n_actors=2, num_cpus=0.5, segment_steps=5, checkpoint_steps=5)
    return run_fit(job, group, **callbacks)


def fitted_whole(made: Made) -> dict[str, Any]:
    worker = LayerFit if made[0].fit.loss == "generative" else DiscriminativeFit
    fit = worker(rank=0, world=1, **inputs_of(made))
    fit.restore(None)
    assert fit.advance(10**6, LONE)["done"]
    return fit.result()


def tables(made: Made) -> list[Any]:
    return [read_table(history_path(made[2], "joint", "made"))]


def assert_the_same(whole: Made, halves: Made) -> None:
    """Parameters to 1e-6, tables to 3e-6, whole numbers and labels exactly.

    Minibatches have 10 columns a word, so float32 rounding of one step moves the next ones by more than it is. The
    linear layer on the generative words takes their float32 rounding through a whole training: 1e-5.
    """
    expected, found = results(whole), results(halves)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert (values.dtype, values.shape) == (found[name].dtype, found[name].shape), name
        if values.dtype == np.float64:
            bound = 1e-5 if name.startswith("layers.generative") else 1e-6
            assert np.linalg.norm(values - found[name]) <= bound * np.linalg.norm(values), name
        else:
            np.testing.assert_array_equal(values, found[name], err_msg=name)
    for ours, theirs in zip(tables(whole), tables(halves), strict=True):
        assert ours.schema.equals(theirs.schema)
        for name in ours.column_names:
            left, right = ours[name], theirs[name]
            if left.type == pa.float64():
                bound = 1e-5 if name.startswith("generative") else 3e-6
                np.testing.assert_allclose(left.to_numpy(), right.to_numpy(), rtol=bound, err_msg=name)
            else:
                assert left.equals(right), name


def discriminative_settings(**fit: Any) -> Settings:
    return settings_of({**FIT, **fit}, precision="float64", start="paper", epochs=3)


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory, local_ray: object) -> Made:
    """Undisturbed."""
    made = make(tmp_path_factory.mktemp("sliced") / "run", discriminative_settings(word_slices=2))
    fitted_sliced(made)
    return made


@pytest.mark.slow  # a fit for the decision begins with one by likelihood
def test_two_slices_come_to_the_likelihood_fit_of_the_whole(tmp_path: Path, local_ray: object) -> None:
    fit = {**FIT, "loss": "generative", "polyak": True}
    whole, halves = make(tmp_path / "1", settings_of(fit)), make(tmp_path / "2", settings_of({**fit, "word_slices": 2}))
    expected, found = fitted_whole(whole), fitted_sliced(halves)
    assert expected["reseeded"] > 0
    assert expected.pop("held_out") == pytest.approx(found.pop("held_out"), rel=1e-6)
    assert expected == found
    assert_the_same(whole, halves)
    curve = tables(halves)[0]["held_out_log_likelihood"].to_pylist()
    assert curve[-1] > curve[2], "the likelihood rises"


@pytest.mark.slow
def test_two_slices_come_to_the_discriminative_fit_of_the_whole(tmp_path: Path, sliced: Made) -> None:
    whole = make(tmp_path / "whole", discriminative_settings())
    fitted_whole(whole)
    assert_the_same(whole, sliced)
    expected, found = results(whole), results(sliced)
    for name in ("words.mean", "words.variance", "words.log_pi", "layers.discriminative_weight"):
        assert np.linalg.norm(expected[name] - found[name]) <= 1e-9 * np.linalg.norm(expected[name]), name
    assert np.linalg.norm(found["words.mean"] - found["generative.mean"]) > 1e-2, "training moved the words"


def test_words_of_a_run_may_share_their_variance(tmp_path: Path, local_ray: object) -> None:
    made = make(tmp_path / "run", settings_of({**FIT, "loss": "generative", "variance_of": "unit"}))
    fitted_whole(made)
    variance = results(made)["words.variance"]
    assert (variance == variance[:1]).all()
    assert len(np.unique(variance[0])) > 1


def test_an_actor_keeps_its_own_words_alone(sliced: Made) -> None:
    """The checkpoint names the step; each rank has the slice of that step and of no other."""
    checkpoint = sliced[2].fit_state("joint", "made")
    common = load_state(checkpoint)
    assert all(WORDS not in values.shape for values in common.values()), "no words in the checkpoint"
    present = {path.name for path in checkpoint.parent.glob("*.slice-*")}
    marks = (f"step-{common['at']}", "generative", "result")
    wanted = {f"{checkpoint.stem}.{mark}.slice-{rank}-of-2.npz" for mark in marks for rank in (0, 1)}
    assert wanted < present
    assert len(present) == 8, "and the step before, which the checkpoint named when these were written"
    for name in present:
        shapes = [values.shape for values in load_state(checkpoint.with_name(name)).values()]
        assert any(shape[:1] in {(half,) for half in HALVES} for shape in shapes), name
        assert all(WORDS not in shape for shape in shapes), name


def test_the_slices_of_a_fit_are_removed_and_no_others(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a__state.npz", tmp_path / "b__state.npz"
    for checkpoint in (ours, theirs):
        for rank in (0, 1):
            SliceFiles(checkpoint, rank, 2).write("result", {"x": np.zeros(1)})
    remove_slices(ours)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"b__state.result.slice-{rank}-of-2.npz" for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "steps"), [("loss_history", 30), ("history", 3)])
def test_a_killed_actor_is_replaced_with_the_same_result(tmp_path: Path, sliced: Made, phase: str, steps: int) -> None:
    disturbed = make(tmp_path / "run", discriminative_settings(word_slices=2))
    checkpoint, told = disturbed[2].fit_state("joint", "made"), list[str]()

    def taken() -> int:
        try:
            return len(load_state(checkpoint).get(phase, ()))
        except RunFolderError:
            return 0

    with ActorKiller(lambda: taken() >= steps) as killer:
        fitted_sliced(disturbed, on_restart=lambda name, reason: told.append(reason))
    assert killer.killed
    assert len(told) == 1
    assert "its worker process died" in told[0]
    expected, found = results(sliced), results(disturbed)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert values.tobytes() == found[name].tobytes(), name
    assert all(one.equals(other) for one, other in zip(tables(sliced), tables(disturbed), strict=True))


def test_ranks_restore_the_step_that_the_checkpoint_names(tmp_path: Path) -> None:
    """Rank 1 has written a later step that rank 0 never committed; both go on from the committed one."""
    files = [SliceFiles(tmp_path / "state.npz", rank, 2) for rank in (0, 1)]
    for step in (5, 10):
        for one in files:
            one.write_step(step, {"words": np.full(3, step)})
        save_state(tmp_path / "state.npz", {"at": np.array(step)})
    files[1].write_step(15, {"words": np.full(3, 15)})
    assert [one.committed() for one in files] == [10, 10]
    assert all(one.read("step-10")["words"].tolist() == [10] * 3 for one in files)
    for one in files:
        one.write_step(20, {"words": np.full(3, 20)})
    with pytest.raises(RunFolderError, match=r"step-5\.slice-0-of-2\.npz' is missing"):
        files[0].read("step-5")


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ({"word_slices": 0}, r"fit\.word_slices: .*greater than 0 \(came: 0\)"),
        ({"words": [40, 3], "word_slices": 4}, "word_slices has 4 actors for 3 words, and each needs one: take fewer"),
        (
            {"word_slices": 2, "init": "kmeans++"},
            r"above 1 starts from random columns: set init = 'random'",
        ),
    ],
)
def test_slices_that_cannot_be_are_refused(fit: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings_of(fit)


def test_slices_of_a_chain_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"fit\.word_slices is 2, and the words of \[hmm\] are not sliced: set"):
        load_settings(PRESETS / "digits_mlp.toml", ["fit.word_slices=2"])


def test_a_chains_words_share_no_variance() -> None:
    with pytest.raises(SettingsError, match=r"fit\.variance_of: must be 'word' with \[hmm\], got 'layer', and"):
        load_settings(PRESETS / "digits_mlp.toml", ["fit.variance_of=layer"])


def test_slices_divide_the_memory_of_an_actor() -> None:
    """16,384 words of 512 units: one of two actors stays below 2 GiB of arrays."""
    settings = settings_of({"words": [16_384], "minibatch": 16_384, "word_slices": 2})
    layer = LayerPlan("add7", "add7", 512, 28, 28, 16_384, 256, None, Window.identity())
    plan = Plan((layer,), tuple("abc"), 1_400, 1_300, 224, 224, "weights")
    whole = settings.model_copy(update={"fit": settings.fit.model_copy(update={"word_slices": 4})})
    two, four = (sliced_bytes(one, plan, layer) // one.fit.word_slices for one in (settings, whole))
    assert 1.0 * 2**30 < two < 2 * 2**30
    assert four < 0.7 * two

"""The fit stage with several scopes and the discriminative loss: every pair once, the same alone and together."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gmm_ops.fitting.collective import LONE
from tests.end_to_end.small_digits import command, run_arguments
from tests.end_to_end.test_invariance import assert_same_arrays
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import read_scopes
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

FIELDS = (
    "fit.loss=discriminative",
    "discriminative.epochs=2",
    "fit.min_images=5",
    "fit.words=[20]",
    'network.layers=["add1","add3"]',
    'mine.images=["misclassified"]',
)
TOGETHER = (
    'fit.scopes=["joint","list"]',
    'fit.lists=[{name="some",classes=["3","8"],rest=true},{name="pair",classes=["1","7"]}]',
)
ALONE = ('fit.scopes=["list"]', 'fit.lists=[{name="pair",classes=["1","7"]}]')


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, digits_weights: Path, local_ray: object) -> RunFolder:
    root = tmp_path_factory.mktemp("together") / "run"
    assert command(run_arguments(root, digits_weights, *FIELDS, *TOGETHER, until="errors")) == 0
    return RunFolder.open(root)


@pytest.mark.slow  # the stage's other tests fit scopes too
def test_every_scope_and_layer_has_a_dictionary_and_4_errors(together: RunFolder) -> None:
    scopes, plan = read_scopes(together), Plan.read(together)
    assert [scope.name for scope in scopes] == ["joint", "list-some", "list-pair"]
    errors = read_table(together.table("errors")).to_pylist()
    pairs = {(scope.name, layer.name) for scope in scopes for layer in plan.layers}
    assert {(row["scope"], row["layer"]) for row in errors} == pairs
    assert len(errors) == 4 * len(pairs) == 24
    for row in errors:
        assert (row["tie"] is None) == (row["loss"] == "generative")
        assert 0 <= row["errors"] <= row["images"]
    images = {row["scope"]: row["images"] for row in errors}
    assert images["joint"] == images["list-some"] > images["list-pair"]
    assert all(together.mixture(*pair).exists() and not together.fit_state(*pair).exists() for pair in pairs)
    history = read_table(together.table("history")).to_pylist()
    assert {(row["scope"], row["layer"], row["phase"]) for row in history} == {
        (*pair, phase) for pair in pairs for phase in ("generative", "discriminative")
    }


@pytest.mark.slow
def test_a_scope_by_itself_comes_to_the_same(
    together: RunFolder, digits_weights: Path, local_ray: object, tmp_path: Path
) -> None:
    root = tmp_path / "alone"
    assert command(run_arguments(root, digits_weights, *FIELDS, *ALONE, until="errors")) == 0
    alone = RunFolder.open(root)
    for layer in Plan.read(alone).layers:
        names = [path.name for path in sorted(alone.mixture("list-pair", layer.name).parent.glob(f"{layer.name}*.npz"))]
        assert len(names) == 3, "both dictionaries, and the linear layers"
        for name in names:
            one, other = (folder.mixture("list-pair", layer.name).with_name(name) for folder in (alone, together))
            assert_same_arrays(load_state(one), load_state(other))
    for table in ("decisions", "errors", "history"):
        key = [("scope", "=", "list-pair")]
        assert read_table(alone.table(table)).equals(read_table(together.table(table), filters=key))


@pytest.mark.slow  # fits say the same of one that diverges
def test_a_diverging_fit_stops_the_run_with_its_name(
    digits_weights: Path, local_ray: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rate climbs from its 25th part, so the fit goes well for a while."""
    root = tmp_path / "run"
    wild_rates = ("discriminative.classifier_rate=100", "discriminative.epochs=6", "fit.checkpoint_steps=5")
    wild = run_arguments(root, digits_weights, *FIELDS, *ALONE, "fit.words=[6]", *wild_rates, until="fit")
    states = []
    for _ in range(2):
        assert command(wild) == 2
        told = " ".join(capsys.readouterr().err.split())
        found = re.search(r"scope list-pair: the discriminative fit of layer (\S+) diverged in step", told)
        assert found is not None, told
        layer = found[1].strip("'")
        assert "Lower mixture_rate or classifier_rate" in told
        assert "Traceback" not in told
        folder = RunFolder.open(root)
        checkpoint = folder.fit_state("list-pair", layer)
        assert f"the last good state is kept in {str(checkpoint)!r}" in told.replace("' '", "")
        states.append(load_state(checkpoint))
        assert not folder.mixture("list-pair", layer).exists()
    assert not folder.table("errors").exists()
    assert not folder.ledger("fit").stage_done(folder.ledger("fit").content().fingerprint or "")
    first, second = (state["loss_history"] for state in states)
    # Checkpoints of the second lie every 5 steps from where it went on, so its last may lie further.
    np.testing.assert_array_equal(first, second[: len(first)])
    goes_on_well(folder, layer)


def goes_on_well(folder: RunFolder, layer: str) -> None:
    """The next step from the checkpoint of a diverged fit, with rates that let nothing diverge."""
    settings, plan = folder.settings(), Plan.read(folder)
    calm = settings.discriminative.model_copy(update={"mixture_rate": 0.0, "classifier_rate": 1e-3})
    cpu = settings.runtime.model_copy(update={"device": "cpu"})
    (scope,) = read_scopes(folder)
    fit = DiscriminativeFit(
        rank=0,
        world=1,
        settings=settings.model_copy(update={"discriminative": calm, "runtime": cpu}),
        plan=plan,
        folder=folder,
        layer=plan.layer(layer),
        scope=scope,
    )
    checkpoint = folder.fit_state(scope.name, layer)
    fit.restore(checkpoint)
    steps = len(load_state(checkpoint)["loss_history"])
    assert steps >= 3, "it went well for a while"
    progress = fit.advance(1, LONE)
    assert progress["step"] == steps + 1
    assert np.isfinite(progress["loss"])

"""A fit by the discriminative loss whose rates are too high: it stops with words, and what it leaves behind is good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmm_ops.fitting.collective import LONE
from tests.workflows.fits.test_discriminative_fit import training_of, worker
from tests.workflows.made_labelled import JOINT, Made, make, settings_of
from workflows.errors import DivergedFit
from workflows.plan.scope import Scope
from workflows.storage.states import load_state


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "run", settings_of())


@pytest.mark.parametrize("name", ["classifier_rate", "mixture_rate"])
def test_a_diverging_fit_names_scope_layer_and_rates(made: Made, name: str) -> None:
    fit = worker(made, JOINT, **{name: 1e5})
    fit.restore(None)
    with pytest.raises(DivergedFit) as error:
        fit.advance(10**6, LONE)
    words = str(error.value)
    assert "scope joint: the discriminative fit of layer made diverged in step" in words
    assert "Lower mixture_rate or classifier_rate" in words
    assert f"discriminative.{name}" in words
    assert "100000" in words
    assert "no checkpoint was due before" in words


def test_a_checkpoint_never_holds_the_state_that_diverges(made: Made, tmp_path: Path) -> None:
    """A bad step shows at the next minibatch: what it led to must not have replaced the last good state by then."""
    wild, path = worker(made, classifier_rate=300.0, epochs=6), tmp_path / "state.npz"
    wild.restore(None)

    def step_by_step() -> None:
        while not wild.done:
            wild.advance(1, LONE)
            wild.save(path)

    with pytest.raises(DivergedFit, match="diverged in step"):
        step_by_step()
    steps = len(load_state(path)["loss_history"])
    assert steps > 5, "it went well for a while"
    calm = worker(made, classifier_rate=1e-3, mixture_rate=0.0, epochs=6)
    calm.restore(path)
    assert calm.advance(1, LONE)["step"] == steps + 1
    assert training_of(calm).rows[-1].loss < training_of(calm).limits.max_loss * np.log(10)


@pytest.mark.parametrize("labels", [(2, 5), *(pytest.param(one, marks=pytest.mark.slow) for one in ((3, 8), (1, 7)))])
def test_a_scope_of_few_images_does_not_diverge_by_chance(made: Made, labels: tuple[int, int]) -> None:
    """At the default rates; minibatches of one or two images had losses far above that of guessing."""
    fit = worker(made, Scope("list-pair", labels, False, labels), batch=100, epochs=10, patience=10)
    fit.restore(None)
    assert fit.advance(10**6, LONE)["done"]
    losses = [row.loss for row in training_of(fit).rows]
    assert max(losses) < 3 * np.log(2)
    assert losses[-1] < 0.3 * np.log(2)

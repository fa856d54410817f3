"""The discriminative loss on real columns of ResNet-20: one actor and two take the same 200 steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.small_digits import command
from tests.workflows.words.decided import decided, errors_of
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import JOINT, joint_scope
from workflows.runtime.fit_group import FitJob, run_fit
from workflows.runtime.generation import GroupSettings
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.words.decisions import FittedLayer
from workflows.words.dictionaries import classifier_path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray", "shared_data")]
STEPS = 200
FIELDS = (
    "network.layers=['add9']",
    "fit.words=[50]",
    "fit.loss=discriminative",
    "discriminative.patience=6",
    "data.max_train=2000",
    "data.max_validation=1000",
)


@dataclass(frozen=True)
class Fitted:
    """What a fit came to: words and their linear layer, and validation images that each way gets wrong."""

    parameters: dict[str, np.ndarray]
    errors: dict[str, int]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, local_ray: object, shared_data: Path) -> RunFolder:
    root = tmp_path_factory.mktemp("cifar10") / "run"
    fields = [part for field in FIELDS for part in ("--set", field)]
    assert command(["run", "cifar10_resnet20", "--out", str(root), *fields, "--until", "extract"]) == 0
    return RunFolder.open(root)


def fitted_by(world: int, folder: RunFolder, place: Path, **discriminative: object) -> Fitted:
    settings, plan = folder.settings(), Plan.read(folder)
    settings = settings.model_copy(
        update={
            "discriminative": settings.discriminative.model_copy(update=discriminative),
            "runtime": settings.runtime.model_copy(update={"device": "cpu"}),
        }
    )
    out, layer = RunFolder(place / str(world)), plan.layers[0]
    inputs = {"settings": settings, "plan": plan, "folder": folder, "scope": joint_scope(plan), "out": out}
    job = FitJob("add9", DiscriminativeFit, out.fit_state(JOINT, layer.name), inputs | {"layer": layer})
    record = run_fit(job, GroupSettings(n_actors=world, num_cpus=0.5, checkpoint_steps=100))
    assert record["loss_steps"] >= STEPS
    stored = load_state(classifier_path(out, JOINT, layer.name))
    words = load_state(out.mixture(JOINT, layer.name))
    parameters = {name: stored[f"discriminative_{name}"] for name in ("weight", "bias")} | words
    rows = decided(settings, plan, folder, [FittedLayer("add9", joint_scope(plan), layer, out)], out.decisions)
    floats = {name: values for name, values in parameters.items() if values.dtype == np.float64}
    return Fitted(floats, errors_of(rows))


def distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(left - right) / np.linalg.norm(left))


@pytest.mark.parametrize(("precision", "bound", "images"), [("float64", 1e-9, 0), ("float32", 1e-4, 1)])
def test_two_actors_take_the_steps_of_one(
    extracted: RunFolder, tmp_path: Path, precision: str, bound: float, images: int
) -> None:
    """float64 from the paper's start, which has the same bits for both; float32 as presets have it."""
    start = "paper" if precision == "float64" else "generative"
    one, two = (fitted_by(world, extracted, tmp_path, precision=precision, start=start) for world in (1, 2))
    assert one.parameters.keys() == two.parameters.keys() >= {"mean", "variance", "weight"}
    found = {name: distance(values, two.parameters[name]) for name, values in one.parameters.items()}
    print(f"{precision}: {found}, errors {one.errors} and {two.errors}")
    for name, value in found.items():
        assert value < bound, name
    for way, count in one.errors.items():
        assert abs(count - two.errors[way]) <= (images if way.startswith("discriminative") else 1), way
    assert one.errors["discriminative_soft"] < 200, "a fifth of 1,000: the words carry the decision"

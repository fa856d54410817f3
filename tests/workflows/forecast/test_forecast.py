"""What a run will take: counted, tried on few images, and told; what cannot fit is refused before any trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from tests.end_to_end.small_digits import command
from tests.workflows.plan.test_scopes import PLAN
from workflows.cli.options import find_preset
from workflows.cli.status import stage_statuses, status_table
from workflows.errors import SettingsError
from workflows.forecast.amounts import Amounts, ScopeLoad, graphs_of, makespan
from workflows.forecast.forecasts import forecast_of, forecast_path
from workflows.forecast.foreseeing import Meant, foresee
from workflows.forecast.scaling import Machines
from workflows.plan.scopes import joint_scope
from workflows.settings import Settings, load_settings
from workflows.storage.run_folder import RunFolder

SMALL = (
    "data.max_train=240",
    "data.max_validation=40",
    "training.epochs=1",
    "extract.images_per_shard=20",
    "extract.images_per_chunk=20",
    "extract.batch=20",
    "fit.loss=generative",
    "fit.words=6",
    "fit.epochs=1",
    "draw.exemplars=1",
    'mine.classes=["0"]',
    "mine.images=[]",
    "runtime.actors=2",
)


def settings_of(*overrides: str) -> Settings:
    return load_settings(find_preset("digits"), (*SMALL, *overrides))


def plan_of(root: Path, overrides: Sequence[str], *options: str) -> int:
    fields = [part for field in (*SMALL, *overrides) for part in ("--set", field)]
    return command(["plan", "digits", "--out", str(root), *fields, *options])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "runtime.memory_gb=0.001",
            ("the plan needs ", " of memory and 1 MB are allowed by runtime.memory_gb"),
        ),
        ("runtime.disk_margin=1e9", ("the run needs ", " more disk in ", " are free ", "lower data.max_train")),
    ],
    ids=["memory", "disk"],
)
def test_what_cannot_fit_is_refused_before_a_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, words: tuple[str, ...]
) -> None:
    assert plan_of(tmp_path / "run", [override]) == 2
    told = capsys.readouterr().err
    assert all(part in " ".join(told.split()) for part in words), told
    assert list(tmp_path.iterdir()) == []


def test_gpus_that_nobody_can_measure_need_their_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert plan_of(tmp_path / "run", [], "--gpus-per-node", "8") == 2
    assert "--gpu-speed: must be given with --gpus-per-node 8" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_plan_says_what_every_stage_takes_and_status_shows_it(tmp_path: Path) -> None:
    settings, root = settings_of(), tmp_path / "run"
    found = foresee(settings, root, Machines())
    by_name = {stage.name: stage for stage in found.stages}
    assert list(by_name) == [
        "index",
        "train",
        "extract",
        "fit",
        "errors",
        "words",
        "paths",
        "count",
        "effects",
        "mine",
        "draw",
    ]
    assert all(by_name[name].seconds > 0 for name in ("index", "train", "extract", "fit", "words", "count", "draw"))
    # Whole maps of 16x16, 8x8 and so on in float16, which hardly pack, of all 280 images.
    assert 0.4 * found.disk_at_most < by_name["extract"].size < found.disk_at_most
    assert by_name["extract"].files > 14 * 3
    assert (found.nodes, found.actors) == (1, 2)
    assert found.memory < found.memory_there
    assert list(tmp_path.iterdir()) == [], "the trial leaves nothing"

    assert found.write(root, settings) == forecast_path(root)
    folder = RunFolder.create_or_open(root, settings)
    assert forecast_of(folder) == found
    rows = stage_statuses(root)
    assert [row.planned_size for row in rows] == [stage.size for stage in found.stages]
    headers = [str(column.header) for column in status_table(rows).columns]
    assert headers[-2:] == ["planned time", "planned size"]

    other = RunFolder.create_or_open(tmp_path / "other", settings_of("fit.words=7"))
    forecast_path(root).rename(forecast_path(other.root))
    assert forecast_of(other) is None, "a plan of other settings says nothing about a run"
    forecast_path(root).write_text(json.dumps({"settings": {}}))
    assert forecast_of(folder) is None


def test_images_that_are_elsewhere_are_spread_over_the_classes() -> None:
    settings, labels = settings_of(), np.array([0, 1, 1, 0, 1], np.int32)
    plan, spread = Meant(1000, 3)(settings, PLAN, labels)
    assert (plan.images, plan.train_images) == (1000, 750), "as the source draws its validation images"
    assert np.bincount(spread[:750]).tolist() == [250, 250, 250]
    assert np.bincount(spread[750:]).tolist() == [84, 83, 83]
    assert np.unique(Meant(1000)(settings, PLAN, labels)[1]).tolist() == [0, 1]
    with pytest.raises(SettingsError, match="--classes: must be at most 5, the outputs of the network, got 11"):
        Meant(1000, 11)(settings, PLAN, labels)
    with pytest.raises(SettingsError, match="--images: must leave each of 4 classes an image to train with, got 4"):
        Meant(4, 4)(settings, PLAN, labels)


def test_images_that_are_elsewhere_must_fit_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_of(tmp_path / "run", [], "--images", "20000000", "--free-disk", "0.1") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "the run needs " in told
    assert "and 100 GB are free" in told
    assert "lower data.max_train" in told


def test_the_busiest_slot_is_what_fits_take() -> None:
    assert makespan([3.0, 1.0, 2.0], 1) == 6.0
    assert makespan([3.0, 1.0, 2.0], 2) == 3.0
    assert makespan([3.0, 1.0, 2.0], 9) == 3.0
    assert makespan([], 2) == 0.0


def test_amounts_add_up_over_scopes() -> None:
    few = Amounts(
        images=12,
        stored=12,
        padding=1.0,
        shards=2,
        trained=0,
        scopes=(ScopeLoad(8, 4, 2), ScopeLoad(2, 1, 2)),
        fits=MappingProxyType({"low": (5.0, 4.0), "high": (3.0,)}),
        steps=12,
        mixtures=100,
        graphs=3,
        figures=MappingProxyType({"class": 3, "fit": 2}),
    )
    assert (few.assigned, few.counted, few.drawn) == (15, 5, 5)
    assert few.fitted == 3


@pytest.mark.parametrize(
    ("criterion", "kinds"),
    [
        ("likelihood", {"class": 1, "image": 2}),
        ("effect", {"effect": 3}),
        ("both", {"class": 1, "image": 2, "effect": 3}),
    ],
)
def test_graphs_of_every_criterion_are_counted(criterion: str, kinds: dict[str, int]) -> None:
    settings = settings_of("mine.images=['1', '2']", f"mine.criterion={criterion}")
    assert graphs_of(settings, PLAN, [joint_scope(PLAN)], wrong=0.5) == kinds

"""The plan of a run over a chain of dense layers, and what is refused before any long work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.small_digits import command
from workflows.cli.options import find_preset
from workflows.data.datasets import index_images
from workflows.errors import DataError, NetworkError, SettingsError
from workflows.fits.needs import disk_needs, memory_needs
from workflows.plan.run_plan import Plan
from workflows.plan.scope_sizes import ScopeSize, refuse_small_scopes, thin_dictionaries
from workflows.plan.scopes import joint_scope
from workflows.settings import Settings, load_settings
from workflows.stages.index import check_requests, make_plan, planned_network
from workflows.storage.run_folder import RunFolder


def joint_size(plan: Plan) -> ScopeSize:
    """All training images of a plan, as if of one class; a tenth is held out."""
    return ScopeSize(joint_scope(plan), (plan.train_images,), int(plan.train_images * 0.9))


def settings_of(*overrides: str) -> Settings:
    return load_settings(find_preset("digits_mlp"), overrides)


def plan_of(root: Path, *overrides: str) -> Plan:
    settings = settings_of(*overrides)
    folder = RunFolder.create_or_open(root, settings)
    index = index_images(settings.data, settings.seed)
    return make_plan(settings, index, folder, planned_network(settings).network)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_of(tmp_path_factory.mktemp("plan") / "run")


def test_the_chain_is_planned_behind_its_relus(plan: Plan) -> None:
    assert [(layer.name, layer.given) for layer in plan.layers] == [
        ("relu1", "dense1"),
        ("relu2", "dense2"),
        ("relu3", "dense3"),
    ]
    assert [(layer.units, layer.height, layer.width) for layer in plan.layers] == [(64, 1, 1), (48, 1, 1), (32, 1, 1)]
    assert all(layer.rectified and layer.all_stored and layer.words == 20 for layer in plan.layers)
    assert plan.stores_everything
    pairs = ["relu3__output", "relu2__relu3", "relu1__relu2"]
    assert [pair.name for pair in plan.pairs()] == pairs
    assert Plan.from_json(plan.to_json()) == plan


def test_gaussian_output_plans_the_logits_as_one_more_layer(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run", "hmm.output=gaussian", "fit.words=[5,6,7,8]")
    assert [layer.name for layer in plan.layers] == ["relu1", "relu2", "relu3", "logits"]
    assert [layer.rectified for layer in plan.layers] == [True, True, True, False]
    assert [layer.words for layer in plan.layers] == [5, 6, 7, 8]
    assert plan.layers[-1].units == 10


def test_named_layers_keep_their_names(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run", 'network.layers=["dense1","relu3"]', "fit.words=[5,6]")
    assert [(layer.name, layer.given) for layer in plan.layers] == [("relu1", "dense1"), ("relu3", "relu3")]


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["fit.words=[5,6]"], SettingsError, "fit.words has 2 numbers for 3 layers"),
        (["hmm.output=gaussian", "fit.words=[5,6,7]"], SettingsError, "fit.words has 3 numbers for 4 layers"),
        (['network.layers=["dense2","dense1"]'], NetworkError, "is not the order of the chain.*dense1, dense2"),
        (['network.layers=["dens1"]'], NetworkError, "the network has no layer 'dens1'; the nearest are dense1"),
        (
            ["network.name=workflows.networks.architectures:digits_resnet", "network.arguments={}"],
            NetworkError,
            "at least 1 hidden dense layer before that of the logits, only 'linear'",
        ),
    ],
)
def test_layers_that_are_no_chain_are_refused(
    tmp_path: Path, overrides: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_of(tmp_path / "run", *overrides)


def test_more_words_than_images_are_refused(plan: Plan) -> None:
    settings = settings_of()
    few = replace(plan, images=30, train_images=20)
    words = (
        r"fit\.words: layer 'dense1' has 20 words but only 18 images to fit them on \(20 training images, the others"
    )
    with pytest.raises(SettingsError, match=words):
        refuse_small_scopes(settings, few, [joint_size(few)])
    some, many = replace(plan, images=130, train_images=120), replace(plan, images=1000, train_images=300)
    (*_, last) = found = thin_dictionaries(settings, some, [joint_size(some)])
    assert found[0].startswith("layer 'dense1': 20 words on 108 images; below 10 images a")
    assert last.startswith("layer 'dense3'")
    assert thin_dictionaries(settings, many, [joint_size(many)]) == []


def test_paths_of_images_that_do_not_exist_are_refused(plan: Plan) -> None:
    check_requests(settings_of('draw.paths=["misclassified:12", "0", "1796"]'), plan, [joint_scope(plan)])
    with pytest.raises(DataError, match=r"draw\.paths: '1797' is no image; give ids from 0 to 1796"):
        check_requests(settings_of('draw.paths=["1797"]'), plan, [joint_scope(plan)])
    with pytest.raises(DataError, match=r"mine\.images: 'misclassified:0' is no image"):
        check_requests(settings_of('mine.images=["misclassified:0"]'), plan, [joint_scope(plan)])


def test_a_chain_that_cannot_be_leaves_no_run_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    assert command(["run", "digits_mlp", "--out", str(root), "--set", "fit.words=2000"]) != 0
    assert "has 2000 words but only" in " ".join(capsys.readouterr().err.split())
    assert command(["run", "digits_mlp", "--out", str(root), "--until", "index"]) == 0


def test_a_chain_needs_disk_for_its_activations_words_and_paths(plan: Plan) -> None:
    needs = disk_needs(settings_of(), plan)
    assert needs["activations"] == plan.images * (64 + 48 + 32) * 2
    assert needs["path_parts"] == 2 * plan.images * 4 * 100
    assert "path_parts" not in disk_needs(load_settings(find_preset("digits")), plan)


def test_a_chain_needs_memory_for_its_restarts_at_once(plan: Plan) -> None:
    def needs(images: int, actors: int, *overrides: str) -> int:
        wide = replace(plan.layers[0], units=4096, words=400)
        large = replace(plan, images=images, train_images=images - 1000, layers=(wide, wide))
        held = memory_needs(settings_of(*overrides), large, actors)
        return next(size for title, size in held.items() if "fits" in title)

    assert needs(4_000_000, 2) == needs(40_000_000, 2)
    one, three = (needs(1_000_000, actors, "hmm.restarts=3") for actors in (1, 3))
    assert three == 3 * one
    assert needs(1_000_000, 3, "hmm.restarts=1") == one
    assert needs(1_000_000, 3, "hmm.restarts=3", "runtime.fit_actors=3") == one

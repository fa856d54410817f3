"""Ledgers held against a folder: what was deleted is found by names alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from gmm_ops.graphs.windows import Window
from workflows.errors import StorageFault
from workflows.plan.expected import Lost, Made, find_lost
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings, parse_settings
from workflows.storage.names import item_name
from workflows.storage.run_folder import RunFolder

SCOPES, LAYERS = ("joint", "class-3"), ("low", "high")


def plan() -> Plan:
    window = Window.whole()
    layers = [LayerPlan(name, name, 4, 2, 2, 3, 4, window, window) for name in LAYERS]
    return Plan(tuple(layers), ("a", "b"), 6, 4, 8, 8, "torchvision:vgg16")


def settings() -> Settings:
    network = {"name": "torchvision:vgg16", "weights": "torchvision:VGG16", "layers": list(LAYERS)}
    return parse_settings({"name": "x", "data": {"source": "digits"}, "network": network, "fit": {"words": 3}})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Names of what a run of two scopes and two layers writes in its stages extract, fit, words and draw."""
    run = RunFolder(tmp_path)
    items: dict[str, dict[object, dict[str, object]]] = {"extract": {}, "fit": {}, "words": {}, "draw": {}}
    run.scopes_file.write_text(json.dumps([{"name": name} for name in SCOPES]))
    made = [run.table("history")]
    for layer in LAYERS:
        made.append(run.activations(layer) / "zarr.json")
        for scope in SCOPES:
            items["fit"][item_name(scope, layer)] = {}
            path = run.mixture(scope, layer)
            made += [path.with_suffix(kind) for kind in (".npz", ".history.parquet", ".generative.npz")]
            made.append(path.with_suffix(".classifier.npz"))
            made += [run.words(scope, layer, part) / "zarr.json" for part in (None, "posterior", "log_joint")]
    for shard in range(3):
        items["extract"][shard] = {}
        items["words"][shard] = {"names": ["joint"] if shard else [*SCOPES]}
        made.append(run.predictions_dir / f"{shard:06d}.parquet")
    for scope in SCOPES:
        items["draw"][item_name(scope, "class:1")] = {}
        made += [run.figure("class:1", ending, scope) for ending in ("png", "svg")]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for stage, of_stage in items.items():
        run.ledger(stage).begin("f", len(of_stage))
        for item, record in of_stage.items():
            run.ledger(stage).record(item, **record)  # type: ignore[arg-type]
        run.ledger(stage).end()
    return run


def lost(folder: RunFolder, stage: str) -> Lost:
    return find_lost(stage, Made(folder, settings(), plan(), folder.ledger(stage).content()))


def test_nothing_is_lost_of_a_whole_run(folder: RunFolder) -> None:
    for stage in ("extract", "fit", "words", "draw"):
        assert lost(folder, stage) == Lost(frozenset(), ())


def test_a_deleted_artefact_is_the_work_of_its_items(folder: RunFolder) -> None:
    (folder.predictions_dir / "000001.parquet").unlink()
    assert lost(folder, "extract").items == {1}
    shutil.rmtree(folder.activations("high"))
    assert lost(folder, "extract").items == {0, 1, 2}
    folder.mixture("class-3", "low").unlink()
    folder.table("history").unlink()
    found = lost(folder, "fit")
    assert found.items == {"class-3/low"}
    assert set(found.paths) == {folder.mixture("class-3", "low"), folder.table("history")}
    shutil.rmtree(folder.words("class-3", "high", "posterior"))
    assert lost(folder, "words").items == {0}
    shutil.rmtree(folder.root / "words" / "joint")
    assert lost(folder, "words").items == {0, 1, 2}
    folder.figure("class:1", "svg").unlink()
    assert lost(folder, "draw").items == {"class:1"}
    shutil.rmtree(folder.figures)
    assert lost(folder, "draw").items == {"class:1", "class-3/class:1"}


def test_a_lost_file_of_few_maps_is_the_work_of_its_shard(folder: RunFolder) -> None:
    for layer in LAYERS:
        for part in (None, "posterior", "log_joint"):
            shutil.rmtree(folder.words("class-3", layer, part))
        folder.words_shard("class-3", layer, 0).touch()
    index = folder.words_index("class-3")
    assert lost(folder, "words") == Lost(frozenset({0}), (index,)), "of every image, or of none that is known"
    index.touch()
    assert lost(folder, "words") == Lost(frozenset(), ())
    path = folder.words_shard("class-3", "high", 0)
    path.unlink()
    assert lost(folder, "words") == Lost(frozenset({0}), (path,))


def test_the_file_of_scopes_is_missed_and_scopes_are_still_known(folder: RunFolder) -> None:
    folder.scopes_file.unlink()
    folder.mixture("class-3", "low").unlink()
    assert lost(folder, "fit").items == {"class-3/low"}
    assert folder.scopes_file in lost(folder, "fit").paths


def test_what_a_training_keeps_is_missed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    training = {"epochs": 5, "keep_epochs": 2, "objective": "vae_gan", "learning_rate": 0.001}
    network = {"name": "workflows.networks.architectures:PictureEncoder", "weights": "train", "layers": ["conv1"]}
    told = {"name": "x", "data": {"source": "scenes"}, "network": network | {"outputs": "none"}}
    chosen = parse_settings(told | {"training": training, "fit": {"words": 3}})
    written = [run.weights, run.decoder, run.figure("rebuilt", "png"), run.figure("rebuilt", "svg")]
    written += [run.checkpoint(epoch) for epoch in (1, 2, 4)]
    content = run.ledger("train").content()
    assert find_lost("train", Made(run, chosen, plan(), content)) == Lost(frozenset(), ()), "nothing is done"
    run.ledger("train").begin("f", 1)
    run.ledger("train").record("network")
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    content = run.ledger("train").content()
    assert find_lost("train", Made(run, chosen, plan(), content)) == Lost(frozenset(), ())
    for path in written:
        path.unlink()
        assert find_lost("train", Made(run, chosen, plan(), content)) == Lost(frozenset({"network"}), (path,))
        path.touch()


def test_freed_columns_are_not_missed(folder: RunFolder) -> None:
    folder.ledger("extract").clean()
    shutil.rmtree(folder.root / "activations")
    assert not lost(folder, "extract").paths


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> list[str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.listdir", away)
    with pytest.raises(StorageFault, match=r"must be readable, got Input/output error; see to it"):
        lost(folder, "extract")


def test_a_damaged_shard_voids_itself_alone(folder: RunFolder) -> None:
    made = Made(folder, settings(), plan(), folder.ledger("extract").content())
    found = find_lost("extract", made, lambda path: [2] if path == folder.activations("low") else None)
    assert found.items == {2}
    found = find_lost("extract", dataclasses.replace(made), lambda path: () if path.suffix == ".zarr" else None)
    assert found.items == {0, 1, 2}


def test_a_count_is_missed_with_all_that_it_wrote(folder: RunFolder) -> None:
    """Folds and moments are expected of the items that wrote some, whatever is asked for now."""
    key = "joint", "low", "high"
    item = item_name("joint", "low__high")
    ledger = folder.ledger("count")
    ledger.begin("f", 1)
    ledger.record(item, pairs=3, folds=20, intervals=True)
    ledger.end()
    written = [folder.cooccurrence(*key), folder.fold_counts(*key), folder.pair_moments(*key)]
    written += [folder.table(name) for name in ("words", "exemplars", "layers")]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert lost(folder, "count") == Lost(frozenset(), ())
    for path in written[1:3]:
        path.unlink()
        assert lost(folder, "count") == Lost(frozenset({item}), (path,))
        ledger.record(item, pairs=3, folds=0, intervals=False)
        assert lost(folder, "count") == Lost(frozenset(), ())
        ledger.record(item, pairs=3, folds=20, intervals=True)
        path.touch()

"""Weights of safetensors and from URIs: the same network, fetched once into the run, never taken for others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.end_to_end.folder_runs import save_weights, write_folder_run
from tests.end_to_end.small_digits import command
from workflows.errors import NetworkError, StorageFault
from workflows.networks.loading import load_network, read_state_dict
from workflows.plan.run_inputs import with_fetched_weights
from workflows.plan.run_plan import Plan
from workflows.settings import Settings, parse_settings
from workflows.storage import object_store
from workflows.storage.identities import hash_of
from workflows.storage.object_store import upload
from workflows.storage.run_folder import RunFolder


@pytest.fixture
def uri(tmp_path: Path, bucket: str) -> str:
    save_file(save_weights(tmp_path / "w.pt"), tmp_path / "w.safetensors")
    for name in ("w.safetensors", "w.pt"):
        upload(tmp_path / name, f"{bucket}/weights/{name}")
    return f"{bucket}/weights/w.safetensors"


def settings_with(weights: str) -> Settings:
    network = {"name": "workflows.networks.architectures:digits_resnet", "arguments": {"n_classes": 3}}
    data = {"source": "folders", "folders": ["a"]}
    return parse_settings(
        {"name": "a", "data": data, "network": {**network, "weights": weights, "layers": ["add1"]}, "fit": {"words": 5}}
    )


def fetched_weights(uri: str, root: Path) -> Path:
    return Path(with_fetched_weights(settings_with(uri), RunFolder(root)).network.weights)


def test_safetensors_and_uris_are_the_same_network(tmp_path: Path, uri: str) -> None:
    images = torch.rand(2, 3, 32, 32)
    places = [str(tmp_path / name) for name in ("w.pt", "w.safetensors")]
    places += [str(fetched_weights(one, tmp_path / "run")) for one in (uri, uri.replace(".safetensors", ".pt"))]
    outputs = [load_network(settings_with(place).network)(images) for place in places]
    assert all(torch.equal(one, outputs[0]) for one in outputs)
    assert [Path(place).name for place in places[2:]] == ["weights-w.safetensors", "weights-w.state"]


def test_fetched_once_and_never_taken_for_others(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetched_weights(uri, tmp_path / "run")
    told = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    assert (told["uri"], told["sha256"]) == (uri, hash_of(tmp_path / "w.safetensors"))
    assert told["etag"] == object_store.look_at(uri).etag
    with monkeypatch.context() as patch:
        patch.setattr("workflows.plan.run_inputs.download", None)
        assert fetched_weights(uri, tmp_path / "run") == path
    path.write_bytes(path.read_bytes()[:-100])
    assert hash_of(fetched_weights(uri, tmp_path / "run")) == told["sha256"]
    path.unlink()
    save_file({"fc.bias": torch.arange(3.0)}, tmp_path / "other.safetensors")
    upload(tmp_path / "other.safetensors", uri)
    with pytest.raises(
        NetworkError,
        match=rf"{uri}': must be the file that the run has fetched first.* {told['sha256'][:12]}, the file",
    ):
        fetched_weights(uri, tmp_path / "run")
    assert not path.exists()


def test_what_is_refused(tmp_path: Path, bucket: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        NetworkError, match=r"network.weights 's3://.*/none.pt': there is no such file in the object st"
    ):
        fetched_weights(f"{bucket}/none.pt", tmp_path / "run")
    with pytest.raises(NetworkError, match=r"network.weights '.*/none.safetensors' does not exist"):
        read_state_dict(str(tmp_path / "none.safetensors"))
    spoilt = tmp_path / "spoilt.safetensors"
    spoilt.write_bytes((tmp_path / "w.safetensors").read_bytes()[:-100])
    with pytest.raises(NetworkError, match=r"damaged or no file of safetensors"):
        read_state_dict(str(spoilt))
    shutil.copy(tmp_path / "w.pt", spoilt)
    with pytest.raises(NetworkError, match=r"damaged or no file of safetensors"):
        read_state_dict(str(spoilt))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(object_store, "_WAITING", {"max_retries": 0})
    object_store._store.cache_clear()
    try:
        with pytest.raises(StorageFault, match=r"must be readable, got the object store does not answer"):
            fetched_weights(uri, tmp_path / "run")
    finally:
        object_store._store.cache_clear()
    assert not list((tmp_path / "run").rglob("*.*"))


def test_a_run_stands_on_its_own_copy(
    tmp_path: Path, uri: str, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_folder_run(tmp_path, images_a_class=6)
    fields = [f"network.weights={uri}"]
    assert command(made.arguments(["network.weights=" + f"{bucket}/none.pt"])) == 2
    assert {path.name for path in made.out.iterdir()} <= {".lock"}
    assert command(made.arguments(fields)) == 0
    moved = made.out.rename(tmp_path / "moved")
    plan = Plan.read(RunFolder(moved))
    assert Path(plan.weights) == moved / "fetched" / "weights-w.safetensors"
    assert plan.weights_file is not None
    assert plan.weights_file.sha256 == hash_of(tmp_path / "w.safetensors")
    moved.rename(made.out)
    copy = made.out / "fetched" / "weights-w.safetensors"
    # Deleted, it is fetched again; another is refused.
    copy.unlink()
    assert command(made.arguments(fields)) == 0
    assert hash_of(copy) == plan.weights_file.sha256
    save_file({"fc.bias": torch.arange(3.0)}, copy)
    capsys.readouterr()
    assert command(made.arguments(fields)) == 2
    assert f"SHA-256 {plan.weights_file.sha256[:12]}, the file SHA-256 " in capsys.readouterr().err

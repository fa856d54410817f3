"""Weights of safetensors and from URIs: the same network, downloaded once, again when they change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.end_to_end.folder_runs import save_weights
from workflows.errors import NetworkError
from workflows.networks.loading import load_network, read_state_dict
from workflows.networks.weight_files import CACHE_VARIABLE, local_weights
from workflows.settings import NetworkSettings
from workflows.storage import object_store
from workflows.storage.object_store import upload


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def uri(tmp_path: Path, bucket: str) -> str:
    save_file(save_weights(tmp_path / "w.pt"), tmp_path / "w.safetensors")
    upload(tmp_path / "w.safetensors", f"{bucket}/weights/w.safetensors")
    return f"{bucket}/weights/w.safetensors"


def network(weights: str) -> torch.nn.Module:
    name, arguments = "workflows.networks.architectures:digits_resnet", {"n_classes": 3}
    return load_network(NetworkSettings(name=name, arguments=arguments, weights=weights, layers=("add1",)))


def test_safetensors_and_uris_are_the_same_network(tmp_path: Path, uri: str) -> None:
    images = torch.rand(2, 3, 32, 32)
    expected = network(str(tmp_path / "w.pt"))(images)
    for weights in (str(tmp_path / "w.safetensors"), uri):
        assert torch.equal(network(weights)(images), expected)


def test_downloaded_once_and_again_when_they_change(
    tmp_path: Path, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = local_weights(uri, "network.weights")
    assert path.is_relative_to(cache)
    assert path.read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("workflows.networks.weight_files.download", None)
        assert local_weights(uri, "network.weights") == path
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.write_bytes(spoilt)
    os.utime(path)
    assert local_weights(uri, "network.weights").read_bytes() == (tmp_path / "w.safetensors").read_bytes()
    other = {"fc.bias": torch.arange(3.0)}
    save_file(other, tmp_path / "other.safetensors")
    upload(tmp_path / "other.safetensors", uri)
    assert torch.equal(read_state_dict(uri)["fc.bias"], other["fc.bias"])


def test_what_is_refused(tmp_path: Path, bucket: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match=r"training.start 's3://.*/none.pt': must be .* no such file"):
        read_state_dict(f"{bucket}/none.pt", "training.start")
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
        with pytest.raises(NetworkError, match=r"got the object store does not answer.*correct the URI"):
            read_state_dict(uri)
    finally:
        object_store._store.cache_clear()

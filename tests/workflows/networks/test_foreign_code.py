"""Whose code a preset may run: networks of libraries, this project and the current folder, and what is allowed."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflows.errors import NetworkError
from workflows.networks.foreign_code import refuse_foreign_code
from workflows.networks.loading import build_network
from workflows.settings import NetworkSettings


def named(name: str, **arguments: object) -> NetworkSettings:
    return NetworkSettings(name=name, arguments=arguments, weights="train", layers=("x",))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package outside the current folder that Python finds, as if it were installed."""
    place = tmp_path / "installed"
    place.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    text = "from pathlib import Path\nfrom torch import nn\nPath('imported').touch()\ndef net(): return nn.ReLU()\n"
    (place / "foreign_net.py").write_text(text)
    yield here
    sys.modules.pop("foreign_net", None)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:exec",
        "subprocess:run",
        "sys:exit",
        "pathlib:Path",
        "shutil:rmtree",
        "torchvision.datasets.utils:download_url",
        "torchvision.models.resnet:partial",
        "workflows.storage.atomic:write_bytes",
        "workflows.networks.architectures:pairwise",
        "__main__:main",
    ],
)
def test_what_is_no_network_is_neither_imported_nor_called(name: str) -> None:
    asked = named(name, command="touch called", path="called")
    package = name.partition(".")[0].partition(":")[0]
    words = rf"network\.name: must be of torchvision, .*got '{name}'.*if you trust it, give --allow-code {package}"
    with pytest.raises(NetworkError, match=words):
        build_network(asked)
    assert not Path("called").exists()


def test_a_package_from_elsewhere_is_imported_once_it_is_allowed(elsewhere: Path) -> None:
    with pytest.raises(NetworkError, match=r"'foreign_net:net', and its code is foreign; .*--allow-code foreign_net"):
        build_network(named("foreign_net:net"))
    assert not (elsewhere / "imported").exists(), "it ran already"
    build_network(named("foreign_net:net").allowing(("foreign_net",)))
    assert (elsewhere / "imported").exists()


def test_the_current_folder_is_vouched_for_in_the_driver_alone(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "own_one.py").write_text("from torch import nn\ndef net(): return nn.ReLU()\n")
    checked = refuse_foreign_code(named("own_one:net"))
    sent = pickle.loads(pickle.dumps(checked))
    assert sent.allowed_code == ("own_one",)
    assert sent.model_copy(update={"weights": "w.pt"}).allowed_code == ("own_one",)
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [*sys.path, str(elsewhere)])
    build_network(sent)  # as an actor that was started elsewhere
    with pytest.raises(NetworkError, match="its code is foreign"):
        build_network(named("own_one:net"))
    del sys.modules["own_one"]


def test_a_file_called_like_a_package_does_not_vouch_for_it(elsewhere: Path) -> None:
    (elsewhere / "os.py").write_text("")
    (elsewhere / "foreign_net.py").write_text("")
    for name in ("os:system", "foreign_net:net"):
        with pytest.raises(NetworkError, match="its code is foreign"):
            build_network(named(name, command="touch called"))
    assert not (elsewhere / "imported").exists()


def test_neither_a_preset_nor_a_run_folder_can_allow_code() -> None:
    allowed = named("foreign_net:net").allowing(("foreign_net",))
    assert "foreign_net" not in str({**allowed.model_dump(mode="json"), "name": ""})
    for field in ("allowed_code", "_allowed_code"):
        raw = {"name": "os:system", "weights": "train", "layers": ["x"], field: ["os"]}
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            NetworkSettings.model_validate(raw)

"""The one node of a local Ray, asked as those of a joined cluster are; unlike ones: ``test_unlike_hosts``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workflows.runtime.host_workers import Looker, look, together
from workflows.errors import DataError, RunError
from workflows.runtime import nodes
from workflows.runtime.cluster import resources
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.nodes import Nodes
from workflows.runtime.pool_settings import PoolSettings
from workflows.runtime.reductions import tree_reduce
from workflows.versions import versions

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "image").write_text("1")
    return tmp_path / "image"


@pytest.fixture
def known(image: Path) -> Iterator[Nodes]:
    yield nodes.begin(image.with_name("run.json"), None, joined=True)
    nodes.begin(None, None, joined=False)


@pytest.mark.slow
def test_a_node_works_once_it_has_proved_what_it_must(known: Nodes, image: Path) -> None:
    assert resources().nodes == 0, "nobody has been asked"
    known.greet_all()
    assert resources().nodes == 1
    (node,) = known.usable()
    pool = PoolSettings(1, threads=None, width=lambda: 2)
    records = map_shards(Looker, {"image": image, "pause_s": 0.3}, range(8), pool).records
    assert {record["node"] for record in records.values()} == {node["NodeID"]}
    assert tree_reduce([(image, i) for i in range(3)], look, together, scheduler="ray", n_workers=None) == 3
    assert known.place() == {}
    assert known.name(node["NodeID"]).endswith(f"({node['NodeManagerAddress']}, {node['NodeID'][:8]})")


@pytest.mark.parametrize("greeted", [True, False])
def test_a_node_of_another_version_is_refused_by_name(known: Nodes, image: Path, greeted: bool) -> None:
    assert known.terms is not None
    known.terms = replace(known.terms, versions=versions() | {"code": "another"})

    def join_a_moment_ago() -> None:
        map_shards(Looker, {"image": image}, range(2), PoolSettings(1, threads=None))

    with pytest.raises(RunError) as caught:
        (known.greet_all if greeted else join_a_moment_ago)()
    first, second = str(caught.value).splitlines()
    assert first == "no node of the cluster may work for this run:"
    assert second.startswith("  node ")
    assert f"got code: the driver has 'another', it {versions()['code']!r}; install the same on every node" in second


@pytest.mark.slow  # a node looks for five seconds before it says no
def test_a_node_whose_storage_comes_back_works(
    known: Nodes, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away when the actor starts, which no attempt and no run should end by."""
    told: list[str] = []
    monkeypatch.setattr(nodes, "_AGAIN_S", 1.0)
    monkeypatch.setattr(known, "_tell", told.append)
    known.greet_all()
    run_file = tmp_path / "run.json"
    run_file.rename(tmp_path / "away")
    back = threading.Timer(8.0, (tmp_path / "away").rename, [run_file])
    back.start()
    pool = PoolSettings(1, threads=None, width=lambda: max(1, resources().cpus), max_attempts=1)
    assert len(map_shards(Looker, {"image": image}, range(3), pool).records) == 3
    assert len(told) == 2
    assert "is not used: must see" in told[0]
    assert told[1].endswith("is used again: its storage is back")


def test_the_only_node_repeats_what_it_refuses(known: Nodes) -> None:
    known.greet_all()
    (node,) = known.usable()
    assert known.repeats(node["NodeID"], (1, 0), DataError("no such image"))
    known.failed(node["NodeID"], 1, "")
    known.failed(node["NodeID"], 2, "")
    assert known.avoided() == set()
    assert not known.is_dead(node["NodeID"])

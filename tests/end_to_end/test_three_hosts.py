"""Hosts with networks of their own: some that cannot do the work, a link that is cut, one lost, one that joins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.comparison import compare_runs
from tests.chaos.inputs import Inputs, write_inputs
from tests.chaos.networks import PAUSE
from tests.end_to_end.killing import PROJECT, Driver, ledger
from tests.end_to_end.small_digits import command, copy_until
from tests.network_hosts import Host, Hosts, may_make_hosts, places_of_the_project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not may_make_hosts(), reason="needs leave to make network and mount namespaces"),
]
SHARDS = 24


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("hosts"), np.random.default_rng(5))


def arguments(inputs: Inputs, out: Path) -> list[str]:
    return ["run", str(inputs.preset("mixture")), "--out", str(out), "--until", "extract"]


@pytest.fixture(scope="module")
def alone(inputs: Inputs, local_ray: object) -> Path:
    """The same run on this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)  # where the network's code is
        assert command([*arguments(inputs, inputs.root / "alone"), "--set", "runtime.actors=2"]) == 0
    return inputs.root / "alone"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path / "hosts.log", {PAUSE: "0.5"}) as started:
        yield started


@contextlib.contextmanager
def driving(inputs: Inputs, alone: Path, hosts: Hosts, root: Path) -> Iterator[Driver]:
    """A driver whose run is indexed and trained."""
    copy_until(alone, root, "train")
    driver = Driver([*arguments(inputs, root), "--address", hosts.address], root.with_suffix(".log"))
    try:
        yield driver
    finally:
        driver.reap()


def end(driver: Driver) -> str:
    """What the driver said, which has ended well."""
    assert driver.process.wait(timeout=400) == 0, driver.output()
    return " ".join(driver.log.read_text().split())


def warning_of(told: str, host: Host) -> str:
    """The one warning that names a host."""
    (found,) = [line for line in told.split("warning ") if host.address in line]
    return found


def assert_as_alone(alone: Path, root: Path) -> None:
    found = compare_runs(alone, root)
    assert not found.unlike
    assert found.compared["arrays"] > 2 * SHARDS
    assert ledger(root, "extract").failed == {}


def test_strange_hosts_are_named_and_do_nothing(inputs: Inputs, alone: Path, hosts: Hosts, tmp_path: Path) -> None:
    copy = tmp_path / "errors.py"
    copy.write_text((PROJECT / "workflows" / "errors.py").read_text() + "# another\n")
    code = hosts.start(f"mount --bind {copy} {PROJECT / 'workflows' / 'errors.py'}")
    folder = hosts.start(f"mount -t tmpfs none {tmp_path}")
    good = hosts.start()
    with driving(inputs, alone, hosts, tmp_path / "run") as driver:
        told = end(driver)
    assert "is not used: must have the driver's versions, got code: the driver has" in warning_of(told, code)
    assert "run.json' as the driver does, got FileNotFoundError" in warning_of(told, folder)
    assert good.address not in told
    assert_as_alone(alone, tmp_path / "run")


def test_a_host_without_the_project_does_nothing(inputs: Inputs, alone: Path, hosts: Hosts, tmp_path: Path) -> None:
    project = hosts.start("; ".join(f"mount -t tmpfs none {place}" for place in places_of_the_project()))
    hosts.start()
    with driving(inputs, alone, hosts, tmp_path / "run") as driver:
        told = end(driver)
    assert "is not used: ModuleNotFoundError: No module named 'workflows" in warning_of(told, project)
    assert_as_alone(alone, tmp_path / "run")


def test_cut_off_lost_and_joining_hosts_change_nothing(
    inputs: Inputs, alone: Path, hosts: Hosts, tmp_path: Path
) -> None:
    slow = [f"{PAUSE}=3"]  # one host alone has work for a minute, in which another joins
    cut, lost, _ = (hosts.start(environment=slow) for _ in range(3))
    with driving(inputs, alone, hosts, tmp_path / "run") as driver:

        def done() -> int:
            return len(ledger(tmp_path / "run", "extract").items)

        driver.wait_until(lambda: bool(cut.actors(".work") and lost.actors(".work")), "work on both hosts")
        cut.cut()
        hosts.lose(lost)
        late = hosts.start(environment=slow)
        driver.wait_until(lambda: bool(late.actors(".work")), "work on the host that joined")
        assert done() < SHARDS
        told = end(driver)
    deadline = time.monotonic() + 60
    while cut.address in hosts.alive():
        assert time.monotonic() < deadline, "a host that is cut off is taken for lost"
        time.sleep(0.5)
    assert "Traceback" not in told
    assert_as_alone(alone, tmp_path / "run")

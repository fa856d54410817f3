"""Launching for real on one machine: a cluster with a token, submitted and stopped jobs, a driver pod, a Slurm job."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import yaml

from tests.end_to_end.killing import PROJECT, ledger, ledger_lines
from tests.end_to_end.small_digits import run_arguments
from tests.fake_slurm import fake_slurm
from workflows.storage.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

BIN = Path(sys.executable).parent
CLUSTER = PROJECT / "infra" / "cluster"
PATIENCE_S = 600.0
"""On a busy machine a Ray takes minutes to start."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def own_address() -> str:
    """An IPv4 address of this machine, another than the loopback's if there is one."""
    found = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family == 2]
    return next((address for address in found if not address.startswith("127.")), "127.0.0.1")


def surroundings(**more: str) -> dict[str, str]:
    """Of a shell in which nothing but the project's environment is set up, with token authentication."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    return {
        **kept,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "RAY_AUTH_MODE": "token",
        # On a busy machine Ray's own patience, seconds for each, is too short.
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_gcs_rpc_server_connect_timeout_s": "120",
        **more,
    }


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: did not happen within {PATIENCE_S:g} s"
        time.sleep(0.2)


def done(root: Path, stage: str) -> int:
    """Lines of a stage's ledger; 0 while there is none."""
    return len(ledger_lines(root, stage)) if (root / "ledgers" / f"{stage}.jsonl").exists() else 0


class TokenCluster:
    """A head and a worker of one core each, started as the guide says."""

    def __init__(self, folder: Path) -> None:
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"{own_address()}:{self.port}"
        self.env = surroundings(RAY_AUTH_TOKEN=secrets.token_hex(32))
        self.folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []

    def ray(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "ray", *arguments],
            env={**self.env, **env},
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def start(self, *options: str) -> None:
        size = ("--num-cpus", "1", "--num-gpus", "0", "--disable-usage-stats", "--block")
        command = [BIN / "ray", "start", *options, *size]
        with (self.folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            self.nodes.append(subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log))

    def answers(self) -> bool:
        for number, node in enumerate(self.nodes):
            assert node.poll() is None, (self.folder / f"node-{number}.log").read_text()[-2000:]
        return self.ray("health-check", "--address", self.address).returncode == 0

    def joined(self) -> int:
        return self.ray("status", "--address", self.address).stdout.count(" node_")

    def job(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        verb, *rest = arguments
        return self.ray("job", verb, "--address", f"http://127.0.0.1:{self.dashboard}", *rest, **env)

    def status(self, job: str) -> str:
        return self.job("status", job).stdout

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.terminate()
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(timeout=30)
            node.kill()


@pytest.fixture(scope="module")
def cluster() -> Iterator[TokenCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ig-"))  # sockets lie in it: their names must be short
    started = TokenCluster(folder)
    try:
        started.start(
            *("--head", "--port", str(started.port), "--dashboard-port", str(started.dashboard)),
            *("--node-ip-address", own_address(), "--temp-dir", str(folder / "ray")),
        )
        wait_until(started.answers, "the head answers")
        started.start("--address", started.address, "--node-ip-address", own_address())
        wait_until(lambda: started.answers() and started.joined() == 2, "the worker joins")
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


def submission(root: Path, weights: Path, *overrides: str) -> Sequence[str]:
    return ("inference-graphs", *run_arguments(root, weights, *overrides), "--address", "auto")


def test_submitted_with_a_token_stopped_and_submitted_again(
    cluster: TokenCluster, tmp_path: Path, digits_weights: Path
) -> None:
    root = tmp_path / "run"
    command = submission(root, digits_weights)
    refused = cluster.job("submit", "--no-wait", "--", *command, RAY_AUTH_TOKEN="of-somebody-else")
    assert refused.returncode != 0
    assert not root.exists(), "who has no token runs no code"

    assert cluster.job("submit", "--submission-id", "first", "--no-wait", "--", *command).returncode == 0
    wait_until(lambda: done(root, "extract") > 4, "shards are done")
    assert cluster.job("stop", "first").returncode == 0
    assert "STOPPED" in cluster.status("first") or "stopped" in cluster.status("first")
    kept = set(ledger(root, "extract").items)
    assert kept, "what was done before the SIGTERM is kept"

    again = cluster.job("submit", "--submission-id", "second", "--", *command)
    assert again.returncode == 0, again.stdout + again.stderr
    lines = [json.loads(line) for line in ledger_lines(root, "extract")]
    items = [line["item"] for line in lines if "item" in line]
    assert len(items) == len(set(items)), "no shard that was done was done again"
    assert RunFolder.open(root).root.joinpath("nodes.parquet").exists()


def test_a_refused_job_says_exit_code_2(cluster: TokenCluster, tmp_path: Path, digits_weights: Path) -> None:
    command = submission(tmp_path / "run", digits_weights, "fit.words=[1,2]")
    failed = cluster.job("submit", "--submission-id", "refused", "--", *command)
    assert failed.returncode == 1, "what `ray job submit` makes of every failure"
    assert "failed with exit code 2" in cluster.job("status", "refused").stdout + failed.stdout + failed.stderr


def driver_script() -> tuple[str, list[str]]:
    (container,) = yaml.safe_load((CLUSTER / "driver.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    return container["args"][0], container["command"]


def test_the_driver_pod_joins_and_its_exit_code_is_the_drivers(
    cluster: TokenCluster, tmp_path: Path, digits_weights: Path
) -> None:
    script, shell = driver_script()
    pod = {**cluster.env, "RAY_HEAD": cluster.address, "POD_IP": own_address()}

    def run(root: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
        arguments = " ".join(f"'{part}'" for part in run_arguments(root, digits_weights, *overrides))
        here = script.replace("run digits --out /data/runs/digits", arguments)
        assert here != script
        return subprocess.run(
            [*shell, here], env=pod, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=PATIENCE_S
        )

    refused = run(tmp_path / "refused", "fit.words=[1,2]")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    whole = run(tmp_path / "run")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert (tmp_path / "run" / "nodes.parquet").exists()


def slurm_job(tmp_path: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The script of the guide on two "nodes" of one core, which are this machine."""
    env = surroundings(**fake_slurm(tmp_path / "slurm"))
    env["PATH"] = f"{tmp_path / 'slurm'}:{env['PATH']}"
    env |= {"VENV": str(BIN.parent), "NODE_IP": f"echo {own_address()}", "SLURM_JOB_ID": str(free_port())}
    with (tmp_path / "slurm.out").open("a") as log:
        return subprocess.Popen(
            ["bash", str(CLUSTER / "slurm.sh"), *arguments], env=env, cwd=PROJECT, stdout=log, stderr=log, text=True
        )


def test_a_slurm_job_near_its_time_limit_is_queued_and_goes_on(tmp_path: Path, digits_weights: Path) -> None:
    root = tmp_path / "run"
    arguments = run_arguments(root, digits_weights)
    job = slurm_job(tmp_path, arguments)
    try:
        wait_until(lambda: done(root, "extract") > 4 or job.poll() is not None, "shards are done")
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=PATIENCE_S) != 0, (tmp_path / "slurm.out").read_text()
        assert (tmp_path / "slurm" / "requeued").read_text().count("\n") == 1
        before = set(ledger(root, "extract").items)

        job = slurm_job(tmp_path, arguments)
        assert job.wait(timeout=PATIENCE_S) == 0, (tmp_path / "slurm.out").read_text()
        assert before < set(ledger(root, "extract").items)
        assert (root / "nodes.parquet").exists()
        assert (tmp_path / "slurm" / "requeued").read_text().count("\n") == 1
    finally:
        job.kill()

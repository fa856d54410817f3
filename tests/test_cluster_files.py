"""The files of infra/cluster: what Kubernetes, Ray and the shell would refuse, and what a run needs of them.

Kubernetes' own objects are held against its published schemas, the launcher's files against Ray's validator, the script
and the image's recipe against their linters. KubeRay publishes its schemas with the operator alone, so its two kinds
have models here: fields and types of KubeRay 1.5.1 that these files may use, not all that there are.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from tests.fake_slurm import fake_slurm
from tests.test_packaging import project
from workflows.settings import parse_settings

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "infra" / "cluster"
BIN = Path(sys.executable).parent
MANIFESTS = ("rayjob.yaml", "raycluster.yaml", "driver.yaml")
KUBERNETES = "1.34"
SLURM = CLUSTER / "slurm.sh"
LABEL = {"app.kubernetes.io/name": "inference-graphs"}
SUBMITTER = {"app.kubernetes.io/component": "inference-graphs-submitter"}


class KubeRay(BaseModel):
    """An object of KubeRay's interface: no other fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(KubeRay):
    mode: Literal["disabled", "token"]


class Redis(KubeRay):
    redisAddress: str
    redisPassword: dict[str, Any]


class HeadGroup(KubeRay):
    rayStartParams: dict[str, str]
    template: dict[str, Any]


class WorkerGroup(HeadGroup):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class ClusterSpec(KubeRay):
    rayVersion: str
    authOptions: AuthOptions
    gcsFaultToleranceOptions: Redis | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class SubmitterConfig(KubeRay):
    backoffLimit: int


class JobSpec(KubeRay):
    entrypoint: str
    backoffLimit: int
    submitterConfig: SubmitterConfig
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]
    submitterPodTemplate: dict[str, Any]
    runtimeEnvYAML: str
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    activeDeadlineSeconds: int
    rayClusterSpec: ClusterSpec


def documents(name: str, text: str | None = None) -> dict[str, dict[str, Any]]:
    """The objects of a manifest, by kind."""
    found = list(yaml.safe_load_all(text or (CLUSTER / name).read_text()))
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


def clusters() -> Iterator[ClusterSpec]:
    yield JobSpec(**documents("rayjob.yaml")["RayJob"]["spec"]).rayClusterSpec
    yield ClusterSpec(**documents("raycluster.yaml")["RayCluster"]["spec"])


def pod_templates() -> Iterator[tuple[str, dict[str, Any]]]:
    """What each pod is for, and its template."""
    for name, cluster in zip(("job", "cluster"), clusters(), strict=True):
        yield f"{name}: head", cluster.headGroupSpec.template
        yield from ((f"{name}: {group.groupName}", group.template) for group in cluster.workerGroupSpecs)
    yield "submitter", documents("rayjob.yaml")["RayJob"]["spec"]["submitterPodTemplate"]
    yield "driver", documents("driver.yaml")["Job"]["spec"]["template"]


def ray_options(command: str) -> set[str]:
    return {option for parameter in ray_cli.commands[command].params for option in parameter.opts}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_takes_its_objects(name: str) -> None:
    own = [one for one in documents(name).values() if one["apiVersion"] != "ray.io/v1"]
    assert own
    for one in own:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    broken = copy.deepcopy(own[-1])
    broken["spec"]["no-such-field"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="no-such-field"):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_kubernetes_takes_the_pods_of_the_cluster() -> None:
    for what, template in pod_templates():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        mounts = {mount["name"] for box in template["spec"]["containers"] for mount in box.get("volumeMounts", [])}
        assert mounts == volumes, what


def test_clusters_ask_for_a_token_and_this_ray() -> None:
    options = ray_options("start")
    for cluster in clusters():
        assert cluster.authOptions.mode == "token"
        assert cluster.rayVersion.startswith("2.60"), "the version that pyproject.toml asks for at least"
        for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
            assert {f"--{name}" for name in group.rayStartParams} <= options


def test_the_redis_of_the_comment_can_be_taken_in() -> None:
    text = (CLUSTER / "raycluster.yaml").read_text()
    lines = [re.sub(r"^  # (?=gcsFault|  )", "  ", line) for line in text.splitlines()]
    cluster = ClusterSpec(**documents("", "\n".join(lines))["RayCluster"]["spec"])
    assert cluster.gcsFaultToleranceOptions is not None
    assert set(cluster.gcsFaultToleranceOptions.redisPassword["valueFrom"]) == {"secretKeyRef"}


def test_only_the_clusters_own_pods_reach_its_ports() -> None:
    policies = [documents(name)["NetworkPolicy"] for name in ("rayjob.yaml", "raycluster.yaml")]
    assert policies[0] == policies[1]
    spec = policies[0]["spec"]
    assert spec["podSelector"]["matchLabels"] == LABEL
    assert spec["policyTypes"] == ["Ingress"]
    nodes, dashboard = spec["ingress"]
    assert nodes == {"from": [{"podSelector": {"matchLabels": LABEL}}]}, "every port, from this label alone"
    assert dashboard["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert dashboard["from"][1] == {"podSelector": {"matchLabels": SUBMITTER}}
    for what, template in pod_templates():
        assert template["metadata"]["labels"] == (SUBMITTER if what == "submitter" else LABEL), what


def test_the_cluster_job_is_whole() -> None:
    manifest = documents("rayjob.yaml")
    settings = parse_settings(tomllib.loads(manifest["ConfigMap"]["data"]["preset.toml"]))
    paths = [*settings.data.folders, settings.network.weights]
    assert all(path.startswith("/data/") for path in paths), "no process of a cluster runs in the project's folder"
    spec = JobSpec(**manifest["RayJob"]["spec"])
    arguments = shlex.split(spec.entrypoint)
    assert arguments[-2:] == ["--address", "auto"]
    assert set(yaml.safe_load(spec.runtimeEnvYAML)["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    for group in (spec.rayClusterSpec.headGroupSpec, *spec.rayClusterSpec.workerGroupSpecs):
        (box,) = group.template["spec"]["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in box["volumeMounts"]}
        assert arguments[2].startswith(mounted["preset"])
        assert arguments[4].startswith(mounted["data"])


def test_the_drivers_exit_codes_decide_about_a_retry() -> None:
    spec = documents("driver.yaml")["Job"]["spec"]
    assert spec["podReplacementPolicy"] == "Failed", "a run folder has one driver"
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "else Kubernetes takes no podFailurePolicy"
    assert spec["template"]["spec"]["shareProcessNamespace"], "process 1 would be shielded from SIGTERM"
    refused, lost, ended = spec["podFailurePolicy"]["rules"]
    assert (refused["action"], refused["onExitCodes"]["values"]) == ("FailJob", [2])
    assert (lost["action"], lost["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (ended["action"], ended["onExitCodes"]["values"]) == ("Ignore", [143])


def test_the_driver_joins_the_cluster_with_its_token() -> None:
    (box,) = documents("driver.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    cluster = documents("raycluster.yaml")["RayCluster"]["metadata"]["name"]
    given = {entry["name"]: entry for entry in box["env"]}
    assert given["RAY_HEAD"]["value"] == f"{cluster}-head-svc:6379"
    assert given["RAY_AUTH_MODE"]["value"] == "token"
    assert given["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": cluster, "key": "auth_token"}
    script = box["args"][0]
    assert "exec inference-graphs run" in script, "the driver's exit code is the container's, and SIGTERM its"


@pytest.mark.parametrize("name", ["onpremise.yaml", "aws.yaml"])
def test_ray_takes_the_launchers_files(name: str) -> None:
    given = yaml.safe_load((CLUSTER / name).read_text())
    validate_config(prepare_config(given))
    assert "~/.ray/auth_token" in given["file_mounts"]
    for role in ("head", "worker"):
        start = given[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
    given["workers"] = 3
    with pytest.raises(Exception, match="workers"):
        validate_config(prepare_config(given))


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.*")), ids=lambda path: path.name)
def test_ray_start_has_the_options_that_are_given(path: Path) -> None:
    text = re.sub(r"\\\n|(?<=\S)\n {4,}(?=--)", " ", path.read_text())
    for line in re.findall(r"ray start [^`\n]*", text):
        assert set(re.findall(r"--[a-z-]+", line.partition("#")[0])) <= ray_options("start"), line


def test_the_image_passes_its_linter() -> None:
    done = subprocess.run([BIN / "hadolint", CLUSTER / "Dockerfile"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_takes_the_projects_torch_for_either_device() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    for name in ("torch", "torchvision"):
        (wanted,) = [entry for entry in project()["dependencies"] if re.match(rf"{name}>", entry)]
        assert f'"{wanted}"' in text
    step = text.partition("RUN case")[2].partition("\n\n")[0].replace("\\\n", "\n")
    asked = {}
    for device in ("cuda", "cpu", "tpu"):
        done = subprocess.run(
            ["bash", "-c", "pip() { echo pip; }; case" + step],
            env={"DEVICE": device, "TORCH_INDEX": "https://example.org"},
            check=False,
            capture_output=True,
            text=True,
        )
        asked[device] = (done.returncode, done.stdout.count("pip"))
    assert asked == {"cuda": (0, 0), "cpu": (0, 1), "tpu": (2, 0)}


def test_the_check_of_a_gpu_says_where_none_is() -> None:
    script = ROOT / "infra" / "gpu_check.sh"
    assert subprocess.run([BIN / "shellcheck", script], check=False).returncode == 0
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    done = subprocess.run([script], env=hidden, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("gpu_check: torch sees no GPU; install a CUDA build of torch on a machine that has")


def test_the_script_of_slurm_passes_its_linter() -> None:
    for command in (["bash", "-n"], [BIN / "shellcheck"]):
        done = subprocess.run([*command, SLURM], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SLURM.read_text(), re.MULTILINE))
    assert {"requeue", "no-kill", "open-mode"} <= given.keys()
    assert given["signal"] == "B:USR1@120"


STAND_INS = {
    "python": '[ "$1" = -c ] && echo token; exit 0',
    "ray": '[ "$1" = start ] && echo "$@" >> "$STARTED" && exec sleep 60; exit 0',
    "inference-graphs": 'trap \'exit 143\' TERM; echo "$@" >> "$STARTED"; for _ in {1..100}; do '
    '[ -n "$ENDS_WITH" ] && exit "$ENDS_WITH"; sleep 0.1; done',
}


class SlurmJob:
    """The script with stand-ins of Ray and of the driver, which ends as it is told or when it is told."""

    def __init__(self, folder: Path, ends_with: str = "", **more: str) -> None:
        self.folder, self.started = folder, folder / "started"
        slurm = fake_slurm(folder / "slurm")
        (folder / "bin").mkdir()
        for name, text in STAND_INS.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        env = {**slurm, "PATH": f"{folder / 'slurm'}:{os.environ['PATH']}", "VENV": str(folder)}
        env |= {"STARTED": str(self.started), "ENDS_WITH": ends_with, "NODE_IP": "echo 10.0.0.1", **more}
        self.process = subprocess.Popen(
            ["bash", SLURM, "run", "digits"], env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def wait_for(self, words: str, times: int = 1) -> None:
        """Until a command with these words has been started so often."""
        deadline = time.monotonic() + 30
        while not (self.started.exists() and self.started.read_text().count(words) >= times):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)

    def ended(self) -> tuple[int, bool]:
        """Exit code, and whether it was queued again."""
        self.process.communicate(timeout=30)
        return self.process.returncode, (self.folder / "slurm" / "requeued").exists()


@pytest.mark.parametrize(
    ("code", "restarts", "queued"),
    [("0", "0", False), ("1", "0", True), ("1", "3", False), ("2", "0", False), ("130", "0", False)],
)
def test_slurm_queues_again_what_may_pass(tmp_path: Path, code: str, restarts: str, queued: bool) -> None:
    assert SlurmJob(tmp_path, code, SLURM_RESTART_COUNT=restarts).ended() == (int(code), queued)


@pytest.mark.parametrize(("sent", "queued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_slurms_signals_reach_the_driver(tmp_path: Path, sent: signal.Signals, queued: bool) -> None:
    job = SlurmJob(tmp_path)
    job.wait_for("run digits")
    job.process.send_signal(sent)
    assert job.ended() == (143, queued), "the time limit queues it again; what is cancelled stays so"


def test_slurm_starts_a_head_and_workers_and_the_driver(tmp_path: Path) -> None:
    job = SlurmJob(tmp_path, SLURM_MEM_PER_NODE="1000", SLURM_JOB_ID="40011")
    job.wait_for("--node-ip-address", times=2)
    job.wait_for("run digits")
    job.process.terminate()
    assert job.ended() == (143, False)
    started = (tmp_path / "started").read_text().splitlines()
    port = 20000 + 2 * (40011 % 6000)
    assert f"run digits --address 10.0.0.1:{port}" in started
    head, worker = sorted((line for line in started if line.startswith("start")), key=lambda line: "--head" not in line)
    assert f"--head --port {port}" in head
    assert f"--address 10.0.0.1:{port}" in worker
    for line in (head, worker):
        assert "--node-ip-address 10.0.0.1 " in line
        assert "--num-cpus 1 --num-gpus 0 --memory 734003200 " in line


def test_slurm_refuses_an_address_no_other_node_reaches(tmp_path: Path) -> None:
    job = SlurmJob(tmp_path, "0", NODE_IP="echo 127.0.1.1")
    told = job.process.communicate(timeout=30)[0].decode()
    assert job.process.returncode == 2
    assert "NODE_IP: must print an address that other nodes reach, got 127.0.1.1 on node1" in told

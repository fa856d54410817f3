#!/bin/bash
# One run on a Slurm allocation: a Ray of its own on the allocated nodes, the driver on the first of them.
#
#   sbatch infra/cluster/slurm.sh run digits --out /shared/runs/digits
#   sbatch --nodes 8 --gpus-per-node 4 infra/cluster/slurm.sh run mine.toml --out /shared/runs/mine
#
# What stands behind the script's name goes to inference-graphs; --address is added. Needs an environment with the
# project on every node (VENV below), and a run folder, images and weights on a shared file system.
#
# Ends with the driver's exit code. 2 (refused) is final. Near the time limit, and after an error that may pass (1), it
# asks Slurm to queue the job again: the same command goes on where it was. What is preempted, Slurm queues again itself
# (--requeue, PreemptMode=REQUEUE); what is cancelled stays cancelled.
#SBATCH --job-name=inference-graphs
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
# A lost node ends its actors, not the job.
#SBATCH --no-kill
#SBATCH --open-mode=append
# To this script alone, two minutes before the time is up.
#SBATCH --signal=B:USR1@120
set -euo pipefail

VENV=${VENV:-.venv} # absolute, or seen from the folder of sbatch
RESTARTS=${RESTARTS:-3} # a job that was queued again so often, for whatever reason, is not after an error
NODES_WAIT_S=${NODES_WAIT_S:-300}

if [ $# -eq 0 ]; then
  echo "usage: sbatch infra/cluster/slurm.sh run PRESET --out FOLDER" >&2
  exit 2
fi
PATH="$(cd "$VENV" && pwd)/bin:$PATH"

# A token of this job alone: srun hands it to the other nodes in the environment, which only this user can read.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_host=${hosts[0]}
# Several jobs may share a node: ports by the job's number, below those that the kernel gives away (32768 and up).
port=$((20000 + 2 * (SLURM_JOB_ID % 6000)))
folder=/tmp/ray-$SLURM_JOB_ID

# A command that prints the address under which the other nodes know its host. Ray is told, for without a default route
# it would take 127.0.0.1. On nodes of several networks say which one, e.g. that of ib0:
#   export NODE_IP="ip -4 -o addr show ib0 | grep -Po 'inet \K[0-9.]+'"
# shellcheck disable=SC2016 # each node expands it, not this shell
export NODE_IP=${NODE_IP:-'getent ahostsv4 "$(hostname)" | { read -r address _; echo "$address"; }'}
# on HOST COMMAND...: one task there, beside those that are there already. For subshells: it becomes srun, so that the
# shell's $! is srun's own and a signal to it arrives.
on() {
  exec srun --nodes=1 --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --overlap --nodelist="$1" "${@:2}"
}
# shellcheck disable=SC2016
address=$(on "$head_host" bash -c 'eval "$NODE_IP"')
if [[ ${#hosts[@]} -gt 1 && $address == 127.* ]]; then
  echo "NODE_IP: must print an address that other nodes reach, got $address on $head_host; name a network" >&2
  exit 2
fi
address=$address:$port

memory=()
if [ -n "${SLURM_MEM_PER_NODE:-}" ]; then # MiB; some of it stays for the object store and Ray itself
  memory=(--memory $((SLURM_MEM_PER_NODE * 1024 * 1024 * 7 / 10)))
fi
size=(
  --num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" "${memory[@]}"
  --object-store-memory $((512 * 1024 * 1024)) --temp-dir "$folder" --disable-usage-stats --block
)
# shellcheck disable=SC2016
start='exec ray start --node-ip-address "$(eval "$NODE_IP")" "$@"'

steps=()
on "$head_host" bash -c "$start" head --head --port "$port" --ray-client-server-port $((port + 1)) \
  --include-dashboard=false "${size[@]}" &
steps+=($!)
for host in "${hosts[@]:1}"; do
  on "$host" bash -c "until ray health-check --address $address > /dev/null 2>&1; do sleep 2; done; $start" \
    worker --address "$address" "${size[@]}" &
  steps+=($!)
done

# shellcheck disable=SC2329 # called by the trap
stop_ray() {
  kill "${steps[@]}" 2> /dev/null || true
  wait "${steps[@]}" 2> /dev/null || true
}
trap stop_ray EXIT

# A signal ends `wait`, never the driver: it is passed on, and the driver's own end is waited for.
driver='' time_is_up=false signalled=false
# shellcheck disable=SC2329 # called by the traps
pass_on() {
  signalled=true
  if [ -n "$driver" ]; then kill -TERM "$driver" 2> /dev/null || true; else exit 143; fi
}
trap pass_on TERM INT
trap 'time_is_up=true; pass_on' USR1

until ray health-check --address "$address" > /dev/null 2>&1; do
  kill -0 "${steps[0]}" 2> /dev/null || { echo "Ray's head did not start on $head_host: see above" >&2; exit 1; }
  sleep 2
done
python - "$address" "${#hosts[@]}" "$NODES_WAIT_S" << 'PYTHON'
import sys, time
import ray

address, wanted, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
deadline = time.monotonic() + patience
while not ray.is_initialized():
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:  # the head answers before its own node has joined
        if time.monotonic() > deadline:
            sys.exit(f"no node joined within {patience:g} s: {error}")
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        print(f"{alive} of {wanted} nodes joined within {patience:g} s: going on with these", file=sys.stderr)
        break
    time.sleep(1)
PYTHON

inference-graphs "$@" --address "$address" &
driver=$!
code=0
wait "$driver" || code=$?
while $signalled; do # the wait was ended by a signal, and said nothing of the driver
  signalled=false code=0
  wait "$driver" || code=$?
done

requeue() {
  echo "$1: queued again; the same command goes on where it was"
  scontrol requeue "$SLURM_JOB_ID"
}
if $time_is_up && [ "$code" -ne 0 ] && [ "$code" -ne 2 ]; then
  requeue "the time limit is near"
elif [ "$code" -eq 1 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ]; then
  requeue "the driver ended with 1"
fi
exit "$code"

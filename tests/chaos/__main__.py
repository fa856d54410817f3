"""``make chaos``: three runs are disturbed for a quarter of an hour, and must end as the undisturbed ones did.

A mixture, a discriminative run and a hidden Markov model of handwritten digits, on two hosts with networks of their own
(see ``tests.network_hosts``): twenty kills of drivers, actors and hosts, an actor that is stopped, pictures and columns
that are away for a while, a poison shard, five broken pictures. The undisturbed runs have a local Ray and the same
broken pictures. Ends with 0 only if all is equal, and nothing but the poison shard was ever given up.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.chaos.comparison import Comparison, compare_runs
from tests.chaos.disturbances import KILLS, Disturbance, draw_disturbances, in_order
from tests.chaos.disturbed_run import Chaos, DisturbedRun, Event
from tests.chaos.inputs import PRESETS, SHARD, Inputs, write_inputs
from tests.chaos.networks import PAUSE, POISON
from tests.end_to_end.killing import Driver
from tests.end_to_end.small_digits import copy_until
from tests.network_hosts import Hosts, may_make_hosts
from workflows.storage.tables import read_table

CONSOLE = Console(highlight=False, width=170)
POISONED = ("mixture", "discriminative")
"""Runs of the network that can be poisoned."""


@dataclass(frozen=True)
class Verdict:
    """Of one run."""

    run: DisturbedRun
    comparison: Comparison
    broken: set[str]
    given_up: set[tuple[str, int]]
    """What should have been given up."""
    expected_broken: frozenset[str]

    @property
    def faults(self) -> list[str]:
        """What is not as it should be."""
        found = [*self.run.faults, *self.comparison.unlike]
        if self.broken != self.expected_broken:
            found.append(f"broken pictures: {sorted(self.broken)}, should be {sorted(self.expected_broken)}")
        if self.run.quarantined != self.given_up:
            found.append(f"given up: {sorted(self.run.quarantined)}, should be {sorted(self.given_up)}")
        return found


def main() -> None:
    """Parse, run, print; the exit status says whether all was equal."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--minutes", type=float, default=20.0, help="the whole takes no longer, or fails")
    parser.add_argument("--folder", type=Path, help="new; kept afterwards (default: a temporary one)")
    asked = parser.parse_args()
    if not may_make_hosts():
        sys.exit("chaos: needs root, ip and unshare, to make network namespaces; run it as root, in a container too")
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        root = asked.folder or Path(place)
        root.mkdir(parents=True, exist_ok=asked.folder is None)
        sys.exit(0 if chaos(root, asked.seed, asked.minutes * 60) else 1)


def chaos(root: Path, seed: int, limit_s: float) -> bool:
    """The whole; whether all was equal."""
    deadline = time.monotonic() + limit_s
    rng = np.random.default_rng(seed)
    inputs = write_inputs(root, rng)
    disturbances = draw_disturbances(rng, list(PRESETS))
    poisoned = str(rng.choice(POISONED))
    CONSOLE.print(f"seed {seed}: undisturbed runs in {root}, poison in {poisoned}: {inputs.poison}")
    undisturbed = {name: _undisturbed(inputs, name) for name in PRESETS}
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        CONSOLE.print(f"{event.seconds:6.1f} s  {event.run:15} {event.stage:15} {event.what}", soft_wrap=True)

    environment = {POISON: str(inputs.poison_file), PAUSE: "0.1"}
    with Hosts(root / "hosts.log", environment) as hosts:
        for _ in range(2):
            hosts.start()
        shared = Chaos(hosts, inputs.pictures, deadline, tell)
        verdicts = _disturb_all(shared, inputs, undisturbed, disturbances, poisoned)
        for thread in shared.starting:
            thread.join()
    _print(events, verdicts, shared.kills)
    kills = sum(KILLS.values())
    if shared.kills != kills:
        CONSOLE.print(f"only {shared.kills} of {kills} kills found something to kill")
    return shared.kills == kills and not any(verdict.faults for verdict in verdicts)


def _arguments(inputs: Inputs, name: str, out: Path) -> list[str]:
    return ["run", str(inputs.preset(name)), "--out", str(out)]


def _undisturbed(inputs: Inputs, name: str) -> Path:
    root, began = inputs.root / f"undisturbed-{name}", time.monotonic()
    driver = Driver([*_arguments(inputs, name, root), "--set", "runtime.actors=2"], inputs.root / f"{name}-calm.log")
    try:
        assert driver.process.wait(timeout=400) == 0, driver.output()
    finally:
        driver.reap()
    CONSOLE.print(f"undisturbed {name}: {time.monotonic() - began:.0f} s")
    return root


def _disturb_all(
    shared: Chaos,
    inputs: Inputs,
    undisturbed: dict[str, Path],
    disturbances: dict[str, list[Disturbance]],
    poisoned: str,
) -> list[Verdict]:
    """All runs, and the first again if any disturbance did not find its moment."""
    verdicts, left = [], list[Disturbance]()
    for turn, name in enumerate([*PRESETS, *PRESETS]):
        again = turn >= len(PRESETS)
        if again and not left:
            break
        out = inputs.root / f"{name}{'-again' if again else ''}"
        poison = inputs.poison_file if name == poisoned and not again else None
        copy_until(undisturbed[name], out, "train")
        if poison is not None:
            poison.touch()
        run = DisturbedRun(
            out.name, out, _arguments(inputs, name, out), in_order([*left, *([] if again else disturbances[name])])
        )
        run.go(shared, poison)
        left = run.left
        verdicts.append(_judge(run, inputs, undisturbed[name], poison is not None))
        CONSOLE.print(f"{out.name}: {'equal' if not verdicts[-1].faults else verdicts[-1].faults}")
    return verdicts


def _judge(run: DisturbedRun, inputs: Inputs, undisturbed: Path, poisoned: bool) -> Verdict:
    rows = read_table(run.root / "images.parquet").to_pylist()
    broken = {row["path"] for row in rows if row["status"] == "broken"}
    numbers = {row["path"]: row["image"] for row in rows}
    given_up = {("extract", numbers[inputs.poison] // SHARD)} if poisoned else set()
    return Verdict(run, compare_runs(undisturbed, run.root), broken, given_up, inputs.broken)


def _print(events: list[Event], verdicts: list[Verdict], kills: int) -> None:
    table = Table("seconds", "run", "stage", "what", title=f"{kills} kills, and other trouble")
    for event in events:
        table.add_row(f"{event.seconds:.1f}", event.run, event.stage, event.what[:100].partition("\n")[0])
    CONSOLE.print(table)
    table = Table("run", "drivers", "compared", "unlike", "broken", "given up", "hung", "outcome")
    for verdict in verdicts:
        run, compared = verdict.run, verdict.comparison.compared
        table.add_row(
            run.name,
            str(len(run.drivers)),
            ", ".join(f"{number} {kind}" for kind, number in compared.items() if number),
            str(len(verdict.comparison.unlike)),
            f"{len(verdict.broken)} of {len(verdict.expected_broken)}",
            ", ".join(f"{stage} {item}" for stage, item in sorted(run.quarantined)) or "nothing",
            str(run.overdue),
            "equal" if not verdict.faults else "; ".join(verdict.faults)[:300],
        )
    CONSOLE.print(table)


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    main()

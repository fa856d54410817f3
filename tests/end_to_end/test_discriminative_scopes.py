"""Class scopes with the discriminative loss through the whole command: alone, together, and after killed drivers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.killing import Driver, address_of_local_ray, ledger, ledger_lines
from tests.end_to_end.small_digits import command, copy_until, run_arguments
from tests.end_to_end.test_invariance import assert_same_arrays
from tests.end_to_end.test_scopes import MISCLASSIFIED, assert_same_scope, of_scope, scoped
from workflows.errors import RunFolderError
from workflows.plan.scopes import read_scopes
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
LOSS = ("fit.loss=discriminative", "fit.min_images=5", "discriminative.epochs=6", "discriminative.patience=6")
TOGETHER = ("fit.scopes=['joint','class']", "mine.classes=['3','5']", *LOSS)


@pytest.fixture(scope="module")
def together(digits_run: Path, digits_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scoped(digits_run, tmp_path_factory.mktemp("together") / "run", digits_weights, *TOGETHER)


def assert_same_fits(left: Path, right: Path, scope: str) -> None:
    """Also what the loss adds: linear layers, the words it started from, and errors."""
    assert_same_scope(left, right, scope)
    places = [root / "mixtures" / scope for root in (left, right)]
    names = sorted(path.name for path in places[0].glob("*.npz"))
    assert names == sorted(path.name for path in places[1].glob("*.npz"))
    assert len(names) == 9, "two dictionaries and the linear layers, of each layer"
    for name in names:
        assert_same_arrays(*(load_state(place / name) for place in places))
    for table in ("errors", "decisions"):
        rows = [of_scope(root, table, scope) for root in (left, right)]
        assert len(rows[0]) == 12 if table == "errors" else len(rows[0]) > 0
        assert rows[0].equals(rows[1])


def test_a_class_alone_is_the_same_as_with_others(
    together: Path, digits_run: Path, digits_weights: Path, tmp_path: Path
) -> None:
    fields = ("fit.scopes=['class']", "mine.classes=['5']", MISCLASSIFIED, *LOSS)
    alone = scoped(digits_run, tmp_path / "run", digits_weights, *fields)
    assert [scope.name for scope in read_scopes(RunFolder(alone))] == ["class-5"]
    assert_same_fits(alone, together, "class-5")


def test_killed_in_training_errors_and_words_it_ends_the_same(
    together: Path, digits_run: Path, digits_weights: Path, tmp_path: Path
) -> None:
    root = copy_until(digits_run, tmp_path / "run", "extract")
    arguments = [*run_arguments(root, digits_weights, *TOGETHER, "count.scheduler=threads", until="mine")]
    arguments += ["--address", address_of_local_ray()]
    killed_at = dict[str, int]()

    def training() -> bool:
        steps = trained_steps(root)
        if any(steps.values()):
            killed_at.update(steps)
        return any(steps.values()) and len(ledger(root, "fit").items) >= 2

    def deciding() -> bool:
        return len(ledger(root, "errors").items) >= 1

    def assigning() -> bool:
        return len(ledger(root, "words").items) >= 5

    for moment in (training, deciding, assigning):
        kill_once(arguments, moment, tmp_path / "log.txt")
    driver = Driver(arguments, tmp_path / "log.txt")
    try:
        assert driver.finish() == 0, driver.output()
    finally:
        driver.reap()
    assert killed_at, "a fit is meant to be killed while it trains by the loss"
    for stage in ("fit", "errors", "words", "count"):
        done = [line["item"] for line in map(json.loads, ledger_lines(root, stage)) if "item" in line]
        assert len(done) == len(set(done)), f"{stage} did an item again"
    for scope in read_scopes(RunFolder(together)):
        assert_same_fits(root, together, scope.name)


def test_classes_may_be_dropped_and_added_again(together: Path, digits_weights: Path, tmp_path: Path) -> None:
    """What was fitted and decided stays on disk, and the tables are of the scopes that are asked for."""
    root = copy_until(together, tmp_path / "run", "mine")
    before = {stage: ledger_lines(root, stage) for stage in ("fit", "errors")}
    fewer = [field if "mine.classes" not in field else "mine.classes=['3']" for field in TOGETHER]
    for fields, scopes in ((fewer, {"joint", "class-3"}), (TOGETHER, {"joint", "class-3", "class-5"})):
        assert command(run_arguments(root, digits_weights, *fields, until="mine")) == 0
        for table in ("history", "decisions", "errors"):
            rows = read_table(RunFolder.open(root).table(table))
            assert set(rows["scope"].to_pylist()) == scopes, table
    for scope in scopes:
        assert_same_fits(root, together, scope)
    for stage, lines in before.items():
        added = [json.loads(line) for line in ledger_lines(root, stage)[len(lines) :]]
        assert not [line for line in added if "item" in line], f"{stage} did an item again"


def kill_once(arguments: list[str], moment: Callable[[], bool], log: Path) -> None:
    driver = Driver(arguments, log)
    try:
        driver.wait_until(moment, moment.__name__)
        driver.kill()
    finally:
        driver.reap()


def trained_steps(root: Path) -> dict[str, int]:
    """Steps by the loss in every checkpoint that is there."""
    found = {}
    for path in (root / "mixtures").glob("*/*state*.npz"):
        try:
            found[path.name] = len(load_state(path).get("loss_history", np.empty(0)))
        except RunFolderError:
            continue
    return {name: steps for name, steps in found.items() if steps}

"""The fit stage over scopes: what it refuses and tells before it fits, in which order, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.end_to_end.small_digits import command, run_arguments
from tests.workflows.made_labelled import labels, make, predictions, settings_of
from workflows.context import StageContext
from workflows.errors import BudgetError, DataError
from workflows.fits.fit_history import history_path
from workflows.fits.needs import mixtures_bytes
from workflows.pipeline import STAGES
from workflows.plan.scopes import read_scopes, scopes_path
from workflows.runtime.cluster import Resources
from workflows.settings import Settings, parse_settings
from workflows.stages import fit
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state
from workflows.storage.tables import read_table, write_table
from workflows.words.sliced_words import SliceFiles

Lists = dict[str, tuple[Sequence[str], bool]]
"""Name of a list -> its classes, and whether the rest is a label."""


@dataclass
class Seen:
    """What the user would see of a stage. starts: total and done items of every bar."""

    warnings: list[str] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)

    def start(self, total: int, done: int = 0) -> None:
        self.starts.append((total, done))

    def advance(self, items: int = 1, images: int = 0, columns: int = 0) -> None: ...
    def at_work(self, item: str, share: float, columns: int = 0) -> None: ...
    def note(self, text: str) -> None: ...


def scoped(
    classes: Sequence[str] = (), lists: Lists | None = None, images: Sequence[str] = (), **runtime: float
) -> Settings:
    """Settings of class scopes, or of lists. images: of ``mine.images``. runtime: fields of that section."""
    given = [{"name": name, "classes": list(named), "rest": rest} for name, (named, rest) in (lists or {}).items()]
    settings = settings_of({"loss": "generative", "scopes": ["list" if lists else "class"], "lists": given})
    asked = {"classes": list(classes) or ["all"], "images": list(images)}
    raw = settings.model_dump(mode="json")
    return parse_settings(raw | {"mine": asked, "runtime": raw["runtime"] | runtime})


Fit = Callable[[RunFolder, Settings], Seen]


@pytest.fixture
def fitted(local_ray: Resources) -> Fit:
    """Runs the stage to its end."""

    def run(folder: RunFolder, settings: Settings) -> Seen:
        seen = Seen()
        fit.run(StageContext(settings, folder, STAGES["fit"], seen, seen.warnings.append, local_ray))
        folder.ledger("fit").end()
        return seen

    return run


def test_scopes_asked_for_later_are_checked_before_their_fits(tmp_path: Path, fitted: Fit) -> None:
    *_, folder = make(tmp_path / "run", scoped(["3"]))
    assert fitted(folder, scoped(["3"])).starts == [(1, 0)]
    before = scopes_path(folder).read_bytes(), folder.ledger("fit").path.read_bytes()
    both = ["3", "5"]
    assert predictions()[0] == 1
    refused = {
        r"needs .* more disk .*words .*, mixtures 2\.3 kB; .*: ask for fewer scopes \(mine\.classes, fit\.lists\)": (
            BudgetError, scoped(both, disk_margin=1e12),
        ),
        r"of memory and 1 MB are allowed by runtime\.memory_gb .*: lower runtime\.actors, or ask for fewer scopes": (
            BudgetError, scoped(both, memory_gb=0.001),
        ),
        r"mine\.images: image 0 is predicted as '1', which no scope of the run explains \(they explain 3, 5\)": (
            DataError, scoped(both, images=["0"]),
        ),
    }  # fmt: skip
    for words, (error, settings) in refused.items():
        with pytest.raises(error, match=words):
            fitted(folder, settings)
    assert (scopes_path(folder).read_bytes(), folder.ledger("fit").path.read_bytes()) == before, "all is as it was"
    assert fitted(folder, scoped(both)).starts == [(2, 1)]
    assert fitted(folder, scoped(["3"], disk_margin=1e12)).starts == [(1, 1)], "nothing is left to write"


@pytest.mark.slow
def test_the_bar_and_the_history_are_of_the_asked_scopes(tmp_path: Path, fitted: Fit) -> None:
    *_, folder = make(tmp_path / "run", scoped(["3", "8"]))
    assert fitted(folder, scoped(["3", "8"])).starts == [(2, 0)]
    assert fitted(folder, scoped(["5"])).starts == [(1, 0)], "two fits of other scopes are none of these"
    assert [scope.name for scope in read_scopes(folder)] == ["class-5"]
    assert set(read_table(folder.table("history"))["scope"].to_pylist()) == {"class-5"}
    assert fitted(folder, scoped(["3", "5"])).starts == [(2, 2)]


@pytest.mark.slow
def test_the_fit_of_most_images_goes_first(tmp_path: Path, fitted: Fit) -> None:
    """A list with a rest has all images, however few classes it names."""
    counts = np.bincount(labels()[:600])
    assert counts[[1, 2, 3, 4]].sum() < 600
    lists: Lists = {"four": (["1", "2", "3", "4"], False), "one": (["0"], True)}
    settings = scoped(lists=lists, fit_actors=2)  # both cores, so fits follow each other
    *_, folder = make(tmp_path / "run", settings)
    fitted(folder, settings)
    assert list(folder.ledger("fit").items()) == ["list-one/made", "list-four/made"]


@pytest.mark.slow
def test_what_a_killed_driver_left_of_finished_fits_is_removed(tmp_path: Path, fitted: Fit) -> None:
    *_, folder = make(tmp_path / "run", scoped(["3"]))
    fitted(folder, scoped(["3"]))
    left = {path.name for path in folder.mixture("class-3", "made").parent.iterdir()}
    checkpoint = folder.fit_state("class-3", "made")
    save_state(checkpoint, {"at": np.array(5)})
    SliceFiles(checkpoint, 0, 2).write("step-5", {"mean": np.zeros(3)})
    assert len(list(checkpoint.parent.iterdir())) == len(left) + 2
    fitted(folder, scoped(["3"]))
    assert {path.name for path in checkpoint.parent.iterdir()} == left


@pytest.mark.slow
def test_dictionaries_need_the_disk_that_they_take(tmp_path: Path, fitted: Fit) -> None:
    settings = scoped(lists={"pair": (["1", "7"], False), "one": (["0"], True)})
    trained = settings.fit.model_copy(update={"loss": "discriminative"})
    settings = settings.model_copy(update={"fit": trained})
    _, plan, folder = make(tmp_path / "run", settings)
    fitted(folder, settings)
    scopes = read_scopes(folder)
    assert [scope.n_labels for scope in scopes] == [2, 2]
    arrays = [load_state(path) for path in (folder.root / "mixtures").rglob("*.npz")]
    large = ("mean", "variance", "discriminative_weight", "generative_weight")
    written = sum(found[name].nbytes for found in arrays for name in large if name in found)
    assert written == mixtures_bytes(settings, plan, [scope.n_labels for scope in scopes])


def test_the_history_is_joined_in_bounded_memory_as_one_sort(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    fits = [(scope, layer) for scope in ("joint", "class-10", "class-2", "list-é") for layer in ("b", "a.1", "a")]
    for place, one in enumerate(fits):
        write_table(history_path(folder, *one), history_of(*one, rows=30_000, seed=place), "history", network="made up")
    whole = pa.concat_tables([read_table(history_path(folder, *one)) for one in fits])
    write_table(tmp_path / "sorted.parquet", whole, "history")
    del whole
    half, whole_peak = (peak_of(lambda some=some: fit.join_history(folder, sorted(some))) for some in (fits[::2], fits))
    assert folder.table("history").read_bytes() == (tmp_path / "sorted.parquet").read_bytes()
    assert 0 < whole_peak < 1.2 * half, "twice the fits, not twice the memory"


def history_of(scope: str, layer: str, rows: int, seed: int) -> dict[str, Any]:
    """Columns of the history of a fit of so many steps."""
    keys = {"scope": [scope] * rows, "layer": [layer] * rows, "restart": [0] * rows, "phase": ["generative"] * rows}
    steps = np.arange(1, rows + 1)
    values = np.random.default_rng(seed).random(rows)
    return keys | {"step": steps, "epoch": steps // 100, "columns": 10 * steps, "held_out_full": values}


def peak_of(work: Callable[[], None]) -> int:
    """Bytes that Arrow holds at most meanwhile."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        work()
    finally:
        pa.set_memory_pool(before)
    return int(pool.max_memory())


THIN = ("data.max_train=60", "data.max_validation=50", "mine.images=[]")


@pytest.mark.slow
def test_thin_dictionaries_are_told_once_before_the_fits(
    digits_weights: Path, local_ray: Resources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = (*THIN, "fit.scopes=['joint','class']", "mine.classes=['3']")
    assert command(run_arguments(tmp_path / "run", digits_weights, *fields, until="fit")) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "some words will describe" in line]
    assert len(set(told)) == len(told), "a stage repeats what another has told"
    assert any("in scope class-3;" in line for line in told)
    assert any("in scope" not in line for line in told), "told by the index stage, which knows the scope joint"


def test_a_thin_list_that_the_index_stage_did_not_see_is_told(tmp_path: Path, fitted: Fit) -> None:
    settings = scoped(lists={"pair": (["1", "7"], False)})
    *_, folder = make(tmp_path / "run", settings)
    folder.ledger("index").begin("of another list")
    folder.ledger("index").record("images", images=720, warnings=[])
    (told,) = fitted(folder, settings).warnings
    assert told.startswith(
        "layer 'made': 24 words on 1,712 columns of 107 images in scope list-pair; below 100 columns"
    )

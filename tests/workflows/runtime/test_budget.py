from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from workflows.errors import BudgetError
from workflows.runtime.budget import check_disk, check_memory, free_memory, readable


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(20_000, 10_000, 10_000_000_000))


@pytest.mark.usefixtures("small_disk")
def test_a_plan_beyond_the_disk_is_refused_with_both_numbers(tmp_path: Path) -> None:
    needed = {"activations": 9_000_000_000, "words": 500_000_000}
    with pytest.raises(BudgetError) as caught:
        check_disk(tmp_path / "not" / "yet", needed, margin=1.1)
    words = str(caught.value)
    assert "needs 10.4 GB more disk" in words
    assert "10 GB are free" in words
    assert "activations 9 GB, words 500 MB; 0 bytes written, margin 1.1" in words
    assert "lower data.max_train or extract.columns_per_image, or give an --out on a larger disk" in words
    assert not (tmp_path / "not").exists()


@pytest.mark.usefixtures("small_disk")
def test_what_is_written_already_needs_no_more_disk(tmp_path: Path) -> None:
    needed = {"activations": 9_000_000_000, "words": 500_000_000}
    budget = check_disk(tmp_path, needed, margin=1.1, written=1_000_000_000)
    assert (budget.needed, budget.available) == (9_350_000_000, 10_000_000_000)
    assert str(budget) == "9.35 GB of 10 GB"
    assert check_disk(tmp_path, needed, margin=1.0).needed == 9_500_000_000


def test_a_plan_beyond_the_memory_is_refused_with_both_numbers() -> None:
    needed = {"2 extract actors": 3_000_000_000, "a fit buffer": 1_500_000_000}
    with pytest.raises(BudgetError) as caught:
        check_memory(needed, limit_gb=4, change="lower extract.batch")
    assert str(caught.value) == (
        "the plan needs 4.5 GB of memory and 4 GB are allowed by runtime.memory_gb "
        "(2 extract actors 3 GB, a fit buffer 1.5 GB): lower extract.batch"
    )
    assert check_memory(needed, limit_gb=4.5).available == 4_500_000_000
    with pytest.raises(BudgetError, match=re.escape("1 EB".replace("EB", "TB")) + r" .* are free .*runtime.actors"):
        check_memory({"everything": 10**12})


def test_free_memory_is_what_this_machine_can_give() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (5.4e9, "5.4 GB"), (2e15, "2e+03 TB")],
)
def test_sizes_for_people(n_bytes: int, text: str) -> None:
    assert readable(n_bytes) == text

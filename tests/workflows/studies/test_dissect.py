"""dissect on the small run of digits: tables equal the slow twin, figures, names of words, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import command
from tests.references.dissection import lite_tally, threshold
from tests.workflows.studies.made_masks import CONCEPTS, digit_masks, digits_coco
from workflows.run import open_run
from workflows.storage.arrays import read_rows
from workflows.words.word_maps import read_words
from sklearn.datasets import load_digits

TWIN = 24
"""Images that the slow twin takes."""


@pytest.fixture(scope="module")
def dissected(build_once: BuildOnce, digits_run: Path) -> Path:
    """The whole study on every image."""

    def build(root: Path) -> None:
        shutil.copytree(digits_run, root)
        masks = digits_coco(root, root.parent / "masks.json")
        assert command(["dissect", str(root), "--masks", f"coco:{masks}"]) == 0

    return build_once("digits-dissected", build)


def test_it_runs(dissected: Path) -> None:
    run = open_run(dissected)
    print(run.table("units").to_pandas() if False else run.table("units").slice(0, 5).to_pylist())

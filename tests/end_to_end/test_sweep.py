"""A sweep over K on digits: the numbers are those of single runs, it goes on cell by cell, and refuses in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from gmm_ops.discriminative.classifier import paired_difference
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.model_selection import bayesian_criterion
from tests.end_to_end.small_digits import SCOPE, command, copy_until, run_arguments
from workflows.asking.registry import STUDIES
from workflows.fits.columns import ColumnSource
from workflows.plan.run_plan import Plan
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder
from workflows.storage.tables import read_table
from workflows.studies.sweep.rows import Cell, cell_folder, dictionary_paths

WORDS = (10, 20)
FEW_STEPS = ("discriminative.epochs=2",)
TOP = "layer3.0.add"


def sweep_arguments(out: Path, weights: Path, *overrides: str, words: str = "10,20", losses: str = "both") -> list[str]:
    """The small run's settings, for the sweep."""
    fields = run_arguments(out, weights, *FEW_STEPS, *overrides)[1:]
    return ["sweep", *fields, "--words", words, "--losses", losses]


@pytest.fixture(scope="module")
def swept(digits_run: Path, digits_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of three layers with 10 and 20 words, in a copy of a run; for reading only."""
    root = copy_until(digits_run, tmp_path_factory.mktemp("sweep") / "run", "extract")
    assert command(sweep_arguments(root, digits_weights)) == 0
    return root


def rows_of(root: Path) -> list[dict[str, Any]]:
    return read_table(RunFolder.open(root).table("sweep")).to_pylist()


@pytest.mark.slow
def test_every_layer_word_count_loss_and_histogram_has_a_row(swept: Path) -> None:
    found = [(row["given"], row["words"], row["loss"], row["histogram"]) for row in rows_of(swept)]
    assert len(found) == len(set(found)) == 3 * len(WORDS) * 2 * 2
    folder = RunFolder.open(swept)
    assert folder.figure("sweep", "png").stat().st_size > 20_000
    assert folder.figure("sweep", "svg").exists()


@pytest.mark.slow
def test_errors_and_intervals_are_those_of_the_images(swept: Path) -> None:
    """Recounted from what each fit decides about every image."""
    parts = sorted((swept / "sweep" / "decisions").iterdir())
    for row in rows_of(swept):
        own = [("layer", "=", row["layer"])]
        decisions = pa.concat_tables([read_table(part, filters=own) for part in parts])
        labels = {
            words: {name: np.array(column) for name, column in
                    decisions.filter(pc.equal(decisions["words"], words)).to_pydict().items()}
            for words in WORDS
        }  # fmt: skip
        own, way = labels[row["words"]], f"{row['loss']}_{row['histogram']}"
        wrong = own[way] != own["label"]
        assert (row["images"], row["errors"]) == (125, int(wrong.sum()))
        assert row["network_errors"] == int((own["network_label"] != own["label"]).sum())
        assert (row["fewer_words"] is None) == (row["words"] == WORDS[0])
        if row["fewer_words"] is not None:
            other = labels[row["fewer_words"]]
            assert row["fewer_difference"] == pytest.approx(wrong.mean() - (other[way] != other["label"]).mean())
        if row["loss"] == "discriminative":
            against = own[f"generative_{row['histogram']}"] != own["label"]
            pair = paired_difference(torch.from_numpy(wrong), torch.from_numpy(against))
            assert (row["difference_low"], row["difference_high"]) == (pair.low, pair.high)
            assert row["tie"] == pair.is_tie


@pytest.mark.slow
def test_likelihoods_are_those_of_the_stored_columns(swept: Path) -> None:
    folder = RunFolder.open(swept)
    plan, settings = Plan.read(folder), folder.settings()
    layer = plan.layer(TOP)
    source = ColumnSource(settings, plan, folder, layer, torch.device("cpu"))
    fitted = torch.cat([source.fitted(chunk).columns for chunk in range(source.chunks)]).float()
    blocks = [source.held_out(chunk) for chunk in range(source.chunks)]
    held_out = torch.cat([block.columns for block in blocks if block is not None]).float()
    for row in rows_of(swept):
        if row["layer"] == TOP:
            words = load_mixture(dictionary_paths(folder, Cell(TOP, row["words"]), SCOPE)[row["loss"]])
            expected = float(log_likelihood(words, held_out).double().mean())
            assert row["held_out_log_likelihood"] == pytest.approx(expected, rel=1e-6)
            if row["loss"] == "generative":
                total = float(log_likelihood(words, fitted).double().sum())
                criterion = bayesian_criterion(total, len(fitted), row["words"], layer.units)
                assert row["bic"] == pytest.approx(criterion, rel=1e-6)
            else:
                assert row["bic"] is None


@pytest.mark.slow
def test_a_run_with_as_many_words_comes_to_the_same_errors(swept: Path, digits_weights: Path, tmp_path: Path) -> None:
    """One extraction, the same seeds: a cell is what ``run`` would have fitted."""
    root = tmp_path / "run"
    overrides = (*FEW_STEPS, "fit.words=[20,20,20]", "fit.loss=discriminative")
    assert command(run_arguments(root, digits_weights, *overrides, until="errors")) == 0
    single = read_table(RunFolder.open(root).table("errors")).to_pylist()
    names = ("layer", "loss", "histogram", "images", "errors", "network_errors", "difference", "tie")
    swept_rows = {tuple(row[name] for name in names) for row in rows_of(swept) if row["words"] == 20}
    assert {tuple(row[name] for name in names) for row in single} == swept_rows


@pytest.mark.slow
def test_it_goes_on_cell_by_cell_with_the_same_table(swept: Path, digits_weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(swept, root)
    folder = RunFolder.open(root)
    ledger = root / "ledgers" / "sweep.jsonl"
    lines = ledger.read_text().splitlines(True)
    ledger.write_text("".join(line for line in lines if f"{TOP}/20" not in line and '"end"' not in line))
    folder.table("sweep").unlink()
    left = cell_folder(folder, 20).mixture(SCOPE, TOP)
    left.unlink()
    untouched = cell_folder(folder, 10).mixture(SCOPE, TOP)
    before = untouched.stat().st_mtime_ns
    assert command(sweep_arguments(root, digits_weights)) == 0
    assert left.exists()
    assert untouched.stat().st_mtime_ns == before, "a finished cell is not fitted again"
    first, second = (read_table(RunFolder.open(one).table("sweep")) for one in (swept, root))
    assert first.equals(second)
    own = StudyFolder(folder, STUDIES["sweep"])
    assert own.state().state == "done"
    with folder.images_table.open("ab") as images:
        images.write(b"\0")
    assert (own.state().state, own.state().changed) == ("stale", ("images.parquet",))


@pytest.mark.slow
def test_other_numbers_of_words_join_the_table(swept: Path, digits_weights: Path, tmp_path: Path) -> None:
    root = shutil.copytree(swept, tmp_path / "run")
    kept = cell_folder(RunFolder.open(root), 20).mixture(SCOPE, TOP)
    before = kept.stat().st_mtime_ns
    assert command(sweep_arguments(root, digits_weights, words="15")) == 0
    rows = rows_of(root)
    assert [row["words"] for row in rows if row["layer"] == TOP] == [10] * 4 + [15] * 4 + [20] * 4
    assert {(row["words"], row["fewer_words"]) for row in rows} == {(10, None), (15, 10), (20, 15)}
    paired = ("fewer_words", "fewer_difference", "fewer_difference_low", "fewer_difference_high")
    earlier = [{name: row[name] for name in row if name not in paired} for row in rows if row["words"] != 15]
    assert earlier == [{name: row[name] for name in row if name not in paired} for row in rows_of(swept)]
    assert kept.stat().st_mtime_ns == before, "hours of fits are not lost"


@pytest.mark.slow
def test_other_losses_are_refused(
    swept: Path, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(swept, tmp_path / "run")
    kept = cell_folder(RunFolder.open(root), 20).mixture(SCOPE, TOP)
    before = kept.stat().st_mtime_ns
    assert command(sweep_arguments(root, digits_weights, words="4", losses="generative")) == 2
    told = capsys.readouterr().err.replace("\n", " ")
    assert "holds a sweep with other [fit] or [discriminative] settings, or other --losses" in told
    assert kept.stat().st_mtime_ns == before, "hours of fits are not lost"


@pytest.mark.slow
def test_likelihoods_alone_need_no_labels(digits_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    root = copy_until(digits_run, tmp_path / "run", "extract")
    few = ("fit.loss=discriminative", "fit.min_images=400")
    assert command(sweep_arguments(root, digits_weights, *few, words="4", losses="generative")) == 0
    rows = rows_of(root)
    assert [(row["given"], row["words"], row["histogram"]) for row in rows] == [
        (name, 4, None) for name in ("add1", "add2", "add3")
    ]
    assert all(row["error"] is None and row["bic"] is not None for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digits", "--words", "ten"], "--words 'ten': give whole numbers above 0 with commas between"),
        (["digits", "--words", "0,5"], "--words '0,5': give whole numbers above 0"),
        (["digits", "--losses", "all"], "--losses 'all': give both, or generative"),
        (["digits_mlp"], "give a preset without an [hmm] section"),
        (["animals_resnet50"], "sweep fits dictionaries of all classes: set fit.scopes = ['joint'] and fit.lists = []"),
        (["digits", "--set", "fit.word_slices=2"], "sweep fits every dictionary whole: set fit.word_slices = 1"),
    ],
)
def test_bad_requests_are_refused_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(["sweep", *arguments, "--out", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "field", "told"),
    [
        (
            "4,90000",
            "fit.min_images=20",
            "sweep --words 4,90000 --losses both: fit.words: layer 'add2' has 90000 words",
        ),
        ("4", "fit.min_images=400", "--losses both: fit.loss = 'discriminative' needs 400 training images of every"),
        ("4,7000", "runtime.memory_gb=0.5", "take fewer --words"),
    ],
)
def test_what_cannot_be_is_refused_before_the_extraction(
    words: str, field: str, told: str, digits_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    assert command(sweep_arguments(root, digits_weights, field, words=words)) == 2
    assert told in capsys.readouterr().err.replace("\n", " ")
    assert not (root / "activations").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_words_of_a_real_last_layer_decide_nearly_as_the_network(shared_data: Path, tmp_path: Path) -> None:
    """The paper's statements at two of its layers, on all 20,000 and 1,000 images."""
    chosen = ["--layers", "add7,add9", "--words", "50"]
    assert command(["sweep", "cifar10_resnet20", *chosen, "--out", str(tmp_path / "run")]) == 0
    found = {(row["given"], row["loss"]): row for row in rows_of(tmp_path / "run") if row["histogram"] == "soft"}
    last, lower = found["add9", "discriminative"], found["add7", "discriminative"]
    assert last["images"] == 1_000
    assert last["error"] <= last["network_error"] + 0.01
    assert lower["difference_high"] < -0.05, "clearly below the generative words"

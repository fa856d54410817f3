"""True, false or unmeasured, and the numbers beside: on tables whose answer is known."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.workflows.report.made_up_sweeps import likelihoods_alone, made_up_sweep
from workflows.report.sweep_verdicts import Verdict, sweep_table, sweep_verdicts, verdict_lines

AS_EXPECTED = {
    "add1": {"generative": (700, 650, 600), "discriminative": (500, 450, 400)},
    "add9": {"generative": (150, 120, 100), "discriminative": (110, 95, 95)},
}


def below(verdicts: list[Verdict]) -> Verdict:
    return verdicts[0]


def near(verdicts: list[Verdict]) -> Verdict:
    return verdicts[1]


def test_all_expectations_hold_where_they_do() -> None:
    verdicts = sweep_verdicts(made_up_sweep(AS_EXPECTED))
    assert [verdict.holds for verdict in verdicts] == [True] * 4
    assert below(verdicts).numbers[0] == "4 of 4 below, 3 of them clearly; 1 ties; 0 clearly above"
    assert "K=50 −0.005 [−0.025, +0.015] tie" in below(verdicts).numbers[2]
    assert near(verdicts).numbers == ("K=50 0.095 against 0.085, +0.010 [−0.010, +0.030]",)


def test_a_tie_on_the_wrong_side_is_false_and_called_a_tie() -> None:
    errors = {**AS_EXPECTED, "add9": {"generative": (150, 120, 100), "discriminative": (110, 95, 101)}}
    verdict = below(sweep_verdicts(made_up_sweep(errors)))
    assert verdict.holds is False
    assert verdict.numbers[0] == "3 of 4 below, 3 of them clearly; 1 ties; 0 clearly above"
    assert "K=50 +0.001 [−0.019, +0.021] tie" in verdict.numbers[2]


def test_fewer_words_than_the_statement_asks_for_do_not_count() -> None:
    errors = {"add9": {"generative": (100, 120, 100), "discriminative": (200, 95, 95)}}
    verdict = below(sweep_verdicts(made_up_sweep(errors)))
    assert verdict.holds is True, "K = 10 is above, and not asked for"


@pytest.mark.parametrize(("wrong", "holds"), [(95, True), (96, False), (80, True)])
def test_within_a_hundredth_counts_whole_images(wrong: int, holds: bool) -> None:
    errors = {"add9": {"generative": (150, 120, 110), "discriminative": (110, 95, wrong)}}
    assert near(sweep_verdicts(made_up_sweep(errors))).holds is holds


def test_more_words_that_are_clearly_worse_are_named() -> None:
    errors = {**AS_EXPECTED, "add1": {"generative": (700, 650, 680), "discriminative": (500, 450, 460)}}
    inner, last = sweep_verdicts(made_up_sweep(errors))[2:]
    assert inner.holds is False
    assert last.holds is True
    assert inner.numbers[1:] == ("add1 generative, K=25 to 50: K=50 +0.030 [+0.010, +0.050]",)
    assert inner.numbers[0].startswith("4 steps from one K to the next: 2 clearly better, 1 ties, 1 clearly worse")


def test_what_was_not_measured_is_neither_true_nor_false() -> None:
    small = sweep_verdicts(made_up_sweep({"add9": {"generative": (9,), "discriminative": (8,)}}, words=(10,)))
    assert [verdict.holds for verdict in small] == [None] * 4
    assert sweep_verdicts(likelihoods_alone()) == []


def test_the_lines_say_true_or_false_and_escape_brackets() -> None:
    stream = io.StringIO()
    errors = {**AS_EXPECTED, "add9": {"generative": (150, 120, 100), "discriminative": (110, 95, 130)}}
    for line in verdict_lines(sweep_verdicts(made_up_sweep(errors))):
        Console(file=stream, width=200).print(line)
    text = stream.getvalue()
    assert "false discriminative words are below generative ones" in text
    assert "false last layer, add9, K >= 50" in text
    assert "K=50 +0.030 [+0.010, +0.050]" in text


def test_the_table_fits_80_columns_with_every_number_whole() -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(sweep_table(made_up_sweep(AS_EXPECTED, words=(10, 25, 200))))
    lines = stream.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in stream.getvalue()
    (row,) = [line for line in lines if line.strip().startswith("add9")]
    assert row.split() == ["add9", "10", "15.0", "15.5", "11.0", "11.5", "−4.0", "[−6.0,", "−2.0]", "−30.00", "58.00"]
    assert any("tie" in line for line in lines)
    assert any("the network's own is 8.5 %" in line for line in lines)

"""Adam and its schedule are torch's, step for step, and the plain loop's."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.discriminative.adam import Moments, adam_step, one_cycle
from gmm_ops.errors import RefusedInput
from tests.references import discriminative as reference

HIGHEST = {"words": 1e-2, "weight": 1e-1}


def drawn_slopes(steps: int) -> list[dict[str, torch.Tensor]]:
    source = torch.Generator().manual_seed(3)
    return [
        {
            "words": torch.randn(4, 3, generator=source).double() * 10.0 ** (i % 5 - 4),
            "weight": torch.randn(5, generator=source).double(),
        }
        for i in range(steps)
    ]


def started() -> dict[str, torch.Tensor]:
    return {"words": torch.ones(4, 3, dtype=torch.float64), "weight": torch.zeros(5, dtype=torch.float64)}


@pytest.mark.parametrize("total", [2, 3, 4, 7, 10, 60])
def test_equals_torch_step_for_step(total):
    theirs = {name: torch.nn.Parameter(value) for name, value in started().items()}
    groups = [{"params": [value], "lr": HIGHEST[name]} for name, value in theirs.items()]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(HIGHEST.values()), total_steps=total)
    ours, moments = started(), Moments.zero(started())
    for step, slopes in enumerate(drawn_slopes(total)):
        cycle = {name: one_cycle(step, total, highest) for name, highest in HIGHEST.items()}
        for group, (rate, momentum) in zip(optimizer.param_groups, cycle.values(), strict=True):
            assert rate == pytest.approx(group["lr"], rel=1e-12)
            assert momentum == pytest.approx(group["betas"][0], rel=1e-12)
        rates = {name: rate for name, (rate, _) in cycle.items()}
        ours, moments = adam_step(ours, slopes, moments, rates, cycle["words"][1])
        for name, value in theirs.items():
            value.grad = slopes[name].clone()
        optimizer.step()
        if step + 1 < total:
            schedule.step()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value.detach(), rtol=1e-13, atol=1e-16)
    assert moments.step == total


def test_equals_the_loop():
    slopes = drawn_slopes(40)
    ours, moments = started(), Moments.zero(started())
    for step, slope in enumerate(slopes):
        rates = {name: one_cycle(step, 40, highest)[0] for name, highest in HIGHEST.items()}
        ours, moments = adam_step(ours, slope, moments, rates, one_cycle(step, 40, 1.0)[1])
    for name, at in (("words", (1, 2)), ("weight", (4,))):
        expected = reference.adam(float(started()[name][at]), [float(s[name][at]) for s in slopes], HIGHEST[name], 40)
        assert float(ours[name][at]) == pytest.approx(expected, rel=1e-12)


def test_the_cycle_rises_then_falls():
    rates = [one_cycle(step, 100, 1.0)[0] for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[29] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 / 25e4)
    assert rates[:30] == sorted(rates[:30])
    assert rates[29:] == sorted(rates[29:], reverse=True)


def test_a_cycle_of_one_step_is_its_top():
    # torch's is the cycle's end, at a 250,000th of the rate: the only step of a small fit would do nothing.
    assert one_cycle(0, 1, 0.1) == (0.1, 0.85)
    moved, _ = adam_step(started(), drawn_slopes(1)[0], Moments.zero(started()), dict.fromkeys(HIGHEST, 0.1), 0.85)
    assert all(float((moved[name] - value).abs().min()) > 0.09 for name, value in started().items())


def test_a_rate_may_be_one_for_every_unit():
    rates = torch.tensor([1e-2, 1e-5, 0.0], dtype=torch.float64)
    slopes, zero = drawn_slopes(1)[0], Moments.zero(started())
    apart, _ = adam_step(started(), slopes, zero, HIGHEST | {"words": rates}, 0.9)
    for unit, rate in enumerate(rates.tolist()):
        alone, _ = adam_step(started(), slopes, zero, HIGHEST | {"words": rate}, 0.9)
        assert torch.equal(apart["words"][:, unit], alone["words"][:, unit])
    assert torch.equal(apart["words"][:, 2], started()["words"][:, 2])


def test_a_resumed_run_goes_on_bit_for_bit():
    slopes, highest = drawn_slopes(20), {"words": 1e-2, "weight": 1e-1}
    ours, moments = started(), Moments.zero(started())
    halfway = None
    for step, slope in enumerate(slopes):
        if step == 9:
            halfway = {name: value.clone() for name, value in ours.items()}, moments.to_arrays()
        ours, moments = adam_step(ours, slope, moments, highest, 0.9)
    again, stored = halfway
    resumed = Moments.from_arrays(stored)
    assert resumed.step == 9
    for slope in slopes[9:]:
        again, resumed = adam_step(again, slope, resumed, highest, 0.9)
    assert all(torch.equal(again[name], ours[name]) for name in ours)


def test_a_step_leaves_its_input_alone():
    values, moments = started(), Moments.zero(started())
    adam_step(values, drawn_slopes(1)[0], moments, HIGHEST, 0.9)
    assert all(torch.equal(values[name], value) for name, value in started().items())
    assert not any(bool(value.any()) for value in (*moments.first.values(), *moments.second.values()))


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_schedule_is_refused(step):
    with pytest.raises(RefusedInput, match=rf"step must lie between 0 and 9.*got {step}.*number of steps"):
        one_cycle(step, 10, 1.0)

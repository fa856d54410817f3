from __future__ import annotations

import pytest

from workflows.report.lettering import fit_text, printable, short_name, text_width, wrap_text
from workflows.report.numbers import duration, frequency, log_ratio, percent, size
from workflows.report.page import DPI, Page


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("text", ["sports car · word 17   62 %", "layer3.2.add", "−0.41 ↻ <.01", "iiiiWWWW"])
def test_width_is_what_the_renderer_draws(text: str, bold: bool) -> None:
    page = Page(300, 40)
    page.text(5, 5, text, 10.0, bold=bold)
    ((_, _, box),) = page.boxes()
    assert text_width(text, 10.0, bold) == pytest.approx(box.width * 72 / DPI, rel=0.03, abs=0.6)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("sports car, sport car", "sports car"),
        ("cat", "cat"),
        ("  two\n words ", "two words"),
        (", odd", ", odd"),
        ('<b>&"x"', '<b>&"x"'),
        ("虎", "\ufffd"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short


def test_characters_that_the_font_lacks_are_drawn_as_a_mark() -> None:
    page = Page(100, 20)
    page.text(2, 2, printable("tiger 虎 \x00"), 8.0)
    assert page.png().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [200.0, 60.0, 30.0, 12.0, 6.0, 1.0])
@pytest.mark.parametrize("middle", [False, True])
def test_fitted_text_fits(width: float, middle: bool) -> None:
    text = "features.denseblock3.denselayer24.add"
    fitted = fit_text(text, width, 7.0, middle=middle)
    assert text_width(fitted, 7.0) <= width
    if text_width(text, 7.0) <= width:
        assert fitted == text
    elif middle and width > 50:
        head, tail = fitted.split("…")
        assert text.startswith(head)
        assert text.endswith(tail)
        assert tail
    elif width > 12 and not middle:
        assert text.startswith(fitted.removesuffix("…"))
        assert fitted.endswith("…")
    if width == 1.0:
        assert fitted == ""


def test_wrapped_lines_fit_and_lose_no_word() -> None:
    text = "An arrow leads from a lower word to the upper word it speaks for."
    lines = wrap_text(text, 90.0, 6.5)
    assert len(lines) > 1
    assert all(text_width(line, 6.5) <= 90.0 for line in lines)
    assert " ".join(lines) == text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.624), "62 %"),
        (percent(0.0312), "3.1 %"),
        (percent(0.0997), "10 %"),
        (percent(0.0), "0 %"),
        (percent(1.0), "100 %"),
        (percent(float("nan")), "–"),
        (frequency(0.314), "0.31"),
        (frequency(0.314, long=False), ".31"),
        (frequency(0.001), "<.01"),
        (frequency(1.0, long=False), "1.0"),
        (frequency(0.0), "0.00"),
        (log_ratio(2.128), "2.13"),
        (log_ratio(2.128, long=False), "2.1"),
        (log_ratio(-0.5), "−0.50"),
        (log_ratio(-0.001), "0.00"),
        (log_ratio(12.34), "12.3"),
        (log_ratio(12.34, long=False), "12"),
        (log_ratio(float("-inf")), "−∞"),
        (duration(4.23), "4.2 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(185), "3 min 05 s"),
        (duration(7620), "2 h 07 min"),
        (size(812), "812 B"),
        (size(4_120_000), "4.1 MB"),
        (size(123_400_000_000), "123 GB"),
        (size(999_999), "1.0 MB"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected

from __future__ import annotations

import pytest

from workflows.report.lettering import fit_pair, text_width

TEMPLATE = "predicted {} (62 %), true label {}"
LONG = "three-toed sloth of a very long row of animals in a very long name"


def test_short_names_stay_whole() -> None:
    assert fit_pair(TEMPLATE, ("cat", "dog"), 400, 10) == "predicted cat (62 %), true label dog"


@pytest.mark.parametrize("names", [("cat", LONG), (LONG, "cat"), (LONG, LONG), ("", LONG)])
@pytest.mark.parametrize("width", [250.0, 300.0, 500.0])
def test_the_longer_name_gives_way_and_the_rest_stays(names: tuple[str, str], width: float) -> None:
    text = fit_pair(TEMPLATE, names, width, 10, bold=True)
    assert text_width(text, 10, bold=True) <= width + 1e-3
    assert "(62 %), true label " in text
    assert all(name in text for name in names if len(name) < 4)


def test_a_line_with_no_room_for_names_is_cut() -> None:
    text = fit_pair(TEMPLATE, (LONG, LONG), 60.0, 10)
    assert text_width(text, 10) <= 60
    assert text.startswith("predicted")

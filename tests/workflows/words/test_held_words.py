"""What an actor keeps of many dictionaries: as much as fits, for as long as somebody needs it."""

from __future__ import annotations

import torch
from torch import Tensor

from workflows.words.held_words import HeldWords


def held(limit: int) -> tuple[HeldWords[str, Tensor], list[str]]:
    """Vectors of 10 float64 by their letter, and what was loaded."""
    loads: list[str] = []

    def load(key: str) -> Tensor:
        loads.append(key)
        return torch.full((10,), float(ord(key)), dtype=torch.float64)

    return HeldWords(load, lambda tensor: [tensor], limit), loads


def test_everything_that_fits_is_loaded_once() -> None:
    words, loads = held(240)
    for _ in range(5):
        assert [chr(int(words(key)[0])) for key in "abc"] == list("abc")
    assert loads == list("abc")


def test_what_does_not_fit_is_loaded_anew_and_the_rest_stays() -> None:
    """In turns, as scopes come batch after batch; to drop the oldest would load all of them in every turn."""
    words, loads = held(239)
    for _ in range(5):
        assert [chr(int(words(key)[0])) for key in "abcd"] == list("abcd")
    assert loads == ["a", "b", *("cd" * 5)]


def test_what_nobody_needs_makes_room() -> None:
    words, loads = held(160)
    for key in "abc":
        words(key)
    words.keep(["b", "c"])
    for key in "cbc":
        words(key)
    assert loads == ["a", "b", "c", "c"]


def test_nothing_is_kept_beyond_the_limit() -> None:
    words, loads = held(0)
    assert [float(words("a")[0]) for _ in range(3)] == [97.0] * 3
    assert loads == ["a"] * 3

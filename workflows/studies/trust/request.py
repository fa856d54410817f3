"""What trust is asked, and what is refused before long work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from workflows.errors import SettingsError

Intervention = Literal["shift", "mean"]

LEAST_PREDICTED = 20
"""Images predicted as a class: of fewer, halves and intervals say nothing."""


@dataclass(frozen=True)
class TrustRequest:
    """What is asked.

    Attributes:
        classes: names or ids, or ``all``.
        interventions: what ablated columns say; curves and edges take the first.
        tops: Z of the graphs whose words are taken out; curves, edges and single words are of the first.
        draws: of as many random columns.
        shortcuts: whether words are ranked as shortcuts. It is made of the answer, so it is no part of what was asked.
    """

    classes: tuple[str, ...] = ("all",)
    interventions: tuple[Intervention, ...] = ("shift", "mean")
    tops: tuple[int, ...] = (3,)
    draws: int = 5
    shortcuts: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError: a value that is none of those."""
        if not self.classes:
            raise SettingsError("--class: must name a class, or all; got none")
        for name in self.interventions or ("",):
            if name not in get_args(Intervention):
                raise SettingsError(
                    f"--interventions: must be {' or '.join(get_args(Intervention))}, or both with a comma, got "
                    f"{name!r}; take shift"
                )
        if not self.tops or min(self.tops) < 1:
            raise SettingsError(
                f"--top: must be numbers of words a layer of at least 1, got {', '.join(map(str, self.tops)) or 'none'}"
                "; take 3, as the paper"
            )
        if self.draws < 1:
            raise SettingsError(f"--draws: must be at least 1, got {self.draws}; 5 draws are the control")

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "classes": sorted(self.classes),
            "interventions": list(self.interventions),
            "tops": list(self.tops),
            "draws": self.draws,
        }


def intervention_names(text: str) -> tuple[Any, ...]:
    """From the command line, each once: ``shift,mean``; the request checks them."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def top_numbers(given: Sequence[str]) -> tuple[int, ...]:
    """From the command line, each once: ``3``, or ``3,1,2,5``. Raises SettingsError: no numbers."""
    parts = [part.strip() for text in given for part in text.split(",")]
    try:
        return tuple(dict.fromkeys(int(part) for part in parts))
    except ValueError:
        raise SettingsError(
            f"--top: must be numbers of words a layer, such as 3 or 1,2,3,5, got {', '.join(parts)}; take 3, as the "
            "paper"
        ) from None

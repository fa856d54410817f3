"""Tables of sweeps with chosen errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from workflows.storage.schemas import SCHEMAS

IMAGES = 1_000
NETWORK_ERRORS = 85
HALF = 0.02
"""Half width of every made-up interval."""


def made_up_sweep(
    errors: Mapping[str, Mapping[str, Sequence[int]]], words: Sequence[int] = (10, 25, 50), hard: int = 5
) -> pa.Table:
    """errors: layer -> loss -> wrong images of 1,000 by K, soft; hard histograms have ``hard`` more."""
    rows: list[dict[str, Any]] = []
    for layer, by_loss in errors.items():
        for place, count in enumerate(words):
            for loss, found in by_loss.items():
                for histogram, more in (("soft", 0), ("hard", hard)):
                    other = by_loss["generative"][place] if loss == "discriminative" else None
                    fewer = found[place - 1] if place else None
                    rows.append(_row(layer, count, loss, histogram, found[place] + more))
                    rows[-1] |= _paired("", found[place], other) | _paired("fewer_", found[place], fewer)
                    rows[-1] |= _paired("network_", found[place] + more, NETWORK_ERRORS)
                    rows[-1]["tie"] = None if other is None else abs(rows[-1]["difference"]) <= HALF
                    rows[-1]["fewer_words"] = words[place - 1] if place else None
    return pa.Table.from_pylist(rows, SCHEMAS["sweep"])


def likelihoods_alone(words: Sequence[int] = (10, 25, 50), best: int = 25) -> pa.Table:
    """A sweep without labels; BIC is lowest at ``best``."""
    rows = [_row("add1", count, "generative", None, 0) | {"bic": 1e6 + abs(count - best)} for count in words]
    nothing = dict.fromkeys(("images", "errors", "error", "network_errors", "network_error"))
    return pa.Table.from_pylist([row | nothing for row in rows], SCHEMAS["sweep"])


def _row(layer: str, words: int, loss: str, histogram: str | None, errors: int) -> dict[str, Any]:
    generative = loss == "generative"
    return {
        "scope": "joint",
        "layer": f"layer.{layer}",
        "given": layer,
        "words": words,
        "loss": loss,
        "histogram": histogram,
        "columns": 5_000,
        "log_likelihood": -30.0 + words / 10 if generative else None,
        "held_out_log_likelihood": -31.0 + words / 10,
        "parameters": 100 * words if generative else None,
        "bic": 3e5 - 1e3 * words if generative else None,
        "images": IMAGES,
        "errors": errors,
        "error": errors / IMAGES,
        "network_errors": NETWORK_ERRORS,
        "network_error": NETWORK_ERRORS / IMAGES,
        "network": "made-up",
    }


def _paired(prefix: str, errors: int, other: int | None) -> dict[str, float | None]:
    names = [f"{prefix}difference{end}" for end in ("", "_low", "_high")]
    if other is None:
        return dict.fromkeys(names)
    gap = (errors - other) / IMAGES
    return dict(zip(names, (gap, gap - HALF, gap + HALF), strict=True))

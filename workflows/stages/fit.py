"""activations/<layer>.zarr -> mixtures/<scope>/<layer>: one dictionary per layer by online EM."""

from __future__ import annotations

HELD_OUT_COLUMNS = 20_000
"""Columns of the fixed held-out sample that is scored after every step; the whole held-out part is scored each epoch."""

INITIAL_COLUMNS_A_WORD = 20
"""Columns drawn for the start, a word; at least 10,000 in all."""

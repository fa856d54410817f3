"""Axis letters used in every shape annotation, and the aliases built from them.

    N  images            H, W  rows and columns of a layer's map      n  activation columns
    D  units (channels)  K     words of a dictionary                  M  classes
    P  pairs             E     edges

A trailing prime in the papers (the lower layer) is written ``lower``: K_lower, H_lower, W_lower.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Columns = Float[Tensor, "n D"]
"""Activation columns, one row each."""

LayerColumns = Float[Tensor, "n _"]
"""Activation columns of one of several layers, whose numbers of units differ."""

ActivationMaps = Float[Tensor, "N D H W"]
"""A layer's activations; a dense layer has H = W = 1."""

WordMaps = Int[Tensor, "N H W"]
"""The hard word of every column; a value below 0 marks a column that takes no part."""

LowerWordMaps = Int[Tensor, "N H_lower W_lower"]
"""The same of the lower of two layers."""

PairCounts = Int[Tensor, "K K_lower"]
"""Co-occurrence counts, upper word by lower word, int64."""

WordStatistics = Float[Tensor, "K D"]
"""Per word and unit sums, float64."""

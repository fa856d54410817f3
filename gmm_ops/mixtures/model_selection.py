"""How many words a dictionary should have: the Bayesian information criterion (Schwarz 1978)."""

from __future__ import annotations

import math
from typing import Literal, get_args

from gmm_ops.errors import RefusedInput

VarianceOf = Literal["word", "unit", "layer"]
"""What has a variance of its own: every unit of every word (IG Eq. 1), every unit for all words alike, or the layer:
one number, so that words are those of a soft k-means."""


def free_parameters(n_words: int, n_units: int, variance_of: VarianceOf = "word") -> int:
    """Of a diagonal mixture: K - 1 shares, K D means, K D variances; D or 1 where words share them.

    Raises RefusedInput below 1 word or unit, or for another ``variance_of``.
    """
    if n_words < 1 or n_units < 1:
        raise RefusedInput(f"n_words and n_units must be at least 1; got {n_words} and {n_units}.")
    refuse_other_variances(variance_of)
    variances = {"word": n_words * n_units, "unit": n_units, "layer": 1}[variance_of]
    return n_words - 1 + n_words * n_units + variances


def refuse_other_variances(variance_of: str) -> None:
    """Raise RefusedInput unless it is a ``VarianceOf``."""
    if variance_of not in get_args(VarianceOf):
        raise RefusedInput(f"variance_of: must be word, unit or layer, got {variance_of!r}; take word, as the paper")


def bayesian_criterion(
    log_likelihood: float, n_columns: int, n_words: int, n_units: int, variance_of: VarianceOf = "word"
) -> float:
    """p ln n - 2 log L, lower is better.

    log_likelihood: sum of log p(x) over the ``n_columns`` columns that were fitted, natural logarithm.
    The criterion takes columns for independent. Neighbouring columns of a map are not, so for maps it counts more
    evidence than there is and asks for more words than it should.
    Raises RefusedInput (no column, a log-likelihood that is not finite).
    """
    if n_columns < 1 or not math.isfinite(log_likelihood):
        raise RefusedInput(
            f"log_likelihood must be finite and n_columns at least 1; got {log_likelihood} and {n_columns}. "
            "Pass the sum over the fitted columns."
        )
    return free_parameters(n_words, n_units, variance_of) * math.log(n_columns) - 2.0 * log_likelihood

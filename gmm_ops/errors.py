"""What the core refuses. Every message names the parameter, the rule, what came, and what to do."""

from __future__ import annotations


class RefusedInput(ValueError):
    """An argument breaks a rule of the method; nothing was computed."""


class NonFiniteActivations(RefusedInput):
    """Activation columns hold NaN or infinity."""

"""What the core refuses. Every message names the parameter, the rule, what came, and what to do."""

from __future__ import annotations


class RefusedInput(ValueError):
    """An argument breaks a rule of the method; nothing was computed."""


class NonFiniteActivations(RefusedInput):
    """Activation columns hold NaN or infinity."""


class Diverged(RuntimeError):
    """A fit by gradient left the finite numbers, or its loss exploded; the state before the step is still good.

    what: what was seen and what to do. step: the step that was refused, from 0. layer: whose fit, if known.
    """

    def __init__(self, what: str, step: int, layer: str | None = None) -> None:
        super().__init__(what, step, layer)
        self.what, self.step, self.layer = what, step, layer

    def in_layer(self, layer: str) -> Diverged:
        """The same error with the layer's name, which the arrays do not know."""
        return Diverged(self.what, self.step, layer)

    def __str__(self) -> str:
        where = "" if self.layer is None else f" of layer {self.layer}"
        return f"the discriminative fit{where} diverged in step {self.step}: {self.what}"

"""How words were trained for the decision (IG Eq. 8): loss of minibatches and of held-out images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from matplotlib.axes import Axes

_HELD_OUT, _TRAIN, _GENERATIVE = "#1f5fa8", "#b8bec6", "#c7803a"


@dataclass(frozen=True)
class LossCurve:
    """Rows of the history table of one fit's second phase, by step.

    Losses are mean cross entropies in nats an image, those of held-out images at the ends of epochs (else NaN), and
    so are the shares of held-out images that get another label than theirs. ``generative...``: of a linear layer on
    the words of the first phase.
    """

    steps: Int[np.ndarray, " steps"]
    loss: Float[np.ndarray, " steps"]
    held_out: Float[np.ndarray, " steps"]
    error_soft: Float[np.ndarray, " steps"]
    error_hard: Float[np.ndarray, " steps"]
    generative_held_out: Float[np.ndarray, " steps"]
    generative_error: Float[np.ndarray, " steps"]

    @property
    def kept(self) -> int:
        """The step whose words were kept: the lowest held-out loss; the last step if none was judged."""
        return int(np.nanargmin(self.held_out)) if np.isfinite(self.held_out).any() else len(self.steps) - 1

    @property
    def summary(self) -> str:
        """Errors of the words that were kept, and of the linear layer on the generative words."""
        if not np.isfinite(self.held_out).any():
            return "not judged yet"
        soft, hard = self.error_soft[self.kept], self.error_hard[self.kept]
        text = f"{_percent(soft)} wrong held out, hard {_percent(hard)}"
        if not np.isfinite(self.generative_held_out).any():
            return text
        return f"{text}, generative {_percent(self.generative_error[int(np.nanargmin(self.generative_held_out))])}"


def loss_curves(history: pa.Table, scope: str) -> dict[str, LossCurve]:
    """The curves of a scope's layers; empty where only the likelihood was fitted."""
    keep = pc.and_(pc.equal(history["scope"], scope), pc.equal(history["phase"], "discriminative"))
    rows = history.filter(keep).sort_by("step")
    return {layer: _curve(rows.filter(pc.equal(rows["layer"], layer))) for layer in rows["layer"].unique().to_pylist()}


def _curve(rows: pa.Table) -> LossCurve:
    def column(name: str) -> Float[np.ndarray, " steps"]:
        return np.array([np.nan if value is None else value for value in rows[name].to_pylist()], np.float64)

    return LossCurve(
        steps=np.array(rows["step"].to_pylist(), np.int64),
        loss=column("loss"),
        held_out=column("held_out_loss"),
        error_soft=column("held_out_error_soft"),
        error_hard=column("held_out_error_hard"),
        generative_held_out=column("generative_held_out_loss"),
        generative_error=column("generative_held_out_error_soft"),
    )


def draw_loss_panel(panel: Axes, curve: LossCurve) -> None:
    """Losses by step; the epoch whose words were kept is filled."""
    panel.plot(curve.steps, curve.loss, color=_TRAIN, linewidth=0.8, label="training minibatch")
    _judged(panel, curve.steps, curve.generative_held_out, _GENERATIVE, "held-out images, generative words")
    _judged(panel, curve.steps, curve.held_out, _HELD_OUT, "held-out images")
    if np.isfinite(curve.held_out[curve.kept]):
        at = [curve.steps[curve.kept]], [curve.held_out[curve.kept]]
        panel.plot(*at, linestyle="none", marker="o", markersize=4.2, color=_HELD_OUT, label="kept")
    panel.set_ylim(bottom=0)


def _judged(
    panel: Axes, steps: Int[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], color: str, label: str
) -> None:
    known = np.isfinite(values)
    panel.plot(
        steps[known],
        values[known],
        color=color,
        linewidth=1.3,
        marker="o",
        markersize=4.2,
        markerfacecolor="white",
        label=label,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

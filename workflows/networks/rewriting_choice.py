"""Which changes a network runs with; free of torch, so that a plan can be read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rewriting:
    """What is changed in a network for its taps and its speed. Each change keeps the results of most networks.

    The index stage compares the changed network with the plain one (``choose_rewriting``) and leaves out what breaks
    it; ``plan.json`` keeps the answer, so that every actor runs the same network.

    Attributes:
        operations: ``rewritten``, traced, and nothing overwrites its input but ReLUs whose input nobody else reads;
            ``recorded``, traced, with every operation as its author wrote it, and taps are copies;
            ``own``, the network's own code, and taps are copies made by module hooks.
        fused: fold batch normalisations into the convolutions before them; with ``rewritten`` only.
        channels_last: lay activations out with the units of a position side by side (a column is contiguous).
    """

    operations: Literal["rewritten", "recorded", "own"] = "rewritten"
    fused: bool = True
    channels_last: bool = True


EVERY_CHANGE = Rewriting()

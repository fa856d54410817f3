"""Where an actor computes, and in what it stores; apart from the forward pass, whose imports cost an actor a second."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import torch

STORAGE_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the GPU that the actor was given, if any."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


_TURN = Lock()


def turn_on(device: str) -> AbstractContextManager[object]:
    """A block that threads of this process enter one at a time on a GPU: each would hold a slice of its memory."""
    return nullcontext() if device == "cpu" else _TURN

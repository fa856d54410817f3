"""Where an actor computes, and in what it stores; apart from the forward pass, whose imports cost an actor a second."""

from __future__ import annotations

import torch

STORAGE_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the GPU that the actor was given, if any."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)

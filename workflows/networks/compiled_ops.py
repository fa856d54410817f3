"""The one place that imports torchvision: ``from workflows.networks.compiled_ops import torchvision``.

The published torchvision wheels link their compiled operators to CUDA libraries. With a CPU-only torch these cannot
be loaded, and the import then stops at the first registration for ``torchvision::nms``. Declaring the two missing
operators beforehand is enough for models, transforms, data sets and feature extraction. With operators that do load
(a CUDA build, or a CPU build that matches) nothing is declared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed; install this project with its dependencies")
    for library in sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(Path(spec.origin).parent.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


def _declare_missing_operators() -> torch.library.Library | None:
    if _compiled_operators_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(name + _SIGNATURE)
    return library


# The declarations live as long as this object.
_declared = _declare_missing_operators()

import torchvision  # noqa: E402
import torchvision.models.feature_extraction  # noqa: E402

__all__ = ["torchvision"]

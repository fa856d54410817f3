"""The one place that imports torchvision: ``from workflows.networks.compiled_ops import torchvision``.

The published torchvision wheels link their compiled operators to CUDA libraries. With a CPU-only torch these cannot
be loaded, and the import then stops at the first registration for ``torchvision::nms``. Declaring the two missing
operators beforehand is enough for models, transforms, data sets and feature extraction. With operators that do load
(a CUDA build, or a CPU build that matches) nothing is declared.

torchvision imports torch's compiler, for one question that RoI alignment asks when it is called. That is most of its
import, more than a second of processor in every process that runs a network; so the compiler is imported by the call.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_OPERATORS = ("nms", "qnms")
_COMPILER = ("torch._dynamo", "torch._dynamo.utils")
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


@contextmanager
def _compiler_on_call() -> Iterator[None]:
    """Stand in for the compiler while torchvision is imported, unless it is there already."""
    if _COMPILER[0] in sys.modules:
        yield
        return
    stands = {name: _stand_in(name) for name in _COMPILER}
    sys.modules |= stands
    try:
        yield
    finally:
        for name, stand in stands.items():
            if sys.modules.get(name) is stand:
                del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    """Knows the one question; whatever else is asked of it imports the compiler."""
    stand = ModuleType(name)

    def ask(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)  # the import system looks for these
        for other in _COMPILER:
            sys.modules.pop(other, None)
        return getattr(importlib.import_module(name), attribute)

    vars(stand).update(is_compile_supported=_is_compile_supported, __getattr__=ask)
    return stand


def _is_compile_supported(device: str) -> bool:
    return bool(importlib.import_module(_COMPILER[1]).is_compile_supported(device))


# The declarations live as long as this object.
_declared = _declare_missing_operators()

with _compiler_on_call():
    import torchvision
    import torchvision.models.feature_extraction

__all__ = ["torchvision"]

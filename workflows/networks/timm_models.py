"""Networks and weights of timm, an optional extra that is imported only where it is named: ``timm:<model>``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from workflows.errors import NetworkError
from workflows.networks import compiled_ops  # noqa: F401  timm imports torchvision, which loads only behind this
from workflows.networks.naming import nearest_names

TIMM = "timm:"


def timm_builder(model: str) -> Callable[..., Any]:
    """What builds a model, with or without a tag of weights (``resnet18``, ``resnet18.a1_in1k``), untrained.

    Raises:
        NetworkError: timm is not installed, or has no such model.
    """
    timm = _timm("network.name", model)
    if not timm.is_model(model):
        raise NetworkError(
            f"network.name {TIMM + model!r}: timm has no model {model!r}; {nearest_names(model, timm.list_models())}"
        )

    def build(**arguments: Any) -> Any:
        return timm.create_model(model, pretrained=False, **arguments)

    return build


def timm_weights(name: str) -> dict[str, Tensor]:
    """The state dict of trained weights, downloaded or from the cache of the hub.

    Raises:
        NetworkError: timm is not installed, has no such weights, or the download failed.
    """
    timm = _timm("network.weights", name)
    known = timm.list_pretrained()
    if name not in known and not (timm.is_model(name) and timm.is_model_pretrained(name)):
        near = nearest_names(name, known)
        raise NetworkError(f"network.weights {TIMM + name!r}: timm has no weights {name!r}; {near}")
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # of the hub's client, of HTTP, of the file system
        raise NetworkError(
            f"network.weights {TIMM + name!r}: the download failed ({type(error).__name__}: {error}); it needs a "
            "network, or save the state dict elsewhere and set network.weights to the file"
        ) from error


def _timm(field: str, model: str) -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise NetworkError(
            f"{field} {TIMM + model!r} needs timm, an optional extra, which cannot be imported ({error}): "
            "pip install 'inference-graphs[timm]'"
        ) from error

"""Taps by module hooks, for networks whose operations cannot be traced.

A layer is then a call of a module: ``stage.relu`` is its first call in a forward pass, ``stage.relu_1`` its second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workflows.errors import NetworkError
from workflows.networks.naming import nearest_names


def call_of(network: nn.Module, name: str) -> tuple[nn.Module, int]:
    """The module of a layer name, and which of its calls is meant (from 0).

    Raises:
        NetworkError: there is no such module.
    """
    modules = dict(network.named_modules())
    modules.pop("", None)
    if name in modules:
        return modules[name], 0
    numbered = re.fullmatch(r"(.+)_(\d+)", name)
    if numbered and numbered[1] in modules:
        return modules[numbered[1]], int(numbered[2])
    raise NetworkError(
        f"network.layers: the network has no module {name!r} (its operations cannot be traced, so layers are modules); "
        f"{nearest_names(name, modules)}"
    )


def watch_call(
    module: nn.Module, call: int, notice: Callable[[Tensor], object], replacement: Tensor | None = None
) -> RemovableHandle:
    """Show the result of one call of a module, and exchange it if a replacement is given."""
    calls = 0

    def hook(_module: nn.Module, _inputs: object, result: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls - 1 != call:
            return None
        notice(result)
        return replacement

    return module.register_forward_hook(hook)


class HookedNetwork(nn.Module):
    """A network that gives its result and the results of named modules.

    The results are copied: without a graph nobody knows whether a later operation overwrites them.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)
        for name in self.names:
            call_of(network, name)

    def forward(self, images: Float[Tensor, "N C H W"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits and tapped results, in the order of the names."""
        found: dict[str, Tensor] = {}
        handles = [watch_call(*call_of(self.network, name), _keeper(found, name)) for name in self.names]
        try:
            result = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        absent = [name for name in self.names if name not in found]
        if absent:
            raise NetworkError(
                f"network.layers: the forward pass never calls {', '.join(absent)}; name modules that it calls"
            )
        if not isinstance(result, torch.Tensor):
            raise NetworkError(f"network: must give one tensor of logits (N, classes), gives a {type(result).__name__}")
        return result, tuple(found[name] for name in self.names)


def _keeper(found: dict[str, Tensor], name: str) -> Callable[[Tensor], object]:
    def keep(value: Tensor) -> None:
        found[name] = value.clone() if isinstance(value, Tensor) else value

    return keep

"""Copies of foreign networks, which Python's own deepcopy refuses now and then."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from workflows.errors import NetworkError


def own_copy(network: nn.Module, shared: bool = False) -> nn.Module:
    """A copy of a network that may be changed.

    Weights that are computed from others (pruning, weight normalisation of the old kind) are cut from the graph of
    gradients first: torch copies no tensor that has one. Their values stay, and every call computes them anew.

    Args:
        network: the network.
        shared: give the network itself where it cannot be copied.

    Raises:
        NetworkError: it cannot be copied, for example because it holds a lock or an open file.
    """
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    try:
        return copy.deepcopy(network)
    except Exception as error:  # foreign code may fail in any way
        if shared:
            return network
        raise NetworkError(
            f"network {type(network).__name__}: must be a module that copy.deepcopy can copy, which raises "
            f"{type(error).__name__}: {error}; keep locks, files and generators out of its attributes"
        ) from error

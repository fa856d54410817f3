"""Sums and maxima between the actors of a fit group, on torch.distributed."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from workflows.phases import phase


class CollectiveLost(RuntimeError):
    """Another rank is gone or hung: whatever this rank holds from the collective is garbage."""


class GroupCollective:
    """A member of a torch.distributed group: gloo for tensors on the CPU, NCCL for those on a GPU.

    A ``gmm_ops.fitting.collective.Collective``: every rank makes the same calls in the same order.

    Args:
        host: where the driver's ``TCPStore`` listens.
        port: of that store.
        prefix: of the group's keys, which no earlier group of this store had, and nobody else can guess.
        rank: of this process.
        world: processes of the group, above 1.
        timeout_s: after which a missing or hung rank counts as lost.
        node_address: this node's address in the cluster.

    Raises:
        CollectiveLost: the others did not come within ``timeout_s``.
    """

    def __init__(
        self, host: str, port: int, prefix: str, rank: int, world: int, timeout_s: float, node_address: str
    ) -> None:
        self.rank, self.world = rank, world
        timeout = timedelta(seconds=timeout_s)
        # Without this gloo binds the loopback interface, and a second node never joins.
        interface = interface_of(node_address)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            store = dist.TCPStore(host, port, is_master=False, timeout=timeout)
            prefixed = dist.PrefixStore(prefix, store)
            dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world, timeout=timeout)
        except RuntimeError as error:
            raise CollectiveLost(f"rank {rank} of {world} could not join: {error}") from error

    def leave(self) -> None:
        """End the membership: a process is in one group at most."""
        dist.destroy_process_group()

    def all_reduce_sum(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Sum over ranks."""
        return self._all_reduce(tensor, dist.ReduceOp.SUM)

    def all_reduce_max(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Maximum over ranks."""
        return self._all_reduce(tensor, dist.ReduceOp.MAX)

    @phase("wait")
    def _all_reduce(self, tensor: Shaped[Tensor, "..."], operation: Any) -> Shaped[Tensor, "..."]:
        reduced = tensor.clone(memory_format=torch.contiguous_format)
        try:
            dist.all_reduce(reduced, op=operation)
        except RuntimeError as error:
            raise CollectiveLost(f"rank {self.rank}: {error}") from error
        return reduced


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    return None

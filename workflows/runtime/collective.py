"""Sums and maxima between the actors of a fit group, on torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from workflows.phases import phase


class CollectiveLost(RuntimeError):
    """Another rank is gone or hung: whatever this rank holds from the collective is garbage."""


class GroupCollective:
    """A member of a torch.distributed group: gloo for tensors on the CPU, NCCL for those on a GPU where it can.

    Where it cannot, see ``choose_backend``, tensors on a GPU are reduced by gloo on the CPU and put back.
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
        try:
            store = dist.TCPStore(host, port, is_master=False, timeout=timeout)
            prefixed = dist.PrefixStore(prefix, store)
            backend = choose_backend(_gpus_of_ranks(prefixed, rank, world))
            self._device = None if "nccl" in backend else torch.device("cpu")
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
        reduced = tensor.to(self._device or tensor.device, copy=True, memory_format=torch.contiguous_format)
        try:
            dist.all_reduce(reduced, op=operation)
        except RuntimeError as error:
            raise CollectiveLost(f"rank {self.rank}: {error}") from error
        return reduced.to(tensor.device)


def choose_backend(gpus: Sequence[str]) -> Literal["gloo", "cpu:gloo,cuda:nccl"]:
    """What a group reduces with, from the names of its ranks' GPUs, empty where a rank has none.

    NCCL needs a GPU of its own for each rank: it refuses two ranks on one, and would wait for ever for a rank without.
    """
    own = all(gpus) and len(set(gpus)) == len(gpus)
    return "cpu:gloo,cuda:nccl" if own else "gloo"


def _gpus_of_ranks(store: dist.Store, rank: int, world: int) -> list[str]:
    """The GPU of every rank, told through the store that the group meets at, so that all choose alike."""
    store.set(f"gpu{rank}", gpu_name())
    return [store.get(f"gpu{other}").decode() for other in range(world)]


def gpu_name() -> str:
    """The GPU that this process computes on, one name in all the world; empty: it has none, or none for NCCL."""
    if not (torch.cuda.is_available() and dist.is_nccl_available()):
        return ""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    return None

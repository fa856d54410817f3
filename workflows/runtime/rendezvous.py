"""Where the ranks of a fit meet: a store of the driver, under a secret prefix."""

from __future__ import annotations

import secrets
import socket
from datetime import timedelta
from typing import Any

import ray

from gmm_ops.fitting.collective import LONE, Collective


class Rendezvous:
    """The store of the driver where the ranks of every generation meet; none is needed for a single rank.

    The store asks nobody for a token, so it listens at this node's address in the cluster alone, and its keys begin
    with a secret that reaches the ranks through Ray.

    Args:
        ranks: that will meet.
        timeout_s: how long they may take.
    """

    def __init__(self, ranks: int, timeout_s: float) -> None:
        self._ranks, self._timeout_s = ranks, timeout_s
        self._store: Any = None
        self.host = ""
        self.port = 0
        self.secret = secrets.token_hex(16)

    def __enter__(self) -> Rendezvous:
        if self._ranks > 1:
            from torch.distributed import TCPStore

            self.host = ray.util.get_node_ip_address()
            timeout = timedelta(seconds=self._timeout_s)
            # By itself the store would listen at every address of the machine, whatever host it is given.
            listening = socket.create_server((self.host, 0), family=_family(self.host), backlog=1024)
            self.port = listening.getsockname()[1]
            self._store = TCPStore(
                self.host,
                self.port,
                is_master=True,
                wait_for_workers=False,
                timeout=timeout,
                master_listen_fd=listening.detach(),
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._store = None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def meet(host: str, port: int, prefix: str, rank: int, world: int, timeout_s: float) -> Collective:
    """In an actor: the collective of its generation."""
    if world == 1:
        return LONE
    from workflows.runtime.collective import GroupCollective

    return GroupCollective(host, port, prefix, rank, world, timeout_s, ray.util.get_node_ip_address())

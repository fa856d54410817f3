"""Sums and maxima over a real torch.distributed group, and over a group of one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from gmm_ops.fitting.collective import LONE
from workflows.runtime import collective as collectives
from workflows.runtime.collective import GroupCollective, choose_backend

LOCAL = "127.0.0.1"


def reduced(rank: int, port: int) -> list[torch.Tensor]:
    collective = GroupCollective(LOCAL, port, "group", rank, 2, 60.0, LOCAL)
    own = torch.tensor([[1.5, -2.0, 7.0], [-torch.inf, 0.25, -3.0]], dtype=torch.float64)[rank]
    strided = torch.arange(8.0).view(2, 4)[:, 1 + rank]
    found = [collective.all_reduce_max(own), collective.all_reduce_sum(own), collective.all_reduce_max(strided)]
    return [*found, own, collective.all_reduce_max(torch.tensor(float(rank)))]


def two_ranks(work: Callable[[int, int], Any]) -> list[Any]:
    """What two processes come to that are given their rank and the port of one store."""
    store = TCPStore(LOCAL, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(work, rank, store.port) for rank in (0, 1)]]


def test_a_group_gives_every_rank_the_same_sums_and_maxima() -> None:
    found = two_ranks(reduced)
    for most, total, strided, _, number in found:
        assert most.tolist() == [1.5, 0.25, 7.0]
        assert total.tolist() == [-torch.inf, -1.75, 4.0]
        assert strided.tolist() == [2.0, 6.0]
        assert number.item() == 1.0
    assert found[0][3].tolist() == [1.5, -2.0, 7.0], "the argument stays as it is"


def test_a_group_of_one_gives_copies() -> None:
    own = torch.tensor([3.0, -1.0])
    for reduce in (LONE.all_reduce_sum, LONE.all_reduce_max):
        found = reduce(own)
        found += 1.0
        assert own.tolist() == [3.0, -1.0]


@pytest.mark.parametrize(
    ("gpus", "backend"),
    [
        (["a", "b"], "cpu:gloo,cuda:nccl"),
        (["a", "b", "a"], "gloo"),
        (["a", ""], "gloo"),
        (["", ""], "gloo"),
    ],
)
def test_nccl_is_for_ranks_with_a_gpu_each(gpus: list[str], backend: str) -> None:
    assert choose_backend(gpus) == backend


def unlike(rank: int, port: int) -> tuple[str, list[float]]:
    """As ``reduced`` by two ranks of which one says that it has a GPU."""
    collectives.gpu_name = lambda: "one" if rank else ""
    group = GroupCollective(LOCAL, port, "group", rank, 2, 60.0, LOCAL)
    return torch.distributed.get_backend(), group.all_reduce_sum(torch.tensor([1.0, rank])).tolist()


def on_gpus(rank: int, port: int) -> tuple[str, list[float], str]:
    """Ranks on the GPUs that there are, in turns."""
    torch.cuda.set_device(rank % torch.cuda.device_count())
    group = GroupCollective(LOCAL, port, "group", rank, 2, 60.0, LOCAL)
    found = group.all_reduce_sum(torch.tensor([1.0, rank], dtype=torch.float64, device="cuda"))
    return torch.distributed.get_backend_config(), found.tolist(), found.device.type


def test_a_rank_without_a_gpu_makes_all_of_them_reduce_by_gloo() -> None:
    assert two_ranks(unlike) == [("gloo", [2.0, 1.0])] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_sums_on_gpus_by_nccl_or_by_gloo_where_ranks_share_one() -> None:
    for backend, found, device in two_ranks(on_gpus):
        assert ("nccl" in backend) == (torch.cuda.device_count() > 1)
        assert (found, device) == ([2.0, 1.0], "cuda")

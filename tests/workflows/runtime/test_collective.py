"""Sums and maxima over a real torch.distributed group, and over a group of one."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import torch
from torch.distributed import TCPStore

from gmm_ops.fitting.collective import LONE
from workflows.runtime.collective import GroupCollective

LOCAL = "127.0.0.1"


def reduced(rank: int, port: int) -> list[torch.Tensor]:
    collective = GroupCollective(LOCAL, port, "group", rank, 2, 60.0, LOCAL)
    own = torch.tensor([[1.5, -2.0, 7.0], [-torch.inf, 0.25, -3.0]], dtype=torch.float64)[rank]
    strided = torch.arange(8.0).view(2, 4)[:, 1 + rank]
    found = [collective.all_reduce_max(own), collective.all_reduce_sum(own), collective.all_reduce_max(strided)]
    return [*found, own, collective.all_reduce_max(torch.tensor(float(rank)))]


def test_a_group_gives_every_rank_the_same_sums_and_maxima() -> None:
    store = TCPStore(LOCAL, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = [future.result() for future in [pool.submit(reduced, rank, store.port) for rank in (0, 1)]]
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

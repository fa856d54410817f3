"""Copies into host memory: at once on the CPU, beside other work on a GPU, the same bits from both."""

from __future__ import annotations

import pytest
import torch

from workflows.runtime.host_copies import HostCopies


def copied(device: str) -> list[torch.Tensor]:
    """Columns of three batches in turns, rounded to half precision into one buffer, and their integer words."""
    copies = HostCopies(torch.device(device))
    buffer, words = copies.zeros((9, 4, 5), torch.float16), copies.zeros((9, 2, 2), torch.int32)
    random = torch.Generator().manual_seed(3)
    for row in range(0, 9, 3):
        columns = torch.randn(3, 5, 4, generator=random).to(device).transpose(1, 2)
        copies.copy(columns, buffer[row : row + 3])
        copies.copy(columns.argmax(2).reshape(3, 2, 2), words[row : row + 3])
    copies.wait()
    return [buffer, words]


def test_the_target_holds_the_values_in_its_dtype() -> None:
    random = torch.Generator().manual_seed(3)
    columns = torch.cat([torch.randn(3, 5, 4, generator=random).transpose(1, 2) for _ in range(3)])
    buffer, words = copied("cpu")
    assert not buffer.is_pinned()
    assert torch.equal(buffer, columns.half())
    assert torch.equal(words, columns.argmax(2).reshape(9, 2, 2).int())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_copies_the_same_into_pinned_memory() -> None:
    found = copied("cuda")
    assert all(one.is_pinned() for one in found)
    assert all(map(torch.equal, found, copied("cpu")))

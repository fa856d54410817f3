"""What a GPU has computed, on its way back while the GPU goes on with the next batch."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


class HostCopies:
    """Copies results of one device into host memory; from a GPU beside the work that follows, by a stream of its own.

    Args:
        device: where the results lie. On the CPU everything is copied at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Shaped[Tensor, "..."]:
        """Memory to copy to; for a GPU it is pinned, else the host would wait for every copy."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self._stream is not None)

    def copy(self, values: Shaped[Tensor, "..."], target: Shaped[Tensor, "..."]) -> None:
        """Begin to copy into ``target``, in its dtype and shape.

        After ``wait`` it holds the values, which must be left as they are till then.
        """
        if self._stream is None:
            target.copy_(values)
            return
        values = values.to(target.dtype)  # before the way back, which is the narrow place
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(values, non_blocking=True)
        values.record_stream(self._stream)  # its memory is not given to others before it is read

    def wait(self) -> None:
        """Until all that was begun is there."""
        if self._stream is not None:
            self._stream.synchronize()

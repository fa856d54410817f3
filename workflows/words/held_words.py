"""Dictionaries that an actor keeps while it reads maps for many scopes, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

from torch import Tensor

K = TypeVar("K")
V = TypeVar("V")

HELD_BYTES = 512 * 2**20
"""Of dictionaries and linear layers that an actor keeps."""


class HeldWords(Generic[K, V]):
    """What was read from files, as far as it fits; the rest is read anew whenever it is used.

    Scopes take turns, batch after batch: a cache that drops what was used longest ago would then hold nothing of use.
    So what is held stays until ``keep`` says that nobody needs it.

    Args:
        load: reads one.
        tensors: all that one of them holds.
        limit: bytes of what is kept.
    """

    def __init__(self, load: Callable[[K], V], tensors: Callable[[V], Iterable[Tensor]], limit: int) -> None:
        self._load, self._tensors, self._limit = load, tensors, limit
        self._held: dict[K, tuple[V, int]] = {}

    def __call__(self, key: K) -> V:
        """The one of this key."""
        if key in self._held:
            return self._held[key][0]
        value = self._load(key)
        size = sum(tensor.nbytes for tensor in self._tensors(value))
        if size + sum(held for _, held in self._held.values()) <= self._limit:
            self._held[key] = value, size
        return value

    def keep(self, keys: Collection[K]) -> None:
        """Drop all others."""
        wanted = set(keys)
        self._held = {key: held for key, held in self._held.items() if key in wanted}

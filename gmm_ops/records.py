"""What every frozen record of tensors can do, written once over its fields: compare, move, be stored, and add up."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.errors import RefusedInput

Rule = Callable[[str, Any, Any], Any]
"""(name of the field, this value, the other) -> the merged value."""


class Record:
    """Mixin for frozen dataclasses whose fields are tensors, arrays, numbers, records, or tuples and mappings of them.

    ``==`` is a bool: same type, shapes, dtypes and values, NaN equal to NaN. The repr shows shapes, not values.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # In the class itself, so that the dataclass decorator leaves them alone: its own would compare tensors as
        # tuples, which has no truth value, and print them in full.
        for name in ("__eq__", "__hash__", "__repr__"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(Record, name))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((type(self).__qualname__, tuple(_shown(leaf) for leaf in leaves(self) if _is_array(leaf))))

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={_shown(getattr(self, f.name))}" for f in fields(self) if f.repr)
        return f"{type(self).__qualname__}({shown})"

    def to(self, device: torch.device | str) -> Self:
        """The same record with its tensors on another device."""
        target = torch.device(device)
        if all(leaf.device == target for leaf in leaves(self) if isinstance(leaf, Tensor)):
            return self
        moved: Self = mapped(lambda leaf: leaf.to(target) if isinstance(leaf, Tensor) else leaf, self)
        return moved

    def to_arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Plain arrays for a file, bit for bit, named by field; a field inside a field is ``outer_inner``."""
        found: dict[str, NDArray[Any]] = {}
        for f in fields(self):
            found |= _stored(getattr(self, f.name), prefix + f.name)
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Self:
        """Inverse of ``to_arrays``; arrays of other names are left alone."""
        hints = _hints(cls)
        return cls(**{f.name: _restored(hints[f.name], arrays, prefix + f.name) for f in fields(cls)})


class Sums(Record):
    """A record whose fields add up over disjoint sets of images or columns: ``merge`` is associative and commutative.

    A field may name another rule, ``Annotated[int, same]`` or ``Annotated[..., joined]``; it is neither scaled nor
    packed. Subclasses add ``zero``, the neutral element, and ``from_batch``.
    """

    def merge(self, other: Self) -> Self:
        """Both sets together. Raises RefusedInput where shapes differ."""
        merged = {name: rule(name, getattr(self, name), getattr(other, name)) for name, rule in self._rules()}
        return replace(self, **merged)

    def __add__(self, other: Self) -> Self:
        return self.merge(other)

    def scaled(self, factor: float) -> Self:
        """Every sum times ``factor``; 1 / count gives means."""
        scaled: Self = _with_sums(self, lambda leaf: leaf * factor)
        return scaled

    def pack(self) -> Float[Tensor, " packed"]:
        """One float64 vector of all sums in the order of the fields: packing then adding equals merging."""
        device = next((leaf.device for leaf in _summed(self) if isinstance(leaf, Tensor)), torch.device("cpu"))
        parts = [torch.as_tensor(leaf, dtype=torch.float64, device=device).reshape(-1) for leaf in _summed(self)]
        return torch.cat(parts)

    @classmethod
    def unpack(cls, packed: Float[Tensor, " packed"], *sizes: Any) -> Self:
        """Inverse of ``pack``. sizes: what ``zero`` takes. Raises RefusedInput for a vector of another length."""
        empty: Self = cls.zero(*sizes)  # type: ignore[attr-defined]  # every subclass has one, with sizes of its own
        lengths = [math.prod(np.shape(leaf)) for leaf in _summed(empty)]
        if packed.shape != (sum(lengths),):
            raise RefusedInput(
                f"packed: must have shape ({sum(lengths)},) for {cls.__name__} of {sizes}, got {tuple(packed.shape)}; "
                "unpack with the sizes of the model that the sums were gathered at"
            )
        return empty.unpacked(packed)

    def unpacked(self, packed: Float[Tensor, " packed"]) -> Self:
        """The sums in a vector that ``pack`` gave, in the shapes of this record."""
        parts = iter(packed.split([math.prod(np.shape(leaf)) for leaf in _summed(self)]))
        found: Self = _with_sums(self, lambda leaf: _like(leaf, next(parts)))
        return found

    @classmethod
    def _rules(cls) -> list[tuple[str, Rule]]:
        """Every field with its rule."""
        return [(name, _rule_of(hint)) for name, hint in _hints(cls).items()]


def added(name: str, left: Any, right: Any) -> Any:
    """The rule of a field that names none: the sum, of every part alike."""
    if isinstance(left, Sums):
        return left.merge(right)
    if isinstance(left, tuple):
        return tuple(added(name, *pair) for pair in zip(left, right, strict=True))
    if isinstance(left, Mapping):
        return {key: added(key, value, right[key]) for key, value in left.items()}
    # Broadcasting would add sums of one image set to every row of another's without a word.
    if np.shape(left) != np.shape(right):
        raise RefusedInput(
            f"{name}: must have the same shape in what is merged, got {tuple(np.shape(left))} and "
            f"{tuple(np.shape(right))}; gather both with one model, one window and one list of edges"
        )
    return left + right


def same(name: str, left: Any, right: Any) -> Any:
    """The rule of a field that must be equal in what is merged."""
    if not _equal(left, right):
        raise RefusedInput(f"{name}: must be the same in what is merged, got {left} and {right}; gather both alike")
    return left


def joined(name: str, left: Any, right: Any) -> Any:
    """The rule of a field of rows: the first's, then the other's."""

    def join(one: Any, other: Any) -> Any:
        return torch.cat([one, other]) if isinstance(one, Tensor) else np.concatenate([one, other])

    return mapped(join, left, right)


def _rule_of(hint: Any) -> Rule:
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if mark in (same, joined)]
    return marks[0] if marks else added


def mapped(work: Callable[..., Any], *values: Any) -> Any:
    """``work`` of the numbers, tensors and arrays at the same places of records, tuples and mappings alike."""
    first = values[0]
    if isinstance(first, Record):
        names = [f.name for f in fields(first)]
        changes = {name: mapped(work, *(getattr(value, name) for value in values)) for name in names}
        return replace(first, **changes)
    if isinstance(first, tuple):
        return tuple(mapped(work, *parts) for parts in zip(*values, strict=True))
    if isinstance(first, Mapping):
        return {name: mapped(work, *(value[name] for value in values)) for name in first}
    return work(*values)


def leaves(value: Any) -> Iterator[Any]:
    """Numbers, tensors and arrays of a record, tuple or mapping, in the order of ``mapped``."""
    if isinstance(value, Record):
        for f in fields(value):
            yield from leaves(getattr(value, f.name))
    elif isinstance(value, tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(part)
    else:
        yield value


def _summed(value: Any) -> Iterator[Any]:
    """The leaves that add up, in order: those of a field with another rule are left out."""
    if isinstance(value, Sums):
        for name, rule in value._rules():
            if rule is added:
                yield from _summed(getattr(value, name))
    elif isinstance(value, tuple | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _summed(part)
    else:
        yield value


def _with_sums(value: Any, work: Callable[[Any], Any]) -> Any:
    """The same value with ``work`` of every leaf that adds up."""
    if isinstance(value, Sums):
        names = [name for name, rule in value._rules() if rule is added]
        return replace(value, **{name: _with_sums(getattr(value, name), work) for name in names})
    if isinstance(value, tuple):
        return tuple(_with_sums(part, work) for part in value)
    if isinstance(value, Mapping):
        return {name: _with_sums(part, work) for name, part in value.items()}
    return work(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, tuple | Mapping):
        return type(left) is type(right) and _same_places(left, right)
    if not _is_array(left):
        return type(left) is type(right) and bool(left == right or (left != left and right != right))
    if type(left) is not type(right) or left.shape != right.shape or left.dtype != right.dtype:
        return False
    if isinstance(left, Tensor) and left.device != right.device:
        return False
    return bool(((left == right) | ((left != left) & (right != right))).all())


def _same_places(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_equal(value, right[name]) for name, value in left.items())
    return len(left) == len(right) and all(map(_equal, left, right))


def _shown(value: Any) -> str:
    if _is_array(value):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple) and any(map(_is_array, value)):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_shown(part)}' for name, part in value.items())}}}"
    return repr(value)


def _stored(value: Any, name: str) -> dict[str, NDArray[Any]]:
    if isinstance(value, Record):
        return value.to_arrays(f"{name}_")
    if isinstance(value, tuple | Mapping):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {key: array for place, part in parts for key, array in _stored(part, f"{name}_{place}").items()}
    return {name: value.cpu().numpy() if isinstance(value, Tensor) else np.array(value)}


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """Type of every field by name; looked up once a class, for it takes as long as a small sum."""
    if cls not in _HINTS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _HINTS[cls] = {f.name: hints[f.name] for f in fields(cls)}
    return _HINTS[cls]


def _restored(hint: Any, arrays: Mapping[str, NDArray[Any]], name: str) -> Any:
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_arrays(arrays, f"{name}_")
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return tuple(_restored(parts[0], arrays, f"{name}_{place}") for place in range(_length(arrays, name)))
    if origin is not None and issubclass(origin, Mapping):
        keys = [key for key in arrays if key.startswith(f"{name}_")]
        return {key.removeprefix(f"{name}_"): _restored(parts[1], arrays, key) for key in keys}
    if hint in (int, float, bool, str):
        return hint(arrays[name])
    array = np.array(arrays[name])
    return array if getattr(hint, "array_type", hint) is np.ndarray else torch.from_numpy(array)


def _length(arrays: Mapping[str, NDArray[Any]], name: str) -> int:
    """One more than the highest place after ``name``: elements may take one array or several each."""
    places = (key.removeprefix(f"{name}_").split("_")[0] for key in arrays if key.startswith(f"{name}_"))
    return 1 + max((int(place) for place in places if place.isdecimal()), default=-1)


def _like(value: Any, packed: Tensor) -> Any:
    if isinstance(value, Tensor):
        return packed.reshape(value.shape).to(value.dtype).clone()
    if isinstance(value, np.ndarray):
        return packed.cpu().numpy().reshape(value.shape).astype(value.dtype)
    return type(value)(packed.item())

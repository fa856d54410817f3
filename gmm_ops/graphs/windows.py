"""R(p): which lower columns feed an upper column, as window arithmetic on the two axes of a map.

A window is exact for the composition of convolutions and poolings that built it, and is cropped to the lower
map only when it is asked for. Nothing here knows a network: whoever walks the graph calls ``through`` for every
op from the upper layer back to the lower one, and ``join`` where two branches meet.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gmm_ops.errors import RefusedInput


@dataclass(frozen=True)
class AxisWindow:
    """The lower positions ``[stride*y + offset, stride*y + offset + size)`` of upper position ``y``, on one axis.

    ``size=None`` is the whole axis (global pooling, flatten, dense layers); it has stride 0 and offset 0, so that
    an offset inside the window is an absolute lower position. The default is the identity.

    Raises ``RefusedInput`` for a stride or size below 1 and for anything but whole numbers.
    Source: IG section 3.2, the receptive region R(p) of Eq. 6.
    """

    stride: int = 1
    offset: int = 0
    size: int | None = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "size" and value is None:
                continue
            try:
                object.__setattr__(self, field.name, operator.index(value))
            except TypeError as error:
                raise RefusedInput(
                    f"{field.name}: must be a whole number, got {value!r}; convert it to int first"
                ) from error
        if self.size is None:
            if (self.stride, self.offset) != (0, 0):
                raise RefusedInput(
                    f"size: the whole axis has stride 0 and offset 0, got stride {self.stride} and offset "
                    f"{self.offset}; use AxisWindow.whole()"
                )
        elif self.stride < 1 or self.size < 1:
            raise RefusedInput(
                f"stride, size: both must be at least 1, got stride {self.stride} and size {self.size}; "
                "use AxisWindow.whole() for the whole axis"
            )

    @classmethod
    def whole(cls) -> AxisWindow:
        """Every position of the lower axis, whatever its extent."""
        return cls(stride=0, offset=0, size=None)

    @property
    def is_whole(self) -> bool:
        """True when the window is the whole axis."""
        return self.size is None

    def through(self, kernel: int, stride: int = 1, dilation: int = 1, padding: int = 0) -> AxisWindow:
        """The window after one more op towards the lower layer: r <- t(r-1) + e(k-1) + 1, o <- to - b, s <- ts.

        ``padding`` is the padding at the low side of the axis, in positions.
        Raises ``RefusedInput`` for a kernel, stride or dilation below 1.
        """
        if min(kernel, stride, dilation) < 1:
            raise RefusedInput(
                f"kernel, stride, dilation: each must be at least 1, got {kernel}, {stride}, {dilation}; "
                "read them from the op that is walked through"
            )
        if self.size is None:
            return self
        return AxisWindow(
            stride=self.stride * stride,
            offset=self.offset * stride - padding,
            size=stride * (self.size - 1) + dilation * (kernel - 1) + 1,
        )

    def join(self, other: AxisWindow) -> AxisWindow:
        """The smallest window that covers both branches of an addition or concatenation.

        Raises ``RefusedInput`` when the branches step over the lower map at different strides.
        """
        if self.size is None or other.size is None:
            return AxisWindow.whole()
        if self.stride != other.stride:
            raise RefusedInput(
                f"stride: branches that join must have the same stride, got {self.stride} and {other.stride}; "
                "measure the window by perturbation instead"
            )
        start = min(self.offset, other.offset)
        stop = max(self.offset + self.size, other.offset + other.size)
        return AxisWindow(stride=self.stride, offset=start, size=stop - start)

    def range(self, position: int, extent: int) -> tuple[int, int]:
        """``(start, stop)`` of the window of an upper position, cropped to ``[0, extent)``; empty if outside."""
        if self.size is None:
            return 0, extent
        start = self.stride * position + self.offset
        low = min(max(start, 0), extent)
        return low, min(max(start + self.size, low), extent)

    def length(self, extent: int) -> int:
        """Positions in the window before cropping, on a lower axis of ``extent`` positions."""
        return extent if self.size is None else self.size


@dataclass(frozen=True)
class Window:
    """R(p) of an upper position p = (y, x): a window on the rows and one on the columns of the lower map."""

    rows: AxisWindow = AxisWindow()
    columns: AxisWindow = AxisWindow()

    @classmethod
    def identity(cls) -> Window:
        """The position itself: where the walk from the upper layer starts."""
        return cls(AxisWindow(), AxisWindow())

    @classmethod
    def whole(cls) -> Window:
        """Every position of the lower map: the output layer, and any dense layer, over a convolutional one."""
        return cls(AxisWindow.whole(), AxisWindow.whole())

    @classmethod
    def square(cls, stride: int, offset: int, size: int) -> Window:
        """The same window on both axes."""
        axis = AxisWindow(stride=stride, offset=offset, size=size)
        return cls(axis, axis)

    def through(
        self,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
    ) -> Window:
        """Walk through one op; each pair is (rows, columns), ``padding`` that of the top and left sides."""
        return Window(
            self.rows.through(kernel[0], stride[0], dilation[0], padding[0]),
            self.columns.through(kernel[1], stride[1], dilation[1], padding[1]),
        )

    def join(self, other: Window) -> Window:
        """The smallest window that covers both branches."""
        return Window(self.rows.join(other.rows), self.columns.join(other.columns))

    def bounds(self, y: int, x: int, height: int, width: int) -> tuple[int, int, int, int]:
        """``(y0, x0, y1, x1)`` of upper position (y, x) on a height x width map, cropped, ends exclusive."""
        y0, y1 = self.rows.range(y, height)
        x0, x1 = self.columns.range(x, width)
        return y0, x0, y1, x1

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the window before cropping, on a lower map of height x width."""
        return self.rows.length(height), self.columns.length(width)

    def to_dict(self) -> dict[str, dict[str, int | None]]:
        """Plain numbers for JSON; ``from_dict`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, Any]]) -> Window:
        """The window that ``to_dict`` wrote. Raises ``RefusedInput`` on missing or unknown keys."""
        _require_keys("window", record, cls)
        for axis in record:
            _require_keys(f"window.{axis}", record[axis], AxisWindow)
        return cls(AxisWindow(**record["rows"]), AxisWindow(**record["columns"]))


def _require_keys(name: str, record: Mapping[str, Any], record_type: type[Window] | type[AxisWindow]) -> None:
    expected = sorted(field.name for field in fields(record_type))
    if sorted(record) != expected:
        raise RefusedInput(
            f"{name}: must have exactly the keys {expected}, got {sorted(record)}; write it with Window.to_dict()"
        )

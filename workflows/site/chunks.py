"""Data of the site: one classic script a chunk, each a single call with a JSON string.

From disk a page may load scripts and nothing else; a string that the page parses loads faster than a literal, and a
class called `__proto__` stays data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = 7
"""Significant digits of numbers that the page computes with."""


_SURROGATE = re.compile("[\ud800-\udfff]")


class Chunks:
    """Writes ``data/<kind>/<key>.js``, and counts what it wrote.

    Args:
        root: folder of the site.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.files, self.bytes = 0, 0

    def put(self, kind: str, key: int | str, content: Any) -> None:
        """Write a chunk. ``key`` is a number or a plain word: names that people give stand inside.

        Raises:
            ValueError: a number of the content is not finite.
        """
        text = f"IG.put('{kind}/{key}','{script_string(content)}');\n"
        path = self._root / "data" / kind / f"{key}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = text.encode("utf-8")
        path.write_bytes(encoded)
        self.files += 1
        self.bytes += len(encoded)


def script_string(content: Any) -> str:
    """JSON as the inside of a string in single quotes; half of a surrogate pair, which UTF-8 cannot hold, escaped."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    escaped = _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    return escaped.replace("\\", "\\\\").replace("'", "\\'")


def read_chunk(path: Path) -> Any:
    """What ``Chunks.put`` wrote."""
    text = path.read_text(encoding="utf-8")
    inside = text[text.index(",'") + 2 : text.rindex("');")]
    return json.loads(re.sub(r"\\(.)", r"\1", inside))


def significant(value: float | None) -> float | int | None:
    """A number with ``DIGITS`` significant digits; None where there is none."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def significant_list(values: Iterable[float | None] | np.ndarray) -> list[float | int | None]:
    """``significant`` of each."""
    return [significant(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]

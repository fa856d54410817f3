"""Names that users give (layers, scopes, graphs) as names of files, and names of their files as text."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Literal, get_args

from workflows.errors import DataError

CHAIN = "chain"
"""Stands where a mixture has its layer: in the folder of dictionaries and in the history table."""

JOINT = "joint"
"""The scope of all classes; its figures lie in no folder of their own, its ledger items carry no prefix."""

GraphKind = Literal["class", "image"]


@dataclass(frozen=True)
class GraphId:
    """Of an inference graph: the class or the image that it explains. ``str`` of it is the `graph` of tables."""

    kind: GraphKind
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> GraphId:
        """Inverse of ``str``.

        Raises:
            DataError: it is no graph's id.
        """
        kind, _, number = text.partition(":")
        if kind not in get_args(GraphKind) or not number.isdecimal():
            raise DataError(f"graph: must be class:<id> or image:<id>, got {text!r}; the nodes table lists them")
        return cls("class" if kind == "class" else "image", int(number))

    @property
    def is_image(self) -> bool:
        """Whether it explains one image, not a class."""
        return self.kind == "image"


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
# A double underscore joins two slugs, so no slug may hold, begin or end with what could be mistaken for one.
_JOINER_LIKE = re.compile(r"^_|_$|(?<=_)_|_(?=_)")
_LONGEST = 100

_BYTES = "bytes:"
_SURROGATE = re.compile("[\udc80-\udcff]")
"""How Python shows a byte of a file name that is no UTF-8."""


def slug(name: str) -> str:
    """A file name for ``name``: ASCII letters, digits, ``.``, ``-`` and single ``_`` stay, all else is %XX (UTF-8).

    Different names have different slugs, no slug is hidden, empty, ``..`` or holds a separator, and
    ``slug(a) + "__" + slug(b)`` determines a and b. Names above 100 characters end in a hash instead.

    Raises:
        ValueError: the name is empty.
    """
    if not name:
        raise ValueError("a name of a layer, scope or graph must not be empty")
    escaped = _UNSAFE.sub(_percent, name)
    escaped = _JOINER_LIKE.sub(_percent, escaped)
    if escaped.startswith("."):
        escaped = "%2E" + escaped[1:]
    if len(escaped) <= _LONGEST:
        return escaped
    # "~" is never in a short slug, so a long name cannot meet a short one.
    return escaped[:60].rstrip("_") + "~" + hashlib.sha256(name.encode()).hexdigest()[:24]


def joined_slug(*names: str) -> str:
    """The slugs of several names joined by a double underscore, as in ``<lower>__<upper>``."""
    return "__".join(slug(name) for name in names)


def stored_path(path: str) -> str:
    r"""A path as tables keep it: itself where it is UTF-8, else ``bytes:`` and the path with ``\xe9`` for such bytes.

    ``file_path`` is its inverse; ``path`` must be absolute, so that none begins with ``bytes:`` by itself.
    """
    if _SURROGATE.search(path) is None:
        return path
    escaped = path.replace("\\", "\\\\")
    return _BYTES + _SURROGATE.sub(lambda match: f"\\x{ord(match.group()) - 0xDC00:02x}", escaped)


def file_path(stored: str) -> str:
    """The path that the system knows, from ``stored_path``."""
    if not stored.startswith(_BYTES):
        return stored
    return re.sub(
        r"\\(\\|x([0-9a-f]{2}))",
        lambda match: chr(0xDC00 + int(match.group(2), 16)) if match.group(2) else "\\",
        stored.removeprefix(_BYTES),
    )


def readable_name(name: str) -> str:
    r"""A name of a file in characters that can be printed: what is no UTF-8 is taken as Latin-1, or as ``\x80``."""
    if _SURROGATE.search(name) is None:
        return name
    latin = os.fsencode(name).decode("latin-1")
    return latin if latin.isprintable() else _SURROGATE.sub(lambda m: f"\\x{ord(m.group()) - 0xDC00:02x}", name)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())


def item_name(scope: str, name: str) -> str:
    """Key of a work item of one scope in a ledger: ``<scope>/<name>``, in scope `joint` the bare name."""
    return name if scope == JOINT else f"{scope}/{name}"


def split_item(item: str) -> tuple[str, str]:
    """Scope and name of a work item; inverse of ``item_name`` where names hold no slash."""
    scope, slash, name = item.rpartition("/")
    return (scope, name) if slash else (JOINT, item)

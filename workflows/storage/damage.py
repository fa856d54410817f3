"""Files of a run that were cut off or written over: named with what to do, whatever a parser makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from workflows.errors import RunFolderError

_PARSING = (ValueError, LookupError, TypeError, AttributeError, EOFError, BadZipFile)
"""What parsers raise; Arrow's errors are ValueErrors."""


@contextmanager
def undamaged(path: Path, remedy: str = "delete it and run again") -> Iterator[None]:
    """Read and parse a file in this block.

    Raises:
        RunFolderError: its content is damaged. An error of the system, such as missing rights, stays what it is: it
            says nothing of the content.
    """
    try:
        yield
    except (*_PARSING, OSError) as error:
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        told = " ".join(str(error).split()) or type(error).__name__
        raise RunFolderError(f"{str(path)!r} is damaged ({told}): {remedy}") from error

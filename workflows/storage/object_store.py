"""Files by local path or by URI of an object store: listed, looked at, read in part, written.

Credentials, endpoint and region come from the environment, as the store's own tools take them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, ...). Whatever the network does is an OSError, as on a disk; short faults are tried again here.

obstore, because it measured better than fsspec and pyarrow's own (ARCHITECTURE.md), and says the etag of a file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import mimetypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from workflows.errors import DataError
from workflows.storage.atomic import replacing
from workflows.storage.names import file_path

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SCHEMES = ("s3", "gs", "http", "https", "file")
"""Of URIs that are read; http and https can neither be listed nor written."""

PART_BYTES = 16 * 2**20
"""Larger files are uploaded in parts of so many bytes; the etag of S3 tells the parts."""
_CHUNK_BYTES = 4 * 2**20
_URI = re.compile(r"(?!bytes:)[A-Za-z][A-Za-z0-9+.-]+://")  # bytes: is a path that is no UTF-8, see names.py
_CLIENT: ClientConfig = {"allow_http": True, "read_timeout": "30s", "timeout": "30m"}
"""A store that is silent for half a minute is away; a large file may take long."""
_WAITING: RetryConfig = {
    "max_retries": 5,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
    "retry_timeout": timedelta(minutes=2),
}
"""How a request that fails is tried again, before it is an error."""


@dataclass(frozen=True)
class StoredFile:
    """A file of an object store: what tells whether it is still the one that was looked at.

    Attributes:
        uri: of the file.
        size: in bytes.
        etag: of its content, as the store gives it; None where it gives none.
        modified: when it was written.
    """

    uri: str
    size: int
    etag: str | None
    modified: datetime


class EndsBefore(OSError):
    """A file ends before the bytes that were asked for."""


def is_uri(path: str) -> bool:
    """Whether a path names a place in an object store, not on a file system."""
    return _URI.match(path) is not None


def absolute(path: str) -> str:
    """A path that holds in any folder: an actor starts in another one. URIs stay, without a slash at their end."""
    if is_uri(path):
        _store(_root(path))
        return path.rstrip("/")
    return os.path.abspath(Path(path).expanduser())


def look_at(uri: str) -> StoredFile:
    """Size, etag and time of one file. Raises OSError."""
    import obstore

    with _os_errors(uri):
        return _stored(_root(uri), obstore.head(_store(_root(uri)), _key(uri)))


def files_below(uri: str) -> Iterator[StoredFile]:
    """Every file whose URI goes on behind ``uri`` and a slash, in the order of the store. Raises OSError."""
    import obstore

    root = _root(uri)
    if root.startswith("http"):
        raise DataError(f"{uri!r}: files behind http cannot be listed; name each one, or use s3:// or gs://")
    with _os_errors(uri):
        for page in obstore.list(_store(root), _key(uri) or None, chunk_size=1000):
            yield from (_stored(root, entry) for entry in page)


def matching(pattern: str) -> list[str]:
    """Paths or URIs of the files that a pattern names, unordered.

    ``*`` and ``?`` stay within a folder, ``**`` does not; ``{000..146}`` and ``{a,b}`` stand for each of their values.
    What has none of these is a file, which need not exist where it lies behind http.

    Raises:
        OSError: the store cannot be listed.
    """
    return [found for one in _braces(pattern) for found in _of_pattern(one)]


def read_file(path: str) -> bytes:
    """A whole file. Raises OSError."""
    return fetched(path)[0] if is_uri(path) else Path(file_path(path)).read_bytes()


def size_when_read(path: str) -> int:
    """Bytes of a file that can be read: of one on a disk a byte is, one in a store is looked at. Raises OSError."""
    if is_uri(path):
        return look_at(path).size
    with open(path, "rb") as file:
        file.read(1)
        return os.fstat(file.fileno()).st_size


def fetched(uri: str, offset: int = 0, length: int | None = None) -> tuple[bytes, StoredFile]:
    """Bytes [offset, offset + length) of a file, fewer where it ends before; and of which file, by the same answer.

    length: None to its end. Raises OSError.
    """
    import obstore

    if length == 0:  # which stores refuse
        return b"", look_at(uri)
    wanted: GetOptions = {} if length is None else {"range": (offset, offset + length)}
    try:
        with _os_errors(uri):
            given = obstore.get(_store(_root(uri)), _key(uri), options=wanted)
            return bytes(given.bytes()), _stored(_root(uri), given.meta)
    except EndsBefore:
        return b"", look_at(uri)


def opened(path: str, window: int = _CHUNK_BYTES) -> io.BufferedReader:
    """A file that can be sought in; of one in an object store, ``window`` bytes are fetched at once. Raises OSError."""
    if not is_uri(path):
        return open(file_path(path), "rb")
    return io.BufferedReader(_Ranges(look_at(path)), window)


def download(uri: str, target: Path) -> tuple[StoredFile, str]:
    """Copy a file to a path, whole or not at all; gives what it was, and its SHA-256. Raises OSError."""
    import obstore

    seen = hashlib.sha256()
    with replacing(target) as temporary, temporary.open("wb") as out, _os_errors(uri):
        given = obstore.get(_store(_root(uri)), _key(uri))
        for chunk in given.stream(min_chunk_size=_CHUNK_BYTES):
            out.write(chunk)
            seen.update(chunk)
    return _stored(_root(uri), given.meta), seen.hexdigest()


def upload(source: Path, uri: str) -> None:
    """Copy a file into an object store: there it appears whole or not at all. Raises OSError."""
    import obstore

    large = source.stat().st_size > PART_BYTES
    with source.open("rb") as content, _os_errors(uri):
        # Without its kind a browser saves a page instead of showing it.
        kind = mimetypes.guess_type(source.name)[0] or "application/octet-stream"
        told = {"Content-Type": kind}
        obstore.put(_store(_root(uri)), _key(uri), content, attributes=told, use_multipart=large, chunk_size=PART_BYTES)


class _Ranges(io.RawIOBase):
    """A file in an object store, read by ranges, all of them of the same content."""

    def __init__(self, seen: StoredFile) -> None:
        self._seen, self._position = seen, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._seen.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._seen.size - self._position)
        if wanted <= 0:
            return 0
        content, now = fetched(self._seen.uri, self._position, wanted)
        if (now.size, now.etag) != (self._seen.size, self._seen.etag):
            raise OSError(errno.ESTALE, "another file has taken its place while it was read", now.uri)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _root(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


def _key(uri: str) -> str:
    # Not by urlsplit, for ? and # are characters of keys.
    return uri[len(_root(uri)) :].strip("/")


@lru_cache(maxsize=64)
def _store(root: str) -> ObjectStore:
    """The store behind ``scheme://bucket``. Raises DataError: there is no such kind of store, or no bucket."""
    scheme, _, bucket = root.partition("://")
    if scheme not in SCHEMES or (not bucket) != (scheme == "file"):
        raise DataError(
            f"{root!r}: must be a URI like s3://BUCKET/..., of {', '.join(SCHEMES)}, got {scheme}:// and {bucket!r}; "
            "use one of these, or copy the files"
        )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:  # pragma: no cover (a dependency)
        raise DataError(f"{root!r}: object stores need the package obstore ({error}); install it") from None
    if scheme == "file":
        return from_url("file:///")
    try:
        # Plain http is what an endpoint says, never what a bucket falls back to.
        return from_url(root, client_options=_CLIENT, retry_config=_WAITING)
    except BaseError as error:
        raise DataError(f"{root!r}: the store cannot be used ({_first_line(error)}); correct its settings") from None


def _stored(root: str, meta: Any) -> StoredFile:
    return StoredFile(f"{root}/{meta['path']}", meta["size"], meta["e_tag"], meta["last_modified"])


@contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        told = _first_line(error)
        # Of a listing the library gives the status alone.
        if isinstance(error, NotFoundError | FileNotFoundError) or "404 Not Found" in told:
            missing = "bucket" if "NoSuchBucket" in str(error) else "file"
            raise FileNotFoundError(errno.ENOENT, f"there is no such {missing} in the object store", uri) from None
        if "416 Range Not Satisfiable" in told:
            raise EndsBefore(errno.EINVAL, "it ends before", uri) from None
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
        if denied or "403 Forbidden" in told or "401 Unauthorized" in told:
            raise PermissionError(errno.EACCES, f"the object store denies it ({told})", uri) from None
        raise OSError(errno.EIO, f"the object store does not answer ({told})", uri) from None


def _first_line(error: Exception) -> str:
    """Without the time that it took, which differs at every try."""
    line = str(error).partition("\n")[0].partition(": <?xml")[0]
    return re.sub(r" in [0-9.]+[mµn]?s(, after [0-9]+ retries, max_retries: [0-9]+, retry_timeout: \w+)?", "", line)


def _of_pattern(pattern: str) -> list[str]:
    if not is_uri(pattern):
        return glob.glob(pattern, recursive=True)
    if not glob.has_magic(pattern):
        try:
            return [pattern] if pattern.startswith("http") or look_at(pattern) else []
        except FileNotFoundError:
            return []
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
    regex = re.compile("".join(_expression(token) for token in re.split(r"(\*\*/?|\*|\?|\[[^]]+\])", pattern)))
    return [file.uri for file in files_below(fixed) if regex.fullmatch(file.uri)]


def _expression(token: str) -> str:
    """A token of a glob pattern as a regular expression."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if token in known:
        return known[token]
    return token.replace("[!", "[^") if token.startswith("[") and token.endswith("]") else re.escape(token)


def _braces(pattern: str) -> Iterator[str]:
    found = re.search(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, names = found.groups()
    values = names.split(",") if names else [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    for value in values:
        yield from _braces(pattern[: found.start()] + value + pattern[found.end() :])

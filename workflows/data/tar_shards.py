"""Index entries of tar files as WebDataset writes them: where each picture lies, and its label.

A sample is what is equal up to the first dot of the file name: ``n01/10026.jpg`` and ``n01/10026.cls``. Its label
stands in ``.cls``, a number or a name; or in ``.json``, under the key ``data.label_column``; or is the folder, ``n01``.
The heads of a tar are read once, by the index, so that a shard of a run reads its pictures alone, by their places.
"""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import numpy as np

from workflows.data.image_files import is_rubbish, why_no_image
from workflows.data.parquet_index import FILES_AT_ONCE, LabelledRows
from workflows.data.parquet_rows import span_path
from workflows.errors import DataError
from workflows.storage.object_store import opened

_CLASS, _RECORD, LABEL = ".cls", ".json", "label"
_MOST_LABEL_BYTES = 2**20
_HIGHEST = 2**31 - 1
_LOOKED_AT_BEHIND = 2**16
"""Bytes behind the end of a tar file: more than any writer fills up with zeros."""


@dataclass
class _Sample:
    path: str = ""
    label: str | None = None
    name: str = ""


def labelled_samples(files: Sequence[str], labels: str = "") -> LabelledRows:
    """List the pictures of all files, each with its place, in the order of the files.

    Args:
        files: paths or URIs of uncompressed tar files.
        labels: ``data.label_column``: key of the label in ``.json``; empty: ``.cls``, ``label`` in it, or folder.

    Raises:
        DataError: a file is no tar file, is cut short, or has no picture; a picture has no label, or labels are of two
            kinds.
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        found = [sample for samples in pool.map(lambda file: _samples(file, labels), files) for sample in samples]
    given = [str(sample.label) for sample in found]
    numbers = [label for label in given if label.isdecimal()]
    if numbers and len(numbers) < len(given):
        other = next(label for label in given if not label.isdecimal())
        raise DataError(f"tar files: labels must be of one kind, got the number {numbers[0]} and the name {other!r}")
    paths = [sample.path for sample in found]
    if numbers:
        positions = [int(label) for label in given]
        if max(positions) > _HIGHEST:
            place = int(np.argmax(positions))
            raise DataError(f"image {paths[place]!r} has label {positions[place]}; labels must be positions of classes")
        return LabelledRows(paths, np.array(positions, np.int64), None, False)
    names, labelled = np.unique(np.array(given, dtype=object), return_inverse=True)
    return LabelledRows(paths, labelled.astype(np.int64), tuple(map(str, names)), True)


def _samples(file: str, labels: str) -> list[_Sample]:
    try:
        with opened(file) as content:
            size = content.seek(0, os.SEEK_END)
            content.seek(0)
            found = _walked(file, content, size, labels)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise DataError(
            f"{file!r} is not a readable tar file ({error}); it must be whole, and uncompressed, so that a picture can "
            "be read from its place"
        ) from None
    samples = {key: sample for key, sample in found.items() if sample.path}
    if not samples:
        raise DataError(f"{file!r} holds no image; leave it out of data.train and data.validation")
    for key, sample in samples.items():
        if sample.label is None:
            sample.label = posixpath.basename(posixpath.dirname(posixpath.normpath(key))) or None
        if sample.label is None:
            wanted = f"the key {labels!r} in {_RECORD}" if labels else f"{_CLASS}, {LABEL!r} in {_RECORD}, or a folder"
            raise DataError(f"image {sample.path!r} has no label: must have {wanted}, got none; every image needs one")
    return list(samples.values())


def _walked(file: str, content: IO[bytes], size: int, labels: str) -> dict[str, _Sample]:
    found: dict[str, _Sample] = {}
    with tarfile.open(fileobj=content, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # else all heads would be kept
            folder, name = posixpath.split(member.name)
            if not member.isreg() or member.issparse() or is_rubbish(name):
                continue
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"{member.name} ends behind the end of the file")
            key, dot, ending = name.partition(".")
            sample = found.setdefault(posixpath.join(folder, key), _Sample())
            if f"{dot}{ending}" in (_CLASS, _RECORD):
                label = _label(member, tar, labels)
                if label is not None and (sample.label is None or ending == _CLASS[1:]):
                    sample.label = label
            elif not why_no_image(name):
                if sample.path:
                    raise DataError(
                        f"{file!r}: a sample, all files with one name up to its first dot, must have one image, got "
                        f"{member.name!r} beside {sample.name!r}; rename one of them, or leave it out"
                    )
                sample.name = member.name
                sample.path = span_path(file, member.name, member.offset_data, member.size)
        _refuse_rest(content, tar.offset)
    return found


def _refuse_rest(content: IO[bytes], end: int) -> None:
    """The library takes a damaged head for the end, and so would lose all that follows without a word.

    Raises:
        tarfile.ReadError: the empty blocks that end a tar file are not there, or something stands behind them.
    """
    content.seek(end)
    rest = content.read(_LOOKED_AT_BEHIND)
    if not rest:
        raise tarfile.ReadError(f"it ends at byte {end} without the empty blocks that end a tar file")
    if rest[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise tarfile.ReadError(f"the head at byte {end} is damaged")
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"more stands behind its end at byte {end}, as when files are joined without tar")


def _label(member: tarfile.TarInfo, tar: tarfile.TarFile, labels: str) -> str | None:
    """What a file beside a picture says of its class; None: nothing."""
    is_record = member.name.endswith(_RECORD)
    if member.size > _MOST_LABEL_BYTES or (labels and not is_record):
        return None
    stream = tar.extractfile(member)
    text = stream.read().decode() if stream is not None else ""
    if not is_record:
        return text.strip() or None
    try:
        value = json.loads(text).get(labels or LABEL)
    except (ValueError, AttributeError) as error:
        raise tarfile.ReadError(f"{member.name} holds no JSON object: {error}") from None
    return None if value is None or isinstance(value, dict | list | float) else str(value)

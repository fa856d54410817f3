"""Which columns of a Parquet file hold pictures and labels, in the dialects that data sets are published in.

Hugging Face's ``datasets`` writes a struct of bytes and path, and names what a column means, and the classes of its
labels, in the schema's metadata (key ``huggingface``, features ``Image`` and ``ClassLabel``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.data.file_states import NOT_THERE, fault
from workflows.errors import DataError, StorageFault
from workflows.storage.names import file_path
from workflows.storage.object_store import is_uri, opened

IMAGE, LABEL = "image", "label"
"""Columns that are taken before all others."""

_PATH_NAMES = ("image", "img")
_LABEL_LIKE = re.compile(r"label|class|target|category|^y$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageColumn:
    """Where pictures are: the leaf columns of their bytes and of their paths, either may be missing."""

    name: str
    bytes_leaf: str | None
    path_leaf: str | None


@dataclass(frozen=True)
class LabelColumn:
    """Where labels are, and the names of the classes in label order where the metadata has them."""

    name: str
    class_names: tuple[str, ...] | None


def open_parquet(file: str) -> pq.ParquetFile:
    """Open a file, whatever bytes its name has, or one in an object store.

    Raises:
        StorageFault: it does not exist or cannot be read. DataError: it is no Parquet file.
    """
    path = file_path(file)
    try:
        if is_uri(file):
            return pq.ParquetFile(opened(file))
        return pq.ParquetFile(path if path == file else pa.OSFile(os.fsencode(path)))
    except FileNotFoundError:
        raise StorageFault(f"the Parquet file {file!r} does not exist; see data.train and data.validation") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno and error.errno not in NOT_THERE:
            raise fault(file, error) from None
        raise DataError(f"{file!r} is not a readable Parquet file: {error}") from None


def image_column(schema: pa.Schema, file: str, wanted: str = "") -> ImageColumn:
    """The column of pictures: ``wanted``, ``image``, or the only one that can be one.

    Pictures are a struct of bytes and path, bytes alone, or paths as texts; texts only where the column is asked for or
    is called image or img.

    Raises:
        DataError: there is none, or several, which are listed.
    """
    found = [column for field in schema if (column := _as_image(field, field.name in (wanted, *_PATH_NAMES)))]
    features = {name for name, feature in _features(schema).items() if feature.get("_type") == "Image"}
    told = [column.name for column in found if column.name in features]
    name = _chosen(wanted, IMAGE, [column.name for column in found], told, ("image", "encoded pictures"), schema, file)
    return next(column for column in found if column.name == name)


def label_column(schema: pa.Schema, file: str, wanted: str = "") -> LabelColumn:
    """The column of labels: ``wanted``, ``label``, the only ClassLabel, or the only one that is called like a label.

    Raises:
        DataError: there is none, or several, which are listed.
    """
    features = _features(schema)
    found = [field.name for field in schema if _may_be_label(field.type) or field.name in (wanted, LABEL)]
    told = [name for name in found if features.get(name, {}).get("_type") == "ClassLabel"]
    likely = told or [name for name in found if _LABEL_LIKE.search(name)]
    offered = found if wanted or LABEL in found else likely
    name = _chosen(wanted, LABEL, offered, told, ("label", "class labels"), schema, file)
    names = features.get(name, {}).get("names")
    return LabelColumn(name, tuple(map(str, names)) if isinstance(names, list) and names else None)


def _chosen(
    wanted: str,
    usual: str,
    found: Sequence[str],
    told: Sequence[str],
    words: tuple[str, str],
    schema: pa.Schema,
    file: str,
) -> str:
    what, holding = words
    setting = f"data.{what}_column"
    name = wanted or usual
    if schema.names.count(name) > 1:
        raise DataError(
            f"{setting}: {file!r} must have one column {name!r}, got {schema.names.count(name)}; give them different "
            "names" + ("" if wanted else f", or set {setting} to another column")
        )
    if wanted:
        if wanted not in found:
            raise DataError(f"{setting}: {file!r} has no column {wanted!r} of {holding}; {_describe(schema)}")
        return wanted
    if usual in found:
        return usual
    if len(told) == 1 or len(found) == 1:
        return told[0] if len(told) == 1 else found[0]
    if not found:
        layout = "image{bytes,path} of encoded pictures" if what == "image" else "label of integers or names"
        raise DataError(f"{file!r} needs a column {layout}, or another one named in {setting}; {_describe(schema)}")
    raise DataError(
        f"{file!r} has several columns that can hold {holding}: {', '.join(found)}; set {setting} to one of them"
    )


def _as_image(field: pa.Field, texts: bool) -> ImageColumn | None:
    kind = field.type
    if _is_binary(kind):
        return ImageColumn(field.name, field.name, None)
    if texts and _is_text(kind):
        return ImageColumn(field.name, None, field.name)
    if not pa.types.is_struct(kind):
        return None
    has_bytes = _has(kind, "bytes", _is_binary)
    # A data set of paths alone may leave the type of its bytes open.
    has_path = _has(kind, "path", _is_text) and (has_bytes or _has(kind, "bytes", pa.types.is_null))
    if not has_bytes and not has_path:
        return None
    leaves = (f"{field.name}.{leaf}" if there else None for leaf, there in (("bytes", has_bytes), ("path", has_path)))
    return ImageColumn(field.name, *leaves)


def _has(kind: pa.DataType, name: str, test: Callable[[pa.DataType], bool]) -> bool:
    return kind.get_field_index(name) >= 0 and test(kind.field(name).type)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata say of every column; nothing where they are missing or of another form."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_text_label(kind: pa.DataType) -> bool:
    """Whether labels of this type are names: texts, or categories of texts."""
    return _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _may_be_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind)) or is_text_label(kind)


def _describe(schema: pa.Schema) -> str:
    return f"it has {', '.join(f'{field.name}: {field.type}' for field in schema) or 'no column'}"

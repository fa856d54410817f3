"""Masks as pictures: Broden's, folders of label pictures, and of colour pictures as Cityscapes has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image, UnidentifiedImageError

from workflows.data.csv_records import csv_records
from workflows.data.masks.mask_sources import MOST_CONCEPTS, OBJECT, Concept, Labels, bare_name
from workflows.errors import DataError

_CITYSCAPES = re.compile(r"_gt(?:Fine|Coarse)_(color|labelIds|labelTrainIds|instanceIds)$")


@dataclass(frozen=True)
class LabelPictures:
    """A folder of pictures whose pixels are values, one picture a photo, and ``labels.csv``: value, name[, category].

    A picture is called like its photo, but for the ending. Values that the table leaves out mark nothing.
    """

    folder: Path
    concepts: tuple[Concept, ...]
    values: tuple[int, ...]
    pictures: Mapping[str, Path]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, category: str | None) -> LabelPictures:
        """Raises DataError: no folder, no table, or a value that is no number from 0 to 65,535, or stands twice."""
        rows = _read_table(folder / "labels.csv", ("value", "name"))
        values = [_number(folder / "labels.csv", row["value"], MOST_CONCEPTS) for row in rows]
        _refuse_twice(folder / "labels.csv", values)
        return cls(folder, _concepts(rows, category), tuple(values), _pictures(folder, "labelIds"))

    @property
    def tables(self) -> tuple[Path, ...]:
        """Names of the values."""
        return (self.folder / "labels.csv",)

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the pictures below the folder, without their endings."""
        return tuple(self.pictures)

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        """See ``MaskSource``."""
        path = self.pictures[name]
        found = _values(path)
        _refuse_size(path, found.shape, size)
        return _renumbered(found, self.values)[None]


@dataclass(frozen=True)
class ColourPictures:
    """A folder of pictures whose colours are concepts, and ``colours.csv``: name, red, green, blue[, category].

    A picture is called like its photo, but for the ending (and Cityscapes' ``_gtFine_color``). Other colours mark
    nothing.
    """

    folder: Path
    concepts: tuple[Concept, ...]
    colours: tuple[int, ...]
    pictures: Mapping[str, Path]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, category: str | None) -> ColourPictures:
        """Raises DataError: no folder, no table, or a colour that is none, or stands twice."""
        table = folder / "colours.csv"
        rows = _read_table(table, ("name", "red", "green", "blue"))
        parts = [[_number(table, row[part], 255) for part in ("red", "green", "blue")] for row in rows]
        colours = [red + 256 * green + 65536 * blue for red, green, blue in parts]
        _refuse_twice(table, colours)
        return cls(folder, _concepts(rows, category), tuple(colours), _pictures(folder, "color"))

    @property
    def tables(self) -> tuple[Path, ...]:
        """Names of the colours."""
        return (self.folder / "colours.csv",)

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the pictures below the folder, without their endings."""
        return tuple(self.pictures)

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        """See ``MaskSource``."""
        path = self.pictures[name]
        pixels = _open(path, "RGB").astype(np.int64)  # as bytes 256 times green would be 0
        _refuse_size(path, pixels.shape[:2], size)
        return _renumbered(pixels @ np.array([1, 256, 65536]), self.colours)[None]


@dataclass(frozen=True)
class BrodenMasks:
    """Broden (Bau et al. 2017): ``index.csv``, ``category.csv``, ``label.csv``, ``c_<category>.csv``, ``images/``.

    A cell of the index holds pictures, ``;`` between them, whose values R + 256 G are numbers of labels, or numbers of
    labels that hold for the whole image. Masks have a grid of their own over the image (columns sh, sw).

    Attributes:
        root: of the folder.
        concepts: label by label of category after category.
        numbers: concept by category and number of the label.
        rows: of the index, by image.
        notes: categories that no image has.
    """

    root: Path
    concepts: tuple[Concept, ...]
    numbers: Mapping[str, Mapping[int, int]]
    rows: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...]

    @classmethod
    def open(cls, root: Path, category: str | None) -> BrodenMasks:
        """Raises DataError: a table is missing or lacks a column, or a category has no image."""
        if category is not None:
            raise DataError(f"broden {str(root)!r}: must keep its own categories, got #{category}; leave it out")
        concepts: list[Concept] = []
        numbers: dict[str, dict[int, int]] = {}
        names = {row["number"]: row["name"] for row in _read_table(root / "label.csv", ("number", "name", "category"))}
        for row in _read_table(root / "category.csv", ("name",)):
            kind = row["name"]
            codes = _read_table(root / f"c_{kind}.csv", ("code", "number"))
            known = [(_number(root / f"c_{kind}.csv", code["number"], MOST_CONCEPTS), code) for code in codes]
            numbers[kind] = {number: len(concepts) + place for place, (number, _) in enumerate(known)}
            concepts += [
                Concept(code.get("name") or names.get(code["number"], code["number"]), kind) for _, code in known
            ]
        index = _read_table(root / "index.csv", ("image", "ih", "iw", "sh", "sw", *numbers))
        bare = [kind for kind in numbers if not any(row[kind] for row in index)]
        notes = tuple(f"no image of {str(root)!r} has a mask of category {kind}" for kind in bare)
        return cls(root, tuple(concepts), numbers, {row["image"]: row for row in index}, notes)

    @property
    def tables(self) -> tuple[Path, ...]:
        """Index, categories, labels, and the concepts of every category."""
        return tuple(
            self.root / f"{name}.csv"
            for name in ("index", "category", "label", *(f"c_{kind}" for kind in self.numbers))
        )

    @property
    def names(self) -> tuple[str, ...]:
        """As the index has them."""
        return tuple(self.rows)

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        """See ``MaskSource``."""
        row = self.rows[name]
        told, grid = (
            (_number(self.root / "index.csv", row[k], 10**6) for k in keys) for keys in (("ih", "iw"), ("sh", "sw"))
        )
        height, width = told
        if (height, width) != size:
            raise DataError(
                f"broden {str(self.root)!r}: {name!r} must have the size of its row in index.csv, {width} x {height} "
                f"pixels (width x height), got {size[1]} x {size[0]}: give the images of the same Broden"
            )
        shape = tuple(grid)
        layers = [
            self._layer(part.strip(), kind, shape)
            for kind in self.numbers
            for part in row[kind].split(";")
            if part.strip()
        ]
        return np.stack(layers) if layers else np.zeros((0, *shape), np.uint16)

    def _layer(self, part: str, kind: str, grid: tuple[int, ...]) -> np.ndarray:
        if part.isdecimal():
            values = np.full(grid, int(part), np.int64)
        else:
            path = self.root / "images" / part
            values = _values(path)
            _refuse_size(path, values.shape, grid)
        known = self.numbers[kind]
        strange = sorted(set(np.unique(values).tolist()) - known.keys() - {0})
        if strange:
            raise DataError(
                f"broden {str(self.root)!r}: {part!r} must hold numbers of labels of category {kind} (c_{kind}.csv), "
                f"got {', '.join(map(str, strange[:5]))}"
            )
        numbers = np.zeros(max([0, *known]) + 1, np.uint16)
        numbers[list(known)] = np.array(list(known.values())) + 1
        numbers[0] = 0
        return numbers[values]


def _concepts(rows: Sequence[Mapping[str, str]], category: str | None) -> tuple[Concept, ...]:
    return tuple(Concept(row["name"], category or row.get("category") or OBJECT) for row in rows)


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    remedy = f"it has the columns {', '.join(columns)}"
    return [record for _, record in csv_records(path, "masks", columns, remedy)]


def _number(path: Path, text: str, most: int) -> int:
    if not text.isdecimal() or int(text) > most:
        raise DataError(f"masks {str(path)!r}: must hold whole numbers from 0 to {most:,}, got {text!r}")
    return int(text)


def _refuse_twice(path: Path, values: Sequence[int]) -> None:
    if len(set(values)) < len(values):
        raise DataError(f"masks {str(path)!r}: each value must stand for one concept, got some twice")


def _pictures(folder: Path, kind: str) -> dict[str, Path]:
    """By the name of their photo."""
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".bmp", ".tif", ".tiff", ".gif")
    )
    if not paths:
        raise DataError(f"masks {str(folder)!r}: must hold pictures of labels, such as PNG files, got none")
    of_cityscapes = [match for path in paths if (match := _CITYSCAPES.search(path.stem))]
    found = {}
    for path in paths:
        match = _CITYSCAPES.search(path.stem)
        if of_cityscapes and (match is None or match.group(1) != kind):
            continue
        name = bare_name(path.relative_to(folder).as_posix())
        found[_CITYSCAPES.sub("", name)] = path
    return found


def _open(path: Path, mode: str | None = None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.array(picture if mode is None else picture.convert(mode))
    except FileNotFoundError:
        raise DataError(f"masks {str(path)!r}: there is no such file, and a table names it: restore it") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"masks {str(path)!r}: must be a picture, got {error}") from None


def _values(path: Path) -> Int[np.ndarray, "H W"]:
    """Of grey and palette pictures their values, of coloured ones R + 256 G."""
    pixels = _open(path)
    if pixels.ndim == 2 and pixels.dtype.kind in "ui":
        return pixels.astype(np.int64)
    if pixels.ndim == 3 and pixels.dtype == np.uint8 and pixels.shape[2] >= 3:
        wide = pixels.astype(np.int64)  # as bytes 256 times green would be 0
        return wide[..., 0] + 256 * wide[..., 1]
    raise DataError(f"masks {str(path)!r}: must have whole numbers for pixels, grey or R + 256 G, got {pixels.dtype}")


def _refuse_size(path: Path, got: Iterable[int], size: Iterable[int]) -> None:
    (height, width), (wanted_height, wanted_width) = got, size
    if (height, width) != (wanted_height, wanted_width):
        raise DataError(
            f"masks {str(path)!r}: must have the size of the photo's masks, {wanted_width} x {wanted_height} pixels "
            f"(width x height), got {width} x {height}"
        )


def _renumbered(found: Int[np.ndarray, "H W"], values: Sequence[int]) -> np.ndarray:
    """Concept + 1 by value; 0 where the value is none of them."""
    order = np.argsort(values)
    ascending = np.asarray(values, np.int64)[order]
    place = np.searchsorted(ascending, found).clip(max=len(values) - 1)
    return np.where(ascending[place] == found, order[place] + 1, 0).astype(np.uint16)

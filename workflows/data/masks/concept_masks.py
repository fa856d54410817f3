"""Masks of concepts in the network's input, whatever file they come from.

    masks = read_masks("coco:cars/annotations.json", paths, settings.data, settings.preprocessing, (224, 224))
    wheel = masks.number("wheel")
    for image, found in zip(images, masks.read(images), strict=True):
        found.mask(wheel)  # (H, W) bool, in pixels of the network's input

Masks lie in pixels of the photo, or in a grid of their own over it (Broden), and are carried through the resizing and
cropping of the photo by the nearest pixel, half-pixel centres: a pixel of the input takes the concepts of the mask's
pixel in which its centre lies.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from workflows.data.boxes import TWICE, by_ending, centre_crop
from workflows.data.decoding import BrokenPicture, Picture, Pixels, unbroken
from workflows.data.masks.colour_names import COLOUR_NAMES, ColourNames
from workflows.data.masks.mask_sources import COLOUR, MOST_CONCEPTS, BoxMasks, Concept, Labels, MaskSource, bare_name
from workflows.data.reading import PictureReader
from workflows.errors import DataError
from workflows.settings import DataSettings, PreprocessingSettings

__all__ = ["Concept", "ImageMasks", "Labels", "MaskSet", "nearest_pixels", "read_masks"]

_AT_ONCE = 8
"""Photos that are decoded ahead."""


@dataclass(frozen=True, eq=False)
class ImageMasks:
    """Which concepts lie where on one image.

    Attributes:
        labels: (L, H, W) in pixels of the network's input; without a layer where the image has no mask.
    """

    labels: Labels

    def present(self) -> Int[np.ndarray, " m"]:
        """Numbers of the concepts that have a pixel here, ascending."""
        return np.flatnonzero(np.bincount(self.labels.ravel(), minlength=1)[1:])

    def mask(self, concept: int) -> Bool[np.ndarray, "H W"]:
        """Where a concept lies."""
        return np.asarray((self.labels == concept + 1).any(axis=0))

    def stack(self) -> tuple[Int[np.ndarray, " m"], Bool[np.ndarray, "m H W"]]:
        """The concepts that are present, and where each of them lies."""
        present = self.present()
        return present, np.asarray((self.labels[None] == (present + 1)[:, None, None, None]).any(axis=1))


@dataclass(frozen=True)
class MaskSet:
    """The masks of a run's images. May be sent to actors; reads when asked.

    Attributes:
        source: as it was asked for, ``kind:path``.
        concepts: by number.
        images: (n,) ids of the run's images that the source knows, ascending.
        absent: photos of the source that the run does not have.
        notes: for people.
    """

    source: str
    concepts: tuple[Concept, ...]
    images: Int[np.ndarray, " n"]
    absent: tuple[str, ...]
    notes: tuple[str, ...]
    _files: MaskSource
    _names: Mapping[int, str]
    _paths: Mapping[int, str]
    _data: DataSettings
    _preprocessing: PreprocessingSettings
    _input_size: tuple[int, int]
    _colours: ColourNames | None = None

    @property
    def tables(self) -> tuple[Path, ...]:
        """Files that say what is where; pictures are not among them."""
        return (*self._files.tables, *(() if self._colours is None else (self._colours.path,)))

    @property
    def categories(self) -> tuple[str, ...]:
        """Of the concepts, each once, in their order."""
        return tuple(dict.fromkeys(concept.category for concept in self.concepts))

    def number(self, name: str, category: str | None = None) -> int:
        """Of the concept of that name.

        Raises:
            DataError: there is none, or there are several and no category is given.
        """
        fits = [
            number for number, one in enumerate(self.concepts) if one.name == name and category in (None, one.category)
        ]
        if len(fits) == 1:
            return fits[0]
        if fits:
            of = ", ".join(self.concepts[number].category for number in fits)
            raise DataError(f"concept {name!r} is of several categories, {of}: say which")
        near = difflib.get_close_matches(name, [one.name for one in self.concepts], n=3)
        offer = f"did you mean {' or '.join(near)}?" if near else f"it has {_some([o.name for o in self.concepts])}"
        raise DataError(f"{self.source}: there is no concept {name!r}; {offer}")

    def read(self, images: Sequence[int]) -> list[ImageMasks]:
        """Masks of some images, in their order; without a layer for those that the source does not know.

        Raises:
            DataError: masks are damaged or of another size than their photo, or a photo cannot be read any more.
        """
        with PictureReader(self._data, threads=1, geometry=None if self._colours else _only_size) as reader:
            known = [image for image in images if image in self._names]
            batches = reader.stream([self._paths[image] for image in known], _AT_ONCE)
            found = dict(zip(known, (self._of_picture(*pair) for pair in _pairs(known, batches)), strict=True))
        empty = ImageMasks(np.zeros((0, *self._input_size), np.uint16))
        return [found.get(image, empty) for image in images]

    def _of_picture(self, image: int, picture: Picture | BrokenPicture) -> ImageMasks:
        pixels = unbroken(picture).pixels
        size = (pixels.shape[0], pixels.shape[1])
        labels = self._files.labels(self._names[image], size)
        rows, columns = nearest_pixels(size, labels.shape[1:], self._preprocessing)
        found = labels[:, rows[:, None], columns]
        if self._colours is not None:
            rows, columns = nearest_pixels(size, size, self._preprocessing)
            first = len(self._files.concepts) + 1
            colours = self._colours.colours(pixels[rows[:, None], columns]) + np.uint16(first)
            found = np.concatenate([found, colours[None]])
        return ImageMasks(np.ascontiguousarray(found))

    def without(self, categories: Sequence[str]) -> MaskSet:
        """The same with the concepts of some categories left out; the others get new numbers."""
        kept = [number for number, one in enumerate(self.concepts) if one.category not in categories]
        files = _Chosen(self._files, tuple(kept))
        return replace(self, concepts=files.concepts, _files=files)

    def with_colours(self, path: Path) -> MaskSet:
        """The same with the eleven names of colours on every image that has masks; see ``ColourNames``.

        Raises:
            DataError: the table is missing or damaged, or there are too many concepts then.
        """
        table = ColourNames.open(path)
        concepts = (*self._files.concepts, *(Concept(name, COLOUR) for name in COLOUR_NAMES))
        _refuse_many(self.source, concepts)
        return replace(self, concepts=concepts, _colours=table)


@dataclass(frozen=True)
class _Chosen:
    """Some concepts of a source."""

    whole: MaskSource
    kept: tuple[int, ...]

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return tuple(self.whole.concepts[number] for number in self.kept)

    @property
    def names(self) -> tuple[str, ...]:
        return self.whole.names

    @property
    def notes(self) -> tuple[str, ...]:
        return self.whole.notes

    @property
    def tables(self) -> tuple[Path, ...]:
        return self.whole.tables

    def labels(self, name: str, size: tuple[int, int]) -> Labels:
        numbers = np.zeros(len(self.whole.concepts) + 1, np.uint16)
        numbers[np.array(self.kept, np.int64) + 1] = np.arange(1, len(self.kept) + 1)
        found = numbers[self.whole.labels(name, size)]
        return found[found.any(axis=(1, 2))]


def read_masks(
    source: str,
    paths: Mapping[int, str],
    data: DataSettings,
    preprocessing: PreprocessingSettings,
    input_size: tuple[int, int],
) -> MaskSet:
    """The masks of a run's images.

    Args:
        source: ``coco:FILE``, ``boxes:FILE``, ``broden:FOLDER``, ``labels:FOLDER`` or ``colours:FOLDER``; behind a
            ``#`` a category for all of its concepts, such as ``coco:cars.json#part``.
        paths: of the readable images of the run, by id.
        data, preprocessing: settings of the run.
        input_size: height and width of the network's input.

    Raises:
        DataError: there is no such file, it is damaged, it knows none of the images, or has too many concepts.
    """
    from workflows.data.masks.coco import CocoMasks
    from workflows.data.masks.label_pictures import BrodenMasks, ColourPictures, LabelPictures

    readers: dict[str, Callable[[Path, str | None], MaskSource]] = {
        "coco": CocoMasks.open,
        "boxes": BoxMasks.open,
        "broden": BrodenMasks.open,
        "labels": LabelPictures.open,
        "colours": ColourPictures.open,
    }
    kind, _, place = source.partition(":")
    if kind not in readers or not place.strip():
        raise DataError(f"masks: must be one of {', '.join(readers)}, a colon and a path, got {source!r}")
    place, _, category = place.partition("#")
    files = readers[kind](Path(place).expanduser(), category.strip() or None)
    _refuse_many(source, files.concepts)
    names, absent = _match(source, files.names, paths)
    images = np.array(sorted(names), np.int64)
    of_images = {image: paths[image] for image in names}
    return MaskSet(
        source,
        files.concepts,
        images,
        absent,
        files.notes,
        files,
        names,
        of_images,
        data,
        preprocessing,
        input_size,
    )


def _match(source: str, names: Sequence[str], paths: Mapping[int, str]) -> tuple[dict[int, str], tuple[str, ...]]:
    """Names by image, and those that no image has."""
    images = list(paths)
    whole, bare = list(paths.values()), [bare_name(path) for path in paths.values()]
    ends: dict[tuple[int, bool], dict[str, int]] = {}
    found: dict[int, str] = {}
    absent = []
    for name in names:
        clean = name.strip("/").removeprefix("./")
        depth, with_ending = clean.count("/") + 1, bare_name(clean) != clean
        if (depth, with_ending) not in ends:
            ends[depth, with_ending] = by_ending(whole if with_ending else bare, depth)
        place = ends[depth, with_ending].get(clean)
        if place == TWICE:
            raise DataError(f"{source}: {name!r} fits several images of the run: name their folders too")
        if place is None:
            absent.append(name)
        elif images[place] in found:
            raise DataError(f"{source}: {name!r} and {found[images[place]]!r} are the same image of the run: keep one")
        else:
            found[images[place]] = name
    if not found:
        known = whole[0] if whole else "none"
        told = f"the run's paths end as in {known!r}, its names are like {names[0] if names else 'none'!r}"
        raise DataError(f"{source}: must know an image of the run, got none of its {len(names):,} photos; {told}")
    return found, tuple(absent)


def nearest_pixels(
    size: tuple[int, int], grid: tuple[int, ...], preprocessing: PreprocessingSettings
) -> tuple[Int[np.ndarray, " H"], Int[np.ndarray, " W"]]:
    """Rows and columns of a grid over a whole photo in which the centres of the input's pixels lie.

    Args:
        size: height and width of the photo.
        grid: of the masks; equal to ``size`` where they have the photo's pixels.
        preprocessing: how the photo was resized and cropped.
    """
    resized, corner, shown = centre_crop(size, preprocessing)
    found = []
    for whole, first, length, cells in zip(resized, corner, shown, grid, strict=True):
        # In integers: the centre of pixel i is at (2 (i + first) + 1) / (2 whole) of the side.
        found.append((2 * (np.arange(length) + first) + 1) * cells // (2 * whole))
    return found[0], found[1]


def _refuse_many(source: str, concepts: Sequence[Concept]) -> None:
    if len(concepts) > MOST_CONCEPTS:
        raise DataError(f"{source}: must have at most {MOST_CONCEPTS:,} concepts, got {len(concepts):,}")


def _pairs(
    images: Sequence[int], batches: Iterable[Sequence[Picture | BrokenPicture]]
) -> Iterator[tuple[int, Picture | BrokenPicture]]:
    return zip(images, (picture for batch in batches for picture in batch), strict=True)


def _only_size(pixels: Pixels) -> Pixels:
    """As large, and without the pixels."""
    return np.empty((*pixels.shape[:2], 0), np.uint8)


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")

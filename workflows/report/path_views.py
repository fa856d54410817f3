"""From the Parquet tables of a hidden Markov model to the path of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from workflows.errors import RunFolderError
from workflows.report.chain_view import Departure, PathView, StepView, WordView, word_view
from workflows.report.graph_view import OUTPUT, ImageView
from workflows.report.junction_members import Pictures
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


@dataclass(frozen=True)
class PathTables:
    """Rows of one image."""

    paths: pa.Table
    images: pa.Table
    triage: pa.Table | None = None


class WordNames:
    """How words are called: layer titles, class names, and each word's dominant class.

    Args:
        titles: shown name of every layer, lowest first.
        class_names: name of every class.
        words: the words table of the scope, or None.
    """

    def __init__(self, titles: Mapping[str, str], class_names: Sequence[str], words: pa.Table | None = None) -> None:
        self.titles, self.class_names = {**titles, OUTPUT: titles.get(OUTPUT, OUTPUT)}, tuple(class_names)
        self._dominant: dict[tuple[str, int], tuple[str, float]] = {}
        for row in [] if words is None else words.to_pylist():
            if row["dominant_class"] is not None:
                name = self.class_names[row["dominant_class"]]
                self._dominant[row["layer"], row["word"]] = (name, row["dominant_share"])

    def __call__(self, layer: str, word: int) -> WordView:
        """A word, or a class of the output layer."""
        dominant = self._dominant.get((layer, word), ("", float("nan")))
        return word_view(layer, self.titles.get(layer, layer), word, self.class_names, *dominant)


def read_path_tables(folder: RunFolder, image: int, scope: str) -> PathTables:
    """The rows of one image.

    Raises:
        RunFolderError: the paths stage has not run.
    """
    wanted = [("image", "=", image), ("scope", "=", scope)]
    columns = ["image", "label", "predicted", "probability"]
    return PathTables(
        paths=read_table(folder.table("paths"), filters=wanted),
        images=read_image_rows(folder.images_table, image, image + 1, columns),
        triage=read_table(folder.table("triage"), filters=wanted),
    )


def read_word_names(folder: RunFolder, titles: Mapping[str, str], class_names: Sequence[str], scope: str) -> WordNames:
    """Names of all words; before the count stage has run none has a dominant class."""
    path = folder.table("words")
    columns = ["layer", "word", "dominant_class", "dominant_share"]
    words = read_table(path, columns, [("scope", "=", scope)]) if path.exists() else None
    return WordNames(titles, class_names, words)


def build_path_view(
    tables: PathTables, image: int, names: WordNames, *, scope: str, network: str, pictures: Pictures | None = None
) -> PathView:
    """Join everything that one image's path shows.

    Args:
        tables: rows of the image; others are passed over.
        image: row of the images table.
        names: names of words and classes.
        scope: scope of the words.
        network: name of the run, for the heading.
        pictures: saved pictures; without them the view serves the terminal only.

    Raises:
        RunFolderError: the image has no path (its picture was broken), or is not in the images table.
    """
    rows = [row for row in tables.paths.to_pylist() if row["image"] == image and row["scope"] == scope]
    if not rows:
        raise RunFolderError(f"image {image} has no path: its picture was broken; images.parquet says why")
    rows.sort(key=lambda row: row["level"])
    return PathView(
        image=_image_view(tables.images, image, names.class_names, pictures),
        scope=scope,
        network=network,
        steps=tuple(_step(row, names) for row in rows),
        log_probability=rows[0]["path_log_probability"],
        departure=_departure(tables.triage, image, scope, names),
    )


def _step(row: dict[str, Any], names: WordNames) -> StepView:
    return StepView(
        level=row["level"],
        word=names(row["layer"], row["word"]),
        log_probability=row["log_probability"],
        runner_up=None if row["runner_up"] is None else names(row["layer"], row["runner_up"]),
        log_odds=row["runner_up_log_odds"],
    )


def _departure(triage: pa.Table | None, image: int, scope: str, names: WordNames) -> Departure | None:
    found = [] if triage is None else [r for r in triage.to_pylist() if r["image"] == image and r["scope"] == scope]
    if not found:
        return None
    (row,) = found
    expected = row["expected_word"]
    return Departure(
        level=row["level"],
        junction=None if row["lower_word"] is None else names(row["lower_layer"], row["lower_word"]),
        taken=names(row["upper_layer"], row["upper_word"]),
        expected=None if expected is None else names(row["upper_layer"], expected),
        log_odds=row["log_odds"],
    )


def _image_view(images: pa.Table, image: int, class_names: Sequence[str], pictures: Pictures | None) -> ImageView:
    found = [row for row in images.to_pylist() if row["image"] == image]
    if not found:
        raise RunFolderError(f"image {image} is not in the images table")
    (row,) = found
    return ImageView(
        image=image,
        true_name=class_names[row["label"]],
        predicted_name=class_names[row["predicted"]],
        probability=float("nan") if row["probability"] is None else float(row["probability"]),
        picture=None if pictures is None else pictures.read(image),
    )

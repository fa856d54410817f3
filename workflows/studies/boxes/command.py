"""Do the words of the class graphs sit on the object? Boxes of a file against the positions of the words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool
from rich.console import Console
from rich.text import Text

from workflows.asking.registry import STUDIES
from workflows.asking.study import refuse_without_outputs
from workflows.context import LAYOUT
from workflows.data.boxes import OBJECT, Boxes, BoxRow, area, input_boxes, inside, match_images, read_boxes
from workflows.data.reading import photo_sizes
from workflows.errors import RunFolderError
from workflows.figures.draw_graphs import position_centres
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scopes import Scope, joint_scope, read_scopes, scopes_path
from workflows.report.parts_report import draw_parts_figure, parts_table
from workflows.settings import Settings
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.storage.run_folder import RunFolder
from workflows.storage.study_folder import StudyFolder, StudyRecord, basis_of
from workflows.storage.tables import read_table, write_table
from workflows.studies.boxes.shares import Sighting, pooled, share_row
from workflows.words.scope_images import ranges_of
from workflows.words.word_maps import read_words

BOXES = "boxes"
"""Name of the command, the table and the figure."""

_OLD_NAME = "parts"

Chosen = list[dict[str, Any]]
Found = dict[int, dict[str, list[Sighting]]]
"""Sightings of a layer by word and part."""


def run_boxes(root: Path, boxes: Path, names: Mapping[str, str], console: Console) -> dict[str, Any]:
    """Write boxes.parquet and figures/[<scope>/]boxes.png of a finished run, and print the layers.

    Args:
        root: the run folder.
        boxes: a CSV file, see ``read_boxes``.
        names: what its parts are called.
        console: where the table goes.

    Returns:
        The summary.

    Raises:
        DataError: the file is no such table, or its boxes do not fit the photos of the run.
        RunFolderError: the run has no class graph yet, or no layer with positions.
    """
    folder = RunFolder.open(root)
    own = StudyFolder(folder, STUDIES[BOXES])
    with folder.lock():
        folder.remove_leftovers([BOXES, folder.figures.name])
        settings, plan = folder.settings(), Plan.read(folder)
        refuse_without_outputs(settings, BOXES, "looks at the words of class graphs")
        nodes = _chosen_words(folder, plan)
        lines = read_boxes(boxes, names)
        stands_on = [folder.table("nodes"), folder.table("exemplars"), boxes.resolve()]
        request = {"boxes": str(boxes.resolve()), "names": dict(names)}
        own.ask(StudyRecord(request, basis_of(folder, own.study.version, stands_on, ())))
        own.ledger.begin(LAYOUT, total=1)
        parts = [OBJECT, *(part for line in lines for part in line.boxes)]
        photos = Photos(_photo_boxes(folder, settings, lines), parts, plan)
        rows = [
            row for scope in _scopes(folder, plan) for row in _scope_rows(folder, settings, plan, scope, nodes, photos)
        ]
        write_table(folder.table(BOXES), rows, BOXES, network=settings.name)
        table = read_table(folder.table(BOXES))
        _remove_old_names(folder)
        figures = [_draw(folder, settings, plan, table, scope) for scope in table["scope"].unique().to_pylist()]
        in_file = len({line.image for line in lines})
        own.ledger.record("answer")
        own.ledger.end(photos=len(photos.boxes), photos_in_file=in_file)
    console.print(parts_table(table, plan.class_names, {layer.name: layer.given for layer in plan.layers}))
    console.print(f"{len(photos.boxes)} of the {in_file} photos of the file are in the run", highlight=False)
    for path in (folder.table(BOXES), *figures):
        console.print(Text(str(path)), soft_wrap=True)
    return own.summary()


class Photos:
    """Photos with boxes, and which positions of a layer lie in them.

    Args:
        boxes: by image and part, pixels of the network's input.
        parts: names in the order to show them; those that no photo has are left out.
        plan: of the run.
    """

    def __init__(self, boxes: Mapping[int, Mapping[str, Boxes]], parts: Iterable[str], plan: Plan) -> None:
        self.boxes, self._shown = boxes, (plan.input_height, plan.input_width)
        self.parts = [part for part in dict.fromkeys(parts) if any(part in of_photo for of_photo in boxes.values())]

    def sight(self, image: int, layer: LayerPlan, here: Bool[np.ndarray, "H W"]) -> Iterator[tuple[str, Sighting]]:
        """By part: how many of the positions ``here`` of a layer lie in the boxes of a photo."""
        count, (height, width) = int(here.sum()), self._shown
        for part in self.parts if count else ():
            boxes = self.boxes.get(image, {}).get(part)
            if boxes is None:
                yield part, Sighting(image, count, None)
                continue
            # The centre of a field that reaches far over the edge is the last pixel's, not one behind it.
            y = position_centres(layer.pixels.rows, layer.height, height).clip(0.5, height - 0.5)
            x = position_centres(layer.pixels.columns, layer.width, width).clip(0.5, width - 0.5)
            hits = int((inside(y, x, boxes) & here).sum())
            yield part, Sighting(image, count, hits, area(boxes) / (height * width))


def _chosen_words(folder: RunFolder, plan: Plan) -> Chosen:
    """Nodes of all class graphs in layers that have positions."""
    if not folder.table("nodes").exists() or not folder.table("exemplars").exists():
        raise RunFolderError(f"{str(folder.root)!r} has no class graphs yet: finish the run first")
    spread = [layer.name for layer in plan.layers if layer.positions > 1]
    if not spread:
        raise RunFolderError("every layer of this run has a single position: boxes say nothing about dense layers")
    table = read_table(
        folder.table("nodes"), ["graph", "scope", "layer", "word", "rank"], [("criterion", "=", LIKELIHOOD)]
    )
    rows = table.filter(pc.is_in(table["layer"], pa.array(spread))).to_pylist()
    rows = [row for row in rows if not GraphId.parse(row["graph"]).is_image]
    if not rows:
        raise RunFolderError(f"{str(folder.root)!r} has no class graph: ask for one with mine.classes")
    return list(rows)


def _scopes(folder: RunFolder, plan: Plan) -> Sequence[Scope]:
    return read_scopes(folder) if scopes_path(folder).exists() else (joint_scope(plan),)


def _photo_boxes(folder: RunFolder, settings: Settings, lines: Sequence[BoxRow]) -> dict[int, dict[str, Boxes]]:
    """By image: its boxes in the network's input; a broken picture takes no part."""
    table = read_table(folder.images_table, ["image", "path", "status"])
    table = table.filter(pc.not_equal(table["status"], "broken"))
    paths, images = table["path"].to_pylist(), table["image"].to_pylist()
    matched = match_images(lines, paths)
    places = sorted(matched)
    sizes = photo_sizes(settings.data, [paths[place] for place in places], settings.runtime.patience)
    return {
        images[place]: input_boxes(matched[place], size, settings.preprocessing)
        for place, size in zip(places, sizes, strict=True)
    }


def _scope_rows(
    folder: RunFolder, settings: Settings, plan: Plan, scope: Scope, nodes: Chosen, photos: Photos
) -> Iterator[dict[str, Any]]:
    """Rows of the class graphs of a scope, layer by layer from the top."""
    own = [node for node in nodes if node["scope"] == scope.name]
    images = ImageColumns.read(folder, plan.train_images, plan.images)
    member = scope.contains(images.label)
    for graph in dict.fromkeys(node["graph"] for node in own):
        label = GraphId.parse(graph).number
        omega = np.flatnonzero(member & (images.predicted == label)) + plan.train_images
        for layer in plan.layers[::-1]:
            chosen = [node for node in own if node["graph"] == graph and node["layer"] == layer.name]
            words = [node["word"] for node in chosen]
            sources = {
                "exemplars": _in_exemplars(folder, scope.name, layer, words, photos),
                "validation": _in_maps(folder, settings, plan, scope.name, layer, words, omega, photos),
            }
            key = {"graph": graph, "scope": scope.name, "layer": layer.name}
            for source, found in sources.items() if chosen else ():
                yield from ({**key, "source": source, **row} for row in _layer_rows(chosen, found, photos.parts))


def _layer_rows(chosen: Chosen, found: Found, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for every part and word, and one for the words together."""
    for part in parts:
        of_words = [found[node["word"]][part] for node in chosen]
        for node, sightings in zip(chosen, of_words, strict=True):
            yield {"word": node["word"], "rank": node["rank"], "part": part, **share_row(sightings)}
        yield {"part": part, **share_row(pooled(of_words))}


def _in_exemplars(folder: RunFolder, scope: str, layer: LayerPlan, words: Sequence[int], photos: Photos) -> Found:
    wanted = [("scope", "=", scope), ("layer", "=", layer.name)]
    rows = read_table(folder.table("exemplars"), ["word", "image", "y", "x"], wanted).to_pylist()
    found: Found = {word: {part: [] for part in photos.parts} for word in words}
    for row in rows:
        if row["word"] in found:
            here = np.zeros((layer.height, layer.width), bool)
            here[row["y"], row["x"]] = True
            for part, sighting in photos.sight(row["image"], layer, here):
                found[row["word"]][part].append(sighting)
    return found


def _in_maps(
    folder: RunFolder,
    settings: Settings,
    plan: Plan,
    scope: str,
    layer: LayerPlan,
    words: Sequence[int],
    omega: np.ndarray,
    photos: Photos,
) -> Found:
    found: Found = {word: {part: [] for part in photos.parts} for word in words}
    for first, stop in ranges_of(omega, settings.extract.images_per_shard, settings.extract.images_per_chunk):
        stop = min(stop, plan.images)
        maps = read_words(folder, scope, layer.name, first, stop).numpy()
        for image in omega[(omega >= first) & (omega < stop)].tolist():
            for word in words:
                for part, sighting in photos.sight(image, layer, maps[image - first] == word):
                    found[word][part].append(sighting)
    return found


def _remove_old_names(folder: RunFolder) -> None:
    """What the command wrote when it was called parts: the same, now told again under its present name."""
    for path in (folder.table(_OLD_NAME), *folder.figures.glob(f"**/{_OLD_NAME}.*")):
        path.unlink(missing_ok=True)


def _draw(folder: RunFolder, settings: Settings, plan: Plan, table: pa.Table, scope: str) -> Path:
    png, svg = folder.figure(BOXES, "png", scope), folder.figure(BOXES, "svg", scope)
    titles = {layer.name: layer.given for layer in plan.layers}
    rows = table.filter(pc.equal(table["scope"], scope))
    draw_parts_figure(rows, png, svg, network=settings.name, class_names=plan.class_names, layer_titles=titles)
    return png

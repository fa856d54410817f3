"""The report site of a run: tables, counts and pictures read, chunks written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.figures.graph_choices import graph_choices, has_counts
from workflows.figures.site_pictures import SitePictures
from workflows.plan.requests import class_id
from workflows.plan.run_plan import OUTPUT
from workflows.run import Run
from workflows.site.chunks import Chunks
from workflows.site.class_list import class_words, likeness, widest_scope, wrong_images
from workflows.site.graph_chunks import GraphChoices, choices_of_tables, graph_chunk, how_sure, rows_by_graph
from workflows.site.overview_chunk import overview, scope_chunk
from workflows.site.path_chunks import junctions_chunk, path_blocks, wrong_paths
from workflows.site.run_tables import RunTables
from workflows.site.site_folder import new_site, write_shell
from workflows.site.tiles import Picture, sheet, tile, webp
from workflows.site.used_words import used_words
from workflows.site.word_chunks import ScopeWords, read_scope_words, word_chunk
from workflows.site.word_list import WordKey, WordList
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.names import GraphId
from workflows.words.mining import ScopeCounts

FEW_WORDS = 600
"""Words up to which their pictures are larger."""

SIDES = (112, 64)
"""Longer side of an exemplar of few words, and of many; pixels."""

THUMBNAIL = 40
SHEET = 100
"""Classes whose thumbnails lie in one chunk."""

PHOTO = 320
"""Longest side of a picture that an image graph shows."""

MOST_WORDS = 20_000
"""Words up to which each has a page; above, those of graphs have."""


@dataclass(frozen=True)
class BuiltSite:
    """What was written: where, how many chunks and bytes of them, and what is not shown."""

    index: Path
    files: int
    bytes: int
    graphs: int
    words: int
    missing: tuple[tuple[str, str], ...]


def build_site(
    run: Run, out: Path, classes: Sequence[str] = (), beside: Run | None = None, criterion: str = ""
) -> BuiltSite:
    """Write the site of a run, whole or not at all.

    Args:
        run: finished or not.
        out: folder of the site; an earlier site there is replaced.
        classes: names or ids; given, only graphs of them and of images of them are shown, and the words of these.
        beside: another run, to compare graphs with.
        criterion: what the words of the run's graphs are chosen by; empty: see ``Run.criterion``.

    Raises:
        DataError: there is no such class or criterion. RunFolderError: ``out`` holds something else, or a table is
            damaged.
    """
    tables = RunTables(run, criterion=criterion)
    chosen = {class_id(name, run.plan.class_names, "--class") for name in classes}
    with new_site(out) as root:
        chunks = Chunks(root)
        site = _Side(tables, chunks, chosen, "")
        site.write()
        if beside is not None:
            from workflows.figures.word_matching import match_words

            other = _Side(RunTables(beside), chunks, set(), "beside-")
            other.write()
            chunks.put("match", "all", match_words(run, beside))
        chunks.put("overview", "all", site.overview({"beside": None if beside is None else beside.settings.name}))
        by = "" if tables.criterion == LIKELIHOOD else f", graphs by {tables.criterion}"
        write_shell(root, run.settings.name + by, run.settings.network.name)
        index = out / "index.html"
        return BuiltSite(index, chunks.files, chunks.bytes, len(site.graphs), site.word_count, tuple(tables.missing))


class _Side:
    """Chunks of one run.

    Args:
        tables: of the run.
        chunks: where they go.
        chosen: ids of the classes that are shown; none: all.
        prefix: of the kinds of chunks; a second run has one.
    """

    def __init__(self, tables: RunTables, chunks: Chunks, chosen: set[int], prefix: str) -> None:
        self.tables, self.run, self._chunks, self._prefix = tables, tables.run, chunks, prefix
        self.graphs = [one for one in tables.graphs if not chosen or self._is_of(one[1], chosen)]
        self.scopes = list(tables.run.scopes())
        self.word_count, self._tiles = 0, dict[int, Picture | None]()
        self._photos: list[int] = []
        self._chosen, self._candidates = chosen, set[WordKey]()
        tables.note_missing()
        mined = {graph.number for _, graph in self.graphs if not graph.is_image}
        for label in sorted(chosen - mined):
            name = self.run.plan.class_names[label]
            tables.missing.append((f"graph of class {name!r}", "the run has none; mine.classes asks for graphs"))

    def _is_of(self, graph: GraphId, chosen: set[int]) -> bool:
        images = self.tables.images
        if not graph.is_image:
            return graph.number in chosen
        return bool({int(images.label[graph.number]), int(images.predicted[graph.number])} & chosen)

    def write(self) -> None:
        """Every chunk of the run but the overview, which tells what the others hold."""
        self._write_graphs()
        few = self._chosen or self._number_of_words() > MOST_WORDS
        self.words = WordList(self.run.plan, self.scopes, self._candidates if few else None)
        self._read_pictures()
        for place, scope in enumerate(self.scopes):
            self._put("scope", place, scope_chunk(self.tables, scope))
            self._write_words(scope)
        self._write_thumbnails()
        self._put("wrong", "all", wrong_images(self.tables))
        if self.run.settings.hmm is not None:
            self._put("junctions", "all", junctions_chunk(self.tables))
            for block, paths in path_blocks(self.tables):
                self._put("path", block, paths)
        if self._prefix:
            self._put("overview", "all", self.overview({}))

    def overview(self, more: dict[str, Any]) -> dict[str, Any]:
        """The first chunk."""
        words = {scope: class_words(self.tables, scope) for scope in self.scopes}
        scope = widest_scope(self.scopes, words)
        alike = {"scope": scope, **likeness(words[scope])}
        return overview(self.tables, self.words, self.graphs, alike, {"sheet": SHEET, "photos": self._photos, **more})

    def _put(self, kind: str, key: int | str, content: Any) -> None:
        self._chunks.put(self._prefix + kind, key, content)

    def _number_of_words(self) -> int:
        return len(self.scopes) * sum(layer.words for layer in self.run.plan.layers)

    def _write_graphs(self) -> None:
        numbers = {(scope, str(graph)): number for number, (scope, graph) in enumerate(self.graphs)}
        for scope in self.scopes:
            names = [str(graph) for of, graph in self.graphs if of == scope]
            for graph, content in self._scope_graphs(scope, names) if names else ():
                self._put("graph", numbers[scope, graph], content)

    def _scope_graphs(self, scope: str, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        criterion = self.tables.criterion
        rows = {
            name: rows_by_graph(self.tables.table(name, [("scope", "=", scope)]), scope, names, criterion)
            for name in ("nodes", "edges", "heatmaps")
        }
        own = [("scope", "=", scope)]
        used = used_words(self.tables.table("effects", own), self.tables.table("completeness", own), criterion)
        for graph, choices in self._choices(scope, names, rows):
            heats = rows["heatmaps"][graph].to_pylist()
            top = [level[: choices.top] for level in choices.ranked[choices.tops.index(choices.top)]]
            for layer, words, kept in zip(choices.layers[1:], choices.words[1:], top[1:], strict=True):
                shown = words if self._number_of_words() <= MOST_WORDS else [words[place] for place in kept]
                self._candidates |= {(scope, layer, word) for word in shown}
            about = self._about(scope, graph, rows["nodes"][graph])
            sure = how_sure(rows["nodes"][graph], rows["edges"][graph]) | {"used": used.get(graph)}
            yield graph, graph_chunk(choices, heats, about | sure)

    def _choices(self, scope: str, names: list[str], rows: dict[str, Any]) -> Iterator[tuple[str, GraphChoices]]:
        run = self.run
        # Of words by effect the tables say which were chosen; what another Z would choose they do not.
        if self.tables.criterion == LIKELIHOOD and has_counts(run.folder, run.plan, scope):
            counted = ScopeCounts.load(run.folder, run.settings, run.plan, scope)
            yield from graph_choices(counted, run.settings, self.tables.images, names)
            return
        layers = [OUTPUT, *(pair.lower for pair in run.plan.pairs())]
        for name in names:
            yield name, choices_of_tables(rows["nodes"][name], rows["edges"][name], run.settings.mine.top, layers)

    def _about(self, scope: str, name: str, nodes: pa.Table) -> dict[str, Any]:
        graph = GraphId.parse(name)
        root = nodes.filter(pc.equal(nodes["layer"], OUTPUT))
        about = {"scope": scope, "graph": name, "omega": root["positions"][0].as_py()}
        if not graph.is_image:
            return about
        record = self.run.image(graph.number)
        known = {"path": record.path, "split": record.split, "label": record.label, "predicted": record.predicted}
        chance = record.probability
        return {**about, **known, "probability": chance}

    def _read_pictures(self) -> None:
        """Tiles of all exemplars and photos of all image graphs, each image read once."""
        exemplars = self.tables.table("exemplars", (), ["scope", "layer", "word", "image"])
        words = exemplars.group_by(["scope", "layer", "word"]).aggregate([])
        side = SIDES[len(words) > FEW_WORDS]
        shown = {graph.number for _, graph in self.graphs if graph.is_image} | set(wrong_paths(self.tables))
        needed = np.unique([*exemplars["image"].to_pylist(), *shown]).astype(int).tolist()
        with SitePictures(self.run.settings, self.run.folder) as pictures:
            for image, picture in pictures.read(needed):
                if picture is not None:
                    self._tiles[image] = tile(picture, side)
                    if image in shown:
                        self._photos.append(image)
                        self._put("photo", image, webp(tile(picture, PHOTO)))
        if pictures.absent:
            self.tables.missing.append((f"{pictures.absent} pictures", pictures.reason))

    def _write_words(self, scope: str) -> None:
        words: ScopeWords = read_scope_words(self.tables, scope)
        plan = self.run.plan
        for layer in plan.layers:
            for word in self.words.shown(scope, layer.name):
                key, size = (layer.name, word), (plan.input_height, plan.input_width)
                content = word_chunk(words, key, scope, self._tiles, size)
                self._put("word", self.words.number(scope, layer.name, word), content)
                self.word_count += 1

    def _write_thumbnails(self) -> None:
        """The most typical image of every class, a hundred classes a chunk."""
        own = [("layer", "=", OUTPUT), ("rank", "=", 0)]
        rows = self.tables.table("exemplars", own, ["word", "image"])
        images = dict(zip(rows["word"].to_pylist(), rows["image"].to_pylist(), strict=True))
        classes = range(len(self.run.plan.class_names))
        for number, first in enumerate(range(0, len(classes), SHEET)):
            part = [self._tiles.get(images.get(label, -1)) for label in classes[first : first + SHEET]]
            small = [None if one is None else tile(one, THUMBNAIL) for one in part]
            self._put("thumbs", number, {"sheet": sheet(small, 10)})

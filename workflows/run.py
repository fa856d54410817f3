"""The front door to what a run has made: ``open_run("runs/digits").graph("class:3")``.

Reads only; images in, graphs out is ``inference-graphs run``. The tables are described in infra/tables.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from workflows.errors import DataError, RunFolderError
from workflows.networks.naming import shortened
from workflows.plan.requests import class_id
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.settings import Settings
from workflows.storage.graphs import graph_item, graph_names, load_graph, scoped_graphs
from workflows.storage.images_table import read_image_rows
from workflows.storage.labels import WordNames, read_labels
from workflows.storage.names import JOINT, GraphId
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import SCHEMAS, read_table

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class ImageRecord:
    """A row of images.parquet.

    Attributes:
        image: its id, the place of the row.
        path: file, ``file.parquet#row``, or ``digits#i``.
        split: ``train`` (S_T) or ``validation`` (S_V).
        label, label_name: true class; None without labels.
        predicted, predicted_name, probability: what the network says, with its softmax probability; None before the
            extract stage, and where the picture is broken.
        status: ``indexed`` (not read yet), ``ok`` or ``broken``.
        reason: why it is broken, else None.
    """

    image: int
    path: str
    split: str
    label: int | None
    label_name: str | None
    predicted: int | None
    predicted_name: str | None
    probability: float | None
    status: str
    reason: str | None


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder, open for reading; see ``open_run``.

    Attributes:
        folder: paths of its artefacts.
        settings: it was started with.
        plan: its layers, classes and numbers of images.
    """

    folder: RunFolder
    settings: Settings
    plan: Plan

    def __repr__(self) -> str:
        layers = ", ".join(self.layers())
        return (
            f"Run({str(self.folder.root)!r}: network {self.settings.name}, {self.plan.images:,} images of "
            f"{len(self.plan.class_names)} classes, layers {layers})"
        )

    def classes(self) -> tuple[str, ...]:
        """Name of every class; its place is the id that tables use."""
        return self.plan.class_names

    def layers(self) -> tuple[str, ...]:
        """Canonical names of the modelled layers, lowest first."""
        return tuple(layer.name for layer in self.plan.layers)

    def scopes(self) -> tuple[str, ...]:
        """Whose dictionaries there are: ``joint``, ``class-<id>``, ``list-<name>``."""
        return (self.folder.scope_names() if self.settings.hmm is None else ()) or (JOINT,)

    def graphs(self, scope: str | None = None, criterion: str | None = None) -> tuple[str, ...]:
        """Names of the graphs of a scope, such as ``class:3`` and ``image:20417``; without one, of all scopes.

        Args:
            scope: None: all.
            criterion: see ``criterion``.

        Raises:
            DataError: there is no such scope or criterion. RunFolderError: no graph is mined yet.
        """
        criterion = self.criterion(criterion)
        if scope is None:
            return tuple(dict.fromkeys(graph for _, graph in scoped_graphs(self.folder.root, criterion)))
        return tuple(graph_names(self.folder.root, self._known_scope(scope), criterion))

    def criterion(self, asked: str | None = None) -> str:
        """What the words of a graph are chosen by: ``likelihood`` or ``effect``; None: the first that the run has.

        Raises:
            DataError: the run has no graphs by it.
        """
        known = self.settings.mine.criteria
        if asked is not None and asked not in known:
            raise DataError(
                f"criterion: must be {' or '.join(known)}, by which the run has graphs, got {asked!r}; run it again "
                "with --set mine.criterion=both"
            )
        return known[0] if asked is None else asked

    def graph(self, name: str, scope: str | None = None, criterion: str | None = None) -> nx.DiGraph:
        """An inference graph, to ask, or to write: ``nx.write_graphml(run.graph("class:3"), "three.graphml")``.

        Args:
            name: ``class:<id or name>`` or ``image:<id>``.
            scope: whose dictionaries explain it; see ``scope_of``.
            criterion: what its words are chosen by; see ``criterion``.

        Returns:
            Nodes keyed (layer, word), edges from the upper word to the lower; see
            ``workflows.storage.graphs.to_networkx``.

        Raises:
            DataError: no such class, image, scope or criterion. RunFolderError: the run has no such graph.
        """
        graph = self.graph_id(name)
        return load_graph(self.folder.root, graph, self.scope_of(graph, scope), self.criterion(criterion))

    def words(self, layer: str | None = None, scope: str | None = None) -> pa.Table:
        """Rows of words.parquet: how frequent each word is, and which class dominates it.

        Args:
            layer: canonical name, the name that the preset gives, or ``output``, whose words are the classes; None: all
                layers.
            scope: None: all scopes.

        Raises:
            DataError: no such layer or scope. RunFolderError: the words are not counted yet.
        """
        filters: list[tuple[str, str, Any]] = []
        if layer is not None:
            filters.append(("layer", "=", self._known_layer(layer)))
        if scope is not None:
            filters.append(("scope", "=", self._known_scope(scope)))
        return read_table(self.folder.table("words"), filters=filters or None)

    def word_names(self, scope: str = JOINT) -> WordNames:
        """Names that users gave words in labels.csv: (layer, word) -> name.

        Raises:
            DataError: the file is damaged.
        """
        return read_labels(self.folder, scope, {layer.given: layer.name for layer in self.plan.layers})

    def image(self, image: int) -> ImageRecord:
        """What is known of an image.

        Raises:
            DataError: there is no such image.
        """
        self._known_image(image)
        names = [field.name for field in fields(ImageRecord)]
        (row,) = read_image_rows(self.folder.images_table, image, image + 1, names).to_pylist()
        return ImageRecord(**row)

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filters: Sequence[tuple[str, str, Any]] | None = None,
    ) -> pa.Table:
        """A table of the run, by the name of its file without ``.parquet``; see ``infra/tables.md``.

        Args:
            name: such as ``nodes``.
            columns: None reads all.
            filters: (column, operator, value), all of which must hold; they skip what they can.

        Raises:
            DataError: there is no table of that name. RunFolderError: the run has not written it.
        """
        if name not in SCHEMAS:
            raise DataError(f"table: must be one of infra/tables.md, got {name!r}; {_offer(name, list(SCHEMAS))}")
        return read_table(self.folder.existing_table(name), columns, filters)

    def figure(self, name: str, scope: str | None = None, criterion: str | None = None) -> Path:
        """Where the figure of a graph is, drawn or not."""
        graph = self.graph_id(name)
        return self.folder.figure(graph_item(graph, self.criterion(criterion)), "png", self.scope_of(graph, scope))

    def graph_id(self, name: str) -> str:
        """``class:<id>`` or ``image:<id>``, as tables have it, of a graph given by the class's name or id.

        Raises:
            DataError: it is neither, or there is no such class or image.
        """
        kind, _, of = name.partition(":")
        if kind == "class":
            return str(GraphId("class", class_id(of, self.plan.class_names, "class")))
        if kind != "image" or not of.isdecimal():
            raise DataError(f"graph: must be class:<id or name> or image:<id>, got {name!r}; graphs() lists them")
        self._known_image(int(of))
        return name

    def scope_of(self, graph: str, asked: str | None = None) -> str:
        """Whose dictionaries explain a graph, where none are asked for.

        `joint` if the run has it, else the own scope of the class or of the image's prediction, else the first list
        that has the graph.

        Raises:
            DataError: the scope that is asked for does not exist. RunFolderError: no scope has the graph.
        """
        if asked is not None:
            return self._known_scope(asked)
        names = self.scopes()
        for name in (JOINT, f"class-{self._label(graph)}"):
            if name in names:
                return name
        mined = [scope for scope, known in scoped_graphs(self.folder.root, self.criterion()) if known == graph]
        if not mined and len(names) > 1:
            raise RunFolderError(
                f"none of the {len(names)} scopes of the run ({shortened(list(names))}) has the graph {graph}: ask for "
                "it with mine.classes or mine.images; a class that cannot have a scope of its own is named before the "
                "run fits, and has a graph in scope joint (fit.scopes) only"
            )
        return mined[0] if mined else names[0]

    def _label(self, graph: str) -> int | None:
        """The class that a graph explains; None where the picture is broken."""
        explained = GraphId.parse(graph)
        return self.image(explained.number).predicted if explained.is_image else explained.number

    def _known_image(self, image: int) -> None:
        if not 0 <= image < self.plan.images:
            raise DataError(f"image {image} is no image of this run; ids run from 0 to {self.plan.images - 1}")

    def _known_layer(self, layer: str) -> str:
        names = {one.given: one.name for one in self.plan.layers} | {name: name for name in (*self.layers(), OUTPUT)}
        if layer not in names:
            raise DataError(f"layer: the run does not model {layer!r}; {_offer(layer, list(names))}")
        return names[layer]

    def _known_scope(self, scope: str) -> str:
        if scope not in self.scopes():
            raise DataError(f"scope: the run has no scope {scope!r}; {_offer(scope, list(self.scopes()))}")
        return scope


def open_run(path: Path | str) -> Run:
    """The run in a folder, for reading.

    Raises:
        RunFolderError: there is no run, one of another version, or one that is not indexed yet.
    """
    folder = RunFolder.open(Path(path).expanduser())
    return Run(folder, folder.settings(), Plan.read(folder))


def _offer(asked: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(asked, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names[:10])}"

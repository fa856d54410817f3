"""From the Parquet tables of a run to the records that a figure shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from workflows.errors import RunFolderError
from workflows.report.graph_view import (
    OUTPUT,
    EdgeView,
    ExemplarView,
    GraphView,
    ImageView,
    NodeKey,
    NodeView,
    WordMap,
)
from workflows.report.pictures import PictureFolder
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.labels import WordNames
from workflows.storage.names import GraphId
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


@dataclass(frozen=True)
class GraphTables:
    """The tables of a run that a graph is drawn from; the last three may be absent."""

    nodes: pa.Table
    edges: pa.Table
    exemplars: pa.Table
    heatmaps: pa.Table | None = None
    images: pa.Table | None = None
    concepts: pa.Table | None = None


def build_graph_view(
    tables: GraphTables,
    graph: str,
    *,
    scope: str,
    network: str,
    class_names: Sequence[str],
    criterion: str = LIKELIHOOD,
    pictures: PictureFolder | None = None,
    exemplars: int = 6,
    word_maps: Mapping[str, WordMap] | None = None,
    layer_titles: Mapping[str, str] | None = None,
    code_edges: bool = False,
    names: WordNames | None = None,
) -> GraphView:
    """Join everything that one graph shows.

    Args:
        tables: tables of a run.
        graph: ``class:<id>`` or ``image:<id>``.
        scope: scope of the dictionaries.
        network: name of the run, for the heading.
        class_names: name of every class id.
        criterion: what the words are chosen by.
        pictures: saved pictures; without them the view serves the terminal only.
        exemplars: thumbnails of a word; a word with fewer distinct images repeats some, marked.
        word_maps: for an image graph, the image's hard words of each layer: the red dots.
        layer_titles: shorter names of layers (aliases).
        names: what users call words, see ``workflows.storage.labels``.
        code_edges: draw the edges of the class node whatever their log ratio, as the authors' code does.

    Raises:
        RunFolderError: the graph is not in the tables, or they contradict each other.
    """
    key = {"graph": graph, "scope": scope, "criterion": criterion}
    nodes, edges = _node_rows(tables.nodes, key), _rows(tables.edges, **key)
    thumbnails = _thumbnails(tables.exemplars, scope, nodes, exemplars, class_names, pictures)
    named = concept_names(tables.concepts, scope)
    views = {
        (row["layer"], row["word"]): _node_view(row, thumbnails, word_maps or {}, class_names, named, names or {})
        for row in nodes
    }
    heats = _heats(tables.heatmaps, key)
    root = [row["word"] for row in nodes if row["layer"] == OUTPUT]
    try:
        return GraphView(
            graph=graph,
            scope=scope,
            network=network,
            class_name=_name(root[0], class_names) if root else "",
            layers=_layers(views),
            edges=tuple(_edge_view(row, heats, code_edges) for row in edges),
            omega=_omega(tables.images, graph),
            image=_image_view(tables.images, graph, class_names, pictures),
            layer_titles=dict(layer_titles or {}),
            criterion=criterion,
        )
    except ValueError as error:
        raise RunFolderError(f"nodes and edges do not fit together: {error}; run the mine stage again") from None


def _rows(table: pa.Table, **keys: str) -> list[dict[str, Any]]:
    for column, value in keys.items():
        table = table.filter(pc.equal(table[column], value))
    return list(table.to_pylist())


def _node_rows(table: pa.Table, key: dict[str, str]) -> list[dict[str, Any]]:
    nodes = _rows(table, **key)
    if not nodes:
        others = _rows(table, scope=key["scope"], criterion=key["criterion"])
        known = sorted({row["graph"] for row in others})
        raise RunFolderError(
            f"graph {key['graph']!r} of scope {key['scope']!r} is not in the nodes table; {_offer(known)}"
        )
    return nodes


def _offer(known: Sequence[str]) -> str:
    if not known:
        return "it holds no graph of this scope: run the mine stage"
    return f"it holds {', '.join(known[:12])}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")


def _name(class_id: int | None, class_names: Sequence[str]) -> str:
    if class_id is None or class_id < 0:
        return ""
    return class_names[class_id] if class_id < len(class_names) else f"class {class_id}"


def _layers(views: Mapping[NodeKey, NodeView]) -> tuple[tuple[NodeView, ...], ...]:
    """Layers in the order of the nodes table, which lists a graph from the output down; nodes in rank order.

    Not by following the edges: chosen words that are absent from Omega have none (IG Algorithm 1 keeps the best Z
    whatever their score).
    """
    names = dict.fromkeys(view.layer for view in views.values())
    return tuple(
        tuple(sorted((view for view in views.values() if view.layer == name), key=lambda view: (view.rank, view.word)))
        for name in names
    )


def _node_view(
    row: dict[str, Any],
    thumbnails: Mapping[NodeKey, tuple[ExemplarView, ...]],
    word_maps: Mapping[str, WordMap],
    class_names: Sequence[str],
    named: Mapping[NodeKey, tuple[str, float]],
    names: WordNames,
) -> NodeView:
    layer, word = row["layer"], row["word"]
    concept, iou = named.get((layer, word), ("", 0.0))
    return NodeView(
        layer=layer,
        word=word,
        rank=row["rank"],
        score=_number(row["score"]),
        positions=row["positions"] or 0,
        share=_number(row["share"]),
        dominant_class=_name(row["dominant_class"], class_names),
        dominant_share=_number(row["dominant_share"]),
        exemplars=thumbnails[layer, word],
        dots=word_maps[layer].dots(word) if layer in word_maps else None,
        concept=concept,
        iou=iou,
        name=names.get((layer, word), ""),
        chosen_again=row.get("chosen_again"),  # tables of earlier runs have no such column
    )


def concepts_of(folder: RunFolder, scope: str) -> pa.Table | None:
    """Rows of word_concepts of a scope; None where the study dissect has not been asked."""
    path = folder.table("word_concepts")
    return read_table(path, filters=[("scope", "=", scope), ("rank", "=", 0)]) if path.exists() else None


def concept_names(table: pa.Table | None, scope: str) -> dict[NodeKey, tuple[str, float]]:
    """What words cover best, and the IoU, from word_concepts."""
    rows = [] if table is None else _rows(table, scope=scope)
    return {(row["layer"], row["word"]): (row["concept"], row["iou"]) for row in rows if row["rank"] == 0}


def _edge_view(
    row: dict[str, Any], heats: Mapping[tuple[NodeKey, NodeKey], Float[np.ndarray, "H W"]], code_edges: bool
) -> EdgeView:
    upper, lower = (row["upper_layer"], row["upper_word"]), (row["lower_layer"], row["lower_word"])
    always = code_edges and row["upper_layer"] == OUTPUT
    return EdgeView(
        upper=upper,
        lower=lower,
        count=row["count"],
        relative_frequency=row["relative_frequency"],
        log_ratio=row["log_ratio"],
        score=row["score"],
        drawn="weak" if always and row["drawn"] == "hidden" else row["drawn"],
        heat=heats.get((upper, lower)),
        low=row.get("log_ratio_low"),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _thumbnails(
    table: pa.Table,
    scope: str,
    nodes: Sequence[dict[str, Any]],
    wanted: int,
    class_names: Sequence[str],
    pictures: PictureFolder | None,
) -> dict[NodeKey, tuple[ExemplarView, ...]]:
    """The exemplars of each node, by rank."""
    layers = pa.array(sorted({row["layer"] for row in nodes}), type=pa.string())
    words = pa.array(sorted({row["word"] for row in nodes}), type=table.schema.field("word").type)
    near = pc.and_(pc.is_in(table["layer"], value_set=layers), pc.is_in(table["word"], value_set=words))
    found: dict[NodeKey, list[dict[str, Any]]] = {(row["layer"], row["word"]): [] for row in nodes}
    for row in _rows(table.filter(near), scope=scope):
        if (row["layer"], row["word"]) in found:
            found[row["layer"], row["word"]].append(row)
    return {
        key: _exemplar_views(sorted(rows, key=lambda row: row["rank"]), wanted, class_names, pictures)
        for key, rows in found.items()
    }


def _exemplar_views(
    rows: Sequence[dict[str, Any]], wanted: int, class_names: Sequence[str], pictures: PictureFolder | None
) -> tuple[ExemplarView, ...]:
    """``wanted`` exemplars; fewer rows start again from the first, and an image shown again is marked."""
    seen: set[int] = set()
    views = []
    for row in [rows[index % len(rows)] for index in range(wanted)] if rows else []:
        views.append(
            ExemplarView(
                image=row["image"],
                label=_name(row["label"], class_names),
                rectangle=(row["x0"], row["y0"], row["x1"], row["y1"]),
                picture=pictures.read(row["image"]) if pictures is not None else None,
                repeated=row["image"] in seen,
            )
        )
        seen.add(row["image"])
    return tuple(views)


def _heats(table: pa.Table | None, key: dict[str, str]) -> dict[tuple[NodeKey, NodeKey], Float[np.ndarray, "H W"]]:
    """Heat map of each edge: counts over how often the offset was inside the map."""
    heats = {}
    for row in _rows(table, **key) if table is not None else []:
        counts = np.asarray(row["counts"], dtype=np.float64).reshape(row["height"], row["width"])
        inside = np.asarray(row["inside"], dtype=np.float64).reshape(row["height"], row["width"])
        edge = (row["upper_layer"], row["upper_word"]), (row["lower_layer"], row["lower_word"])
        heats[edge] = np.divide(counts, inside, out=np.full_like(counts, np.nan), where=inside > 0)
    return heats


def _omega(images: pa.Table | None, graph: str) -> int | None:
    """How many validation images are predicted as the class of a class graph."""
    explained = GraphId.parse(graph)
    if images is None or explained.is_image:
        return None
    chosen = pc.and_(pc.equal(images["split"], "validation"), pc.equal(images["predicted"], explained.number))
    return int(pc.sum(pc.fill_null(chosen, False)).as_py() or 0)


def _image_view(
    images: pa.Table | None, graph: str, class_names: Sequence[str], pictures: PictureFolder | None
) -> ImageView | None:
    explained = GraphId.parse(graph)
    if not explained.is_image:
        return None
    image = explained.number
    found = images.filter(pc.equal(images["image"], image)).to_pylist() if images is not None else []
    if not found:
        raise RunFolderError(f"image {image} of graph {graph!r} is not in the images table")
    return ImageView(
        image=image,
        true_name=_name(found[0]["label"], class_names),
        predicted_name=_name(found[0]["predicted"], class_names),
        probability=_number(found[0]["probability"]),
        picture=pictures.read(image) if pictures is not None else None,
    )

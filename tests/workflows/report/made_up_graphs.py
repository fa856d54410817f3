"""Made-up words on real or generated pictures, as the tables of a run hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from workflows.report.graph_view import WordMap
from workflows.report.pictures import picture_path
from workflows.report.view_tables import GraphTables
from workflows.storage.schemas import SCHEMAS

CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RESNET_LAYERS = ("layer1.1.add", "layer2.0.add", "layer2.2.add", "layer3.1.add", "layer3.2.add", "layer4.0.add")


def generated_pictures(count: int, side: int, seed: int = 0) -> list[np.ndarray]:
    """Soft coloured gradients: no two alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [rng.uniform(0, 6, (3, 3)) for _ in range(count)]
    return [
        np.stack([127 + 127 * np.sin(a * x * 3 + b * y * 3 + c) for a, b, c in wave], axis=2).astype(np.uint8)
        for wave in waves
    ]


def save_pictures(folder: Path, pictures: Sequence[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image, picture in enumerate(pictures):
        Image.fromarray(picture).save(picture_path(folder, image))


def made_up_tables(
    labels: Sequence[int],
    side: int,
    *,
    n_layers: int = 4,
    top: int = 3,
    graph: str = "class:3",
    class_names: Sequence[str] = CIFAR_NAMES,
    seed: int = 0,
    log_ratios: tuple[float, float] = (0.9, 1.3),
    distinct: int = 6,
    heat: bool = True,
    unsure: bool = False,
) -> GraphTables:
    """A complete graph of ``top`` words in each of ``n_layers`` layers, with ``distinct`` exemplars a word.

    ``unsure``: with intervals of 0.8 bits either way, and words of which the last of a layer is rarely chosen again.
    """
    rng = np.random.default_rng(seed)
    layers = RESNET_LAYERS[:n_layers][::-1]
    words = {layer: sorted(rng.choice(100, top, replace=False).tolist()) for layer in layers}
    root = int(graph.split(":")[1]) if graph.startswith("class:") else 3
    key = {"graph": graph, "scope": "joint", "criterion": "likelihood"}
    nodes = [_node(key, "output", root, 0, root, rng)]
    for layer in layers:
        nodes += [
            _node(key, layer, word, i, int(rng.integers(len(class_names))), rng) for i, word in enumerate(words[layer])
        ]
    edges, heats = [], []
    above = [("output", root)]
    for layer in layers:
        for s_layer, s in above:
            shares = rng.dirichlet(np.ones(3 * top))
            for t, share in zip(words[layer], shares, strict=False):
                ends = {"upper_layer": s_layer, "upper_word": s, "lower_layer": layer, "lower_word": t}
                bits = float(rng.normal(*log_ratios))
                drawn = "hidden" if bits <= 0 else "weak" if bits <= 1 else "strong"
                count = int(share * 9000) + 1
                edges.append(
                    {**key, **ends, "count": count, "relative_frequency": share, "log_ratio": bits, "drawn": drawn}
                    | {"score": count * bits}
                    | ({"log_ratio_low": bits - 0.8, "log_ratio_high": bits + 0.8, "images": 9} if unsure else {})
                )
                heats.append({**key, **ends, **_heat(rng, 8 if s_layer == "output" else 11)})
        above = [(layer, word) for word in words[layer]]
    for row in nodes[1:] if unsure else ():
        row["chosen_again"] = 0.31 if row["rank"] == top - 1 else 0.93
    exemplars = _exemplars([("output", root)], labels, side, rng, distinct, side, root)
    for depth, layer in enumerate(layers):
        size = max(5, round(side * (1.2, 0.8, 0.45, 0.25, 0.15, 0.1)[depth]))
        exemplars += _exemplars([(layer, word) for word in words[layer]], labels, side, rng, distinct, size, None)
    images = [
        {"image": i, "path": f"{i}", "split": "validation" if i % 4 == 0 else "train", "label": int(label)}
        | {"label_name": class_names[label], "predicted": root, "predicted_name": class_names[root]}
        | {"probability": 0.87, "status": "ok"}
        for i, label in enumerate(labels)
    ]
    return GraphTables(
        nodes=pa.Table.from_pylist(nodes, SCHEMAS["nodes"]),
        edges=pa.Table.from_pylist(edges, SCHEMAS["edges"]),
        exemplars=pa.Table.from_pylist(exemplars, SCHEMAS["exemplars"]),
        heatmaps=pa.Table.from_pylist(heats, SCHEMAS["heatmaps"]) if heat else None,
        images=pa.Table.from_pylist(images, SCHEMAS["images"]),
    )


def made_up_word_maps(tables: GraphTables, side: int, seed: int = 0) -> dict[str, WordMap]:
    """Word maps of one image in which the graph's words are frequent."""
    rng = np.random.default_rng(seed)
    chosen: dict[str, list[int]] = {}
    for row in tables.nodes.to_pylist():
        chosen.setdefault(row["layer"], []).append(row["word"])
    maps = {}
    for depth, layer in enumerate(name for name in chosen if name != "output"):
        positions = min(8 * 2 ** (depth // 2), side)
        words = rng.choice([*chosen[layer], 998, 999], (positions, positions))
        centres = (np.arange(positions) + 0.5) * side / positions
        maps[layer] = WordMap(words, centres, centres)
    return maps


def _node(key: Mapping[str, str], layer: str, word: int, rank: int, dominant: int, rng: np.random.Generator) -> dict:
    share = float(rng.uniform(0.01, 0.4))
    numbers = {"score": 1000.0 / (rank + 1), "positions": int(share * 5000), "share": share}
    return {**key, "layer": layer, "word": word, "rank": rank, **numbers} | {
        "dominant_class": dominant,
        "dominant_share": float(rng.uniform(0.15, 0.99)),
    }


def _heat(rng: np.random.Generator, side: int) -> dict:
    y, x = np.mgrid[0:side, 0:side]
    cy, cx = rng.uniform(0, side, 2)
    rate = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (side * rng.uniform(0.5, 3)))
    inside = np.full((side, side), 1000)
    inside[0, :2] = 0
    counts = rng.binomial(inside, np.clip(rate, 0, 1))
    flat = {"counts": counts.ravel().tolist(), "inside": inside.ravel().tolist()}
    return {"height": side, "width": side, "row_offset": -(side // 2), "column_offset": -(side // 2), **flat}


def _exemplars(keys, labels, side, rng, distinct, size, wanted_label) -> list[dict]:
    rows = []
    labels = np.asarray(labels)
    pool = np.flatnonzero(labels == wanted_label) if wanted_label is not None else np.arange(len(labels))
    pool = pool if len(pool) >= distinct else np.arange(len(labels))
    for layer, word in keys:
        for rank, image in enumerate(rng.choice(pool, distinct, replace=False)):
            x0, y0 = (int(v) for v in rng.integers(-size // 3, max(side - size, 1) + size // 3, 2))
            if size >= side:
                x0 = y0 = (side - size) // 2
            rows.append(
                {"scope": "joint", "layer": layer, "word": word, "rank": rank, "image": int(image), "y": 0, "x": 0}
                | {"posterior": 1.0, "log_joint": -3.0, "x0": x0, "y0": y0, "x1": x0 + size, "y1": y0 + size}
                | {"label": int(labels[image])}
            )
    return rows

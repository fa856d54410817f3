"""What breaks without some units: asks the run, writes the tables, draws the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from gmm_ops.units.ablation import AblationTally, UnitMeans
from workflows.asking.image_parts import Phase
from workflows.asking.study import Asked, StudyContext, open_study, refuse_without_outputs
from workflows.asking.unit_tables import why_old
from workflows.errors import RunFolderError
from workflows.networks.unit_layers import UnitNetwork, split_units
from workflows.plan.requests import chosen_classes
from workflows.report.ablation_figure import Curve, draw_ablation_figure
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.studies.ablate.ablations import AblateRequest, Ablation, plan_ablations, word_of
from workflows.studies.ablate.rows import MeanOverClasses, ablation_rows, means_over_classes, unit_class_rows
from workflows.studies.ablate.worker import AblateWorker, Means, MeansWorker

ABLATE = "ablate"

MEAN_IMAGES = 2000
"""Training images that means are over at most; a unit's mean over them is known to a fiftieth of its deviation."""

RELEVANCE = "relevance"
_READS = {"relevance": RELEVANCE, "specific": RELEVANCE, "activation": RELEVANCE, "dissect": "unit_concepts"}
"""The table that a ranking reads; ``word:...`` reads word_units."""


def run_ablate(asked: Asked, request: AblateRequest) -> dict[str, Any]:
    """Write ablations.parquet, unit_classes.parquet and the figures.

    Returns:
        The summary.

    Raises:
        RunError: as ``open_study``; a class that no image carries, a table or a layer that is not there.
    """
    refuse_without_outputs(asked.run().settings, ABLATE, "tells what the network decides without some units")
    plain = {
        "classes": sorted(request.classes),
        "rankings": list(request.rankings),
        "layers": list(request.layers),
        "replacements": list(request.replacements),
        "shares": list(request.shares),
    }
    reads = tables_read(asked.run().folder, request)
    with open_study(ABLATE, asked, plain, after="extract", reads=reads) as study:
        plan, settings = study.plan, study.settings
        shape = settings.preprocessing.channels, plan.input_height, plan.input_width
        network = UnitNetwork.load(settings.network, plan.weights, shape, plan.rewriting)
        classes = _classes(study, request)
        if RELEVANCE in map(_table_of, request.rankings):
            _refuse_same_images(study)
        _tell_same_images(study, request)
        names = {label: plan.class_names[label] for label in classes}
        ablations = plan_ablations(study.folder, network, request, names, settings.seed)
        means, tests = _phases(study, network, ablations, classes)
        if study.begin(*(phase for phase in (means, tests) if phase is not None)):
            _work(study, network, ablations, classes, means, tests)
        _draw(study, request)
    return study.summary()


def tables_read(folder: RunFolder, request: AblateRequest) -> list[str]:
    """Tables of other studies that the answer stands on, where they are; unit_classes always reads relevance."""
    return sorted(table for table in {*map(_table_of, request.rankings), RELEVANCE} if folder.table(table).exists())


def _table_of(ranking: str) -> str:
    return _READS[ranking] if word_of(ranking) is None else "word_units"


def _classes(study: StudyContext, request: AblateRequest) -> list[int]:
    images = ImageColumns.read(study.folder, 0, study.plan.images)
    tested = (images.predicted >= 0) & (np.arange(study.plan.images) >= study.plan.train_images)
    return chosen_classes(request.classes, study.plan.class_names, np.where(tested, images.classes, -1))[0]


def _refuse_same_images(study: StudyContext) -> None:
    """Units that are ranked on the images that they are tested on break more than they should."""
    path = study.folder.table(RELEVANCE)
    splits = set(read_table(path, ["split"])["split"].unique().to_pylist()) if path.exists() else {"train"}
    if splits - {"train"}:
        raise RunFolderError(
            f"relevance: must be of training images (S_T), for units are tested on validation images, got "
            f"{', '.join(sorted(splits))}; ask relevance again with --split train"
        )


def _tell_same_images(study: StudyContext, request: AblateRequest) -> None:
    """Of the studies that rank, dissect alone looks at images of both splits together."""
    rankings = [one for one in request.rankings if one == "dissect" or word_of(one) is not None]
    if rankings:
        study.say(
            f"ablate: units are ranked by {', '.join(rankings)} on all images that dissect looked at, training and "
            "validation; validation images test them, so some may both choose units and test them"
        )


def _phases(
    study: StudyContext, network: UnitNetwork, ablations: Sequence[Ablation], classes: Sequence[int]
) -> tuple[Phase | None, Phase]:
    layers = _layers(ablations)
    by_mean = any(one.silencing.by_mean for one in ablations)
    units = sum(network.layers[name].units for name in layers)
    limit = min(study.asked.images or MEAN_IMAGES, MEAN_IMAGES)
    means = Phase("means", study.choose_images("train", limit=limit), 1.0, 16 * units) if by_mean else None
    first = [min(one.silencing.layers, key=lambda name: network.layers[name].depth) for one in ablations]
    passes = 1.0 + sum(network.share_behind(name) for name in first)
    tested = study.choose_images("validation", classes=classes)
    tests = Phase("tests", tested, passes, 16 * len(ablations) * len(study.plan.class_names))
    return means, tests


def _layers(ablations: Sequence[Ablation]) -> list[str]:
    return list(dict.fromkeys(name for one in ablations for name in one.silencing.layers))


def _work(
    study: StudyContext,
    network: UnitNetwork,
    ablations: Sequence[Ablation],
    classes: Sequence[int],
    means: Phase | None,
    tests: Phase,
) -> None:
    layers = _layers(ablations)
    instead: Means = {}
    if means is not None:
        mean = study.map_parts(means, MeansWorker, layers=layers).sum(UnitMeans).mean
        places = split_units([network.layers[name] for name in layers])
        instead = {layer.name: mean[place].numpy() for layer, place in places}
    silencings = [one.silencing for one in ablations]
    tally = study.map_parts(tests, AblateWorker, silencings=silencings, means=instead).sum(AblationTally)
    names = study.plan.class_names
    study.write_table("ablations", list(ablation_rows(ablations, tally, classes, names)))
    study.write_table("unit_classes", list(unit_class_rows(_relevance(study), names)))
    study.tell(
        interventions=len(ablations),
        passes_an_image=round(tests.passes, 1),
        tested_images=len(tests.images),
        accuracy=float(tally.right.sum() / tally.images.sum()),
    )


def _relevance(study: StudyContext) -> dict[str, list[Any]]:
    """Columns of the table of relevance; without a row where there is none, or an old one."""
    path = study.folder.table(RELEVANCE)
    nothing: dict[str, list[Any]] = {"layer": [], "class": []}
    if not path.exists():
        return nothing
    old = why_old(study.folder, RELEVANCE)
    if old is not None:
        study.say(f"ablate: unit_classes is left empty, for {old}; ask relevance again, then ablate with --anew")
        return nothing
    return read_table(path, ["class", "layer", "depth", "unit", "share", "signed"]).to_pydict()


def _draw(study: StudyContext, request: AblateRequest) -> None:
    """What is made of the tables alone: figures and the terminal."""
    rows = means_over_classes(read_table(study.folder.table("ablations")).to_pylist())
    pooled = [row for row in rows if row["layers"] in ("all", "scored")]
    single = [row for row in rows if row["layers"] not in ("all", "scored")]
    if pooled:
        png, svg = study.figure("png"), study.figure("svg")
        draw_ablation_figure(_curves(pooled, "share"), png, svg, network=study.settings.name, over="share")
    if single:
        png, svg = study.figure("png", "layers"), study.figure("svg", "layers")
        widest = max(row["share"] for row in single)
        some = [row for row in single if row["share"] == widest]
        draw_ablation_figure(
            _curves(some, "layers"), png, svg, network=study.settings.name, over="layers", share=widest
        )
    widest = max(request.shares)
    study.asked.console.print(_table([*pooled, *(row for row in single if row["share"] == widest)]))


def _curves(rows: Sequence[Mapping[str, Any]], over: str) -> list[Curve]:
    """A line for each replacement, ranking and selection."""
    keys = dict.fromkeys((row["replaced_by"], row["ranking"], row["selection"]) for row in rows)
    found = []
    for replaced_by, ranking, selection in keys:
        own = [
            row
            for row in rows
            if (row["replaced_by"], row["ranking"], row["selection"]) == (replaced_by, ranking, selection)
        ]
        found.append(
            Curve(
                replaced_by,
                ranking,
                selection,
                tuple(row[over] for row in own),
                {whose: tuple(_triple(row[f"{whose}_accuracy"]) for row in own) for whose in ("own", "others")},
                {whose: own[0][f"{whose}_before"] for whose in ("own", "others")},
            )
        )
    return found


def _triple(value: MeanOverClasses) -> tuple[float, float, float]:
    return value.mean, value.low, value.high


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracies, those of the plain network in the heading: "own .84 [.70, .99]"."""
    before = {whose: _short(rows[0][f"{whose}_before"]) for whose in ("own", "others")} if rows else {}
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("layers", "ranking", "units", "by", "share"):
        shown.add_column(
            name, justify="right" if name == "share" else "left", no_wrap=name not in ("layers", "ranking")
        )
    for whose, value in before.items():
        shown.add_column(f"{whose}, {value}", justify="right", no_wrap=True)
    for row in rows:
        ranking = "" if row["ranking"] == row["selection"] else row["ranking"]
        accuracies = [_interval(row[f"{whose}_accuracy"]) for whose in before]
        names = Text(row["layers"]), Text(ranking), row["selection"], row["replaced_by"]
        shown.add_row(*names, f"{100 * row['share']:g} %", *accuracies)
    return shown


def _interval(value: MeanOverClasses) -> str:
    return f"{_short(value.mean)} [{_short(value.low)}, {_short(value.high)}]"


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if np.isfinite(value) else "–"

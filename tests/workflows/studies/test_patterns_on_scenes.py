"""Patterns of drawn scenes on the network of the shipped preset: they follow parts whose places are known.

The fast test trains the network and learns in this process; the slow one asks the study of a run of the preset.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_ops.explanatory.pattern_fitting import fit_patterns
from gmm_ops.explanatory.pattern_layer import PatternSettings
from gmm_ops.explanatory.pattern_places import PatternPlaces, infer_places, raw_peaks
from gmm_ops.explanatory.responses import PositionGrid, UnitMoments, responses
from tests.conftest import BuildOnce
from tests.end_to_end.small_digits import command
from tests.gmm_ops.explanatory.drawn_objects import seen_from_below
from workflows.asking.pattern_files import PatternFiles
from workflows.cli.options import find_preset
from workflows.data.objects import BoxedObjects
from workflows.data.preprocessing import Preprocessor
from workflows.data.scenes import PARTS, load_scenes
from workflows.networks.loading import build_network
from workflows.networks.training import train_classifier
from workflows.settings import load_settings
from workflows.storage.run_folder import RunFolder

LAYERS = ("layer1.0.conv2:16", "layer2.0.conv2:8", "layer3.0.conv2:4")
KIND = "ring stripes"


def offset_spreads(found: PatternPlaces, parts: np.ndarray) -> torch.Tensor:
    """(V,) standard deviation, over objects and both axes, of where each lies from the part that it follows best."""
    middles = torch.from_numpy((parts[..., :2] + parts[..., 2:]) / 2)  # (n, P, 2)
    away = found.places.double()[:, :, None] - middles[:, None]
    known = ~away.isnan().any(dim=-1, keepdim=True)
    count = known.sum(dim=0)
    mean = torch.where(known, away, 0.0).sum(dim=0) / count
    square = torch.where(known, (away - mean).square(), 0.0).sum(dim=0) / count
    return torch.where(count[..., 0] > 10, square.mean(dim=-1).sqrt(), torch.nan).nan_to_num(nan=1.0).amin(dim=-1)


def heaviest(found: PatternPlaces, masses: torch.Tensor, parts: np.ndarray) -> float:
    """Mean spread of the heaviest quarter of the patterns."""
    order = masses.flatten().argsort(descending=True)
    return float(offset_spreads(found, parts)[order[: len(order) // 4]].mean())


def scene_maps() -> tuple[list[torch.Tensor], np.ndarray]:
    """F of the layers on the objects of a kind, by the preset's network trained here, and where their parts lie."""
    settings, scenes = load_settings(find_preset("scenes")), load_scenes()
    assert settings.training is not None
    preprocessor = Preprocessor(settings.preprocessing)
    labels = torch.from_numpy(scenes.images.labels)
    network = build_network(settings.network, settings.seed)
    short = settings.training.model_copy(update={"epochs": 4})
    train_classifier(network, preprocessor.normalise(scenes.images.pixels), labels, short, settings.seed)
    own = np.flatnonzero(scenes.images.labels == 0)
    boxes = scenes.objects[own]
    pixels = [scenes.images.pixels[row, y0:y1, x0:x1] for row, (x0, y0, x1, y1) in zip(own, boxes, strict=True)]
    crops = np.stack([preprocessor.square(one, (64, 64)) for one in pixels])
    maps: list[torch.Tensor] = []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage[0].bn2.register_forward_hook(lambda module, given, value: maps.append(value))
    with torch.inference_mode():
        network(preprocessor.normalise(crops))
    objects = BoxedObjects(own, boxes, {name: scenes.parts[own, at] for at, name in enumerate(PARTS)})
    return [responses(one, UnitMoments.from_batch(one).deviations()) for one in maps], objects.part_boxes(np.ones(150))


@pytest.mark.slow
def test_the_heaviest_patterns_follow_their_parts() -> None:
    maps, parts = scene_maps()
    upper = None
    for one, text in zip(reversed(maps), reversed(LAYERS), strict=True):
        side = one.shape[-1]
        grid = PositionGrid(side, side, (0.5 / 64, 0.5 / 64), (1 / side, 1 / side))
        settings = PatternSettings(int(text.partition(":")[2]), 15, 20)
        fit = fit_patterns(one, grid, settings, tuple(range(one.shape[1])), upper)
        assert bool((fit.likelihood.diff(dim=1) >= -1e-6 * fit.likelihood[:, :-1].abs()).all())
        found = infer_places(one, grid, fit.layer, upper)
        upper = seen_from_below(fit.layer, found)
    spread, peaks = heaviest(found, fit.layer.masses, parts), float(offset_spreads(raw_peaks(one, grid), parts).mean())
    assert spread <= 0.045
    assert peaks >= 1.5 * spread


@pytest.fixture(scope="module")
def scenes_run(build_once: BuildOnce, local_ray: object) -> Path:
    def run(folder: Path) -> None:
        assert command(["run", "scenes", "--out", str(folder), "--until", "extract"]) == 0
        how = ["--class", KIND, "--mirror", "off", "--layers", ",".join(LAYERS)]
        assert command(["patterns", str(folder), "--objects", str(folder / "objects.csv"), *how]) == 0

    return build_once("scenes-patterns", run)


@pytest.mark.slow
def test_patterns_of_the_preset_follow_their_parts(scenes_run: Path) -> None:
    files = PatternFiles.of(RunFolder.open(scenes_run), 0)
    turned = files.objects()
    assert len(turned.objects) == 150
    parts = turned.objects.part_boxes(turned.signs)
    lowest = files.layers()[0]
    spread = heaviest(files.places("anchored", lowest.name), files.patterns("anchored", lowest.name).masses, parts)
    peaks = float(offset_spreads(files.peaks(lowest.name), parts).mean())
    assert spread <= 0.045
    assert peaks >= 1.5 * spread

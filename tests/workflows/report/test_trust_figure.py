"""The page of a class: what stands on it, and that nothing leaves the page."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_ops.trust.word_curves import curve_steps
from tests.workflows.report.test_unit_figures import margins_are_white, texts
from workflows.report.trust_figure import draw_trust_figure

SELECTIONS = ("graph", "random", "frequent", "matched", "log_ratio", "lowest", "straight", "effect", "word")


def made_up(layers: list[str], interventions: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Rows of a class; the lowest layer is no cut."""
    random = np.random.default_rng(0)

    def interval(name: str, value: float) -> dict[str, float]:
        return {name: value, f"{name}_low": value - 0.2, f"{name}_high": value + 0.3}

    effects = [
        {"class_name": "hen, bird", "layer": layer, "is_cut": layer != layers[0], "intervention": one, "top": top,
         "criterion": "likelihood", "selection": selection, "half": half, "column_share": 0.08, "images": 49,
         **interval("drop", random.normal(1))}
        for layer in layers for one in interventions for top in (3, 1) for selection in SELECTIONS
        for half in ("all", "judged")
    ]  # fmt: skip
    curves = [
        {"layer": layer, "ranking": ranking, "direction": direction, "k": step, "words": 90, "kept": 1 - step / 90}
        for layer in layers for ranking in ("score", "frequency", "log_ratio", "effect", "random")
        for direction in ("deletion", "insertion") for step in curve_steps(90).tolist()
    ]  # fmt: skip
    edges = [
        {"lower_layer": low, "upper_layer": high, **interval("excess", random.normal(0, 0.1))}
        for low, high in itertools.pairwise(layers)
        for _ in range(9)
    ]
    completeness = [
        {"layer": layer, "kind": kind, **interval("recovered", random.random()), **interval("same_decision", 0.6)}
        for layer in layers
        for kind in ("words", "error")
    ]
    return {"effects": effects, "effect_curves": curves, "edge_effects": edges, "completeness": completeness}


@pytest.mark.parametrize(
    ("count", "interventions"),
    [(4, ("shift", "mean")), (1, ("mean",)), pytest.param(9, ("shift", "mean"), marks=pytest.mark.slow)],
)
def test_a_page_shows_effects_beside_controls(tmp_path: Path, count: int, interventions: tuple[str, ...]) -> None:
    layers = [f"layer{place}.1.add" for place in range(count)]
    rows = made_up(layers, interventions)
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    draw_trust_figure(rows, [], png, svg, network="made $x$ up")
    shown = texts(svg)
    assert "made $x$ up, hen: can this graph be trusted?" in shown
    assert any("on 49 images predicted as the class" in text for text in shown)
    assert {"the graph's words", "as many random columns", "first-order effect", "error node", "no cut"} <= set(shown)
    assert sum(text.startswith(interventions) for text in shown) == len(interventions)
    assert not any("chosen again" in text for text in shown)
    assert margins_are_white(png)
    again = tmp_path / "b.png"
    nodes = [{"layer": layer, "chosen_again": 0.8} for layer in layers for _ in range(3)]
    draw_trust_figure(rows, nodes, again, svg, network="made $x$ up")
    assert any("chosen again" in text for text in texts(svg)), "stability is drawn where it is known"
    assert margins_are_white(again)

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from workflows.errors import RunFolderError
from workflows.report.fit_figure import _figure, draw_fit_figure, fit_curves
from workflows.report.loss_panel import loss_curves
from workflows.storage.schemas import SCHEMAS


def history(layers: tuple[str, ...] = ("a", "b", "c"), steps: int = 30, scope: str = "joint") -> pa.Table:
    rows = [
        {
            "scope": scope,
            "layer": layer,
            "restart": 0,
            "phase": "generative",
            "step": step,
            "epoch": step // 10,
            "columns": step * 100,
            "held_out_log_likelihood": -9.0 - depth + step / 100,
            "train_log_likelihood": -8.0 - depth + step / 100,
            "held_out_full": -8.5 if step % 10 == 0 else None,
            "reseeded": 2 * (step >= 7) + (step >= 20),
            "empty": 4,
        }
        for depth, layer in enumerate(layers)
        for step in reversed(range(1, steps + 1))
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["history"])


def starts(*reached: float, steps: int = 30) -> pa.Table:
    """History of a hidden Markov model whose starts come to these held-out means, from thousands of nats below."""
    rows = [
        {
            "scope": "joint",
            "layer": "chain",
            "restart": restart,
            "phase": "generative",
            "step": step,
            "epoch": step // 10,
            "columns": step * 100,
            "held_out_log_likelihood": value - 3000.0 / step**3,
            "train_log_likelihood": value - 2000.0 / step**3,
            "held_out_full": value + (step - steps) / 10 if step % 10 == 0 else None,
            "reseeded": 0,
            "empty": 0,
        }
        for restart, value in enumerate(reached)
        for step in range(1, steps + 1)
    ]
    return pa.Table.from_pylist(rows[::-1], SCHEMAS["history"])


def losses(layers: tuple[str, ...], judged: bool = True, scope: str = "joint") -> pa.Table:
    """Rows of a second phase of 30 steps in 3 epochs, behind ``history``; the second epoch is the best."""
    rows = [
        {
            "scope": scope,
            "layer": layer,
            "restart": 0,
            "phase": "discriminative",
            "step": 30 + step,
            "epoch": (step - 1) // 10,
            "columns": 3000 + step * 100,
            "loss": 2.0 / step,
            "error": 0.5,
            "generative_loss": 2.5 / step,
        }
        | ({} if step % 10 or not judged else _judgement(step // 10))
        for layer in layers
        for step in reversed(range(1, 31))
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["history"])


def _judgement(epoch: int) -> dict[str, float]:
    return {
        "held_out_loss": {1: 0.6, 2: 0.3, 3: 0.4}[epoch],
        "held_out_error_soft": {1: 0.2, 2: 0.089, 3: 0.08}[epoch],
        "held_out_error_hard": {1: 0.3, 2: 0.097, 3: 0.09}[epoch],
        "generative_held_out_loss": 1.0 - epoch / 10,
        "generative_held_out_error_soft": 0.3 - epoch / 10 + 0.0125,
    }


def svg_texts(path: Path) -> list[str]:
    nodes = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(node.itertext()).strip() for node in nodes]


def test_curves_are_sorted_by_step_and_know_reseeding_steps() -> None:
    curves = fit_curves(history())
    assert [curve.layer for curve in curves] == ["a", "b", "c"]
    np.testing.assert_array_equal(curves[1].steps, np.arange(1, 31))
    np.testing.assert_allclose(curves[1].held_out, -10.0 + np.arange(1, 31) / 100)
    assert curves[0].steps[curves[0].reseeding].tolist() == [7, 20]
    assert curves[0].steps[np.isfinite(curves[0].full)].tolist() == [10, 20, 30]


def test_a_reseed_in_the_first_step_counts() -> None:
    table = history(("a",), steps=1)
    index = table.schema.get_field_index("reseeded")
    table = table.set_column(index, table.schema.field(index), pa.array([3], pa.int64()))
    assert fit_curves(table)[0].reseeding.tolist() == [True]


@pytest.mark.parametrize("layers", [("a",), ("a", "b", "c", "d", "e")])
def test_the_figure_has_a_panel_for_each_layer(tmp_path: Path, layers: tuple[str, ...]) -> None:
    draw_fit_figure(history(layers), tmp_path / "f.png", tmp_path / "f.svg", layer_titles={"a": "<add1>"})
    texts = svg_texts(tmp_path / "f.svg")
    assert "<add1>: −8.700 held out, 3 re-seeds, 4 empty" in texts
    assert sum("held out, 3 re-seeds" in text for text in texts) == len(layers)
    assert texts.count("words re-seeded") == len(layers)
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width == 1654


def test_panels_follow_the_given_order_of_layers(tmp_path: Path) -> None:
    draw_fit_figure(history(), tmp_path / "f.png", tmp_path / "f.svg", layer_titles={"c": "top", "b": "low"})
    titles = [text.split(":")[0] for text in svg_texts(tmp_path / "f.svg") if "held out, " in text]
    assert titles == ["top", "low", "a"]


def test_the_figure_is_reproducible_and_survives_a_single_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_fit_figure(history(("x",), steps=1), tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "words re-seeded" not in svg_texts(tmp_path / "a.svg")


def test_a_scope_without_history_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="scope 'class-3' has no rows in the history table: run the fit stage"):
        draw_fit_figure(history(), tmp_path / "f.png", tmp_path / "f.svg", scope="class-3")


def test_starts_of_a_chain_are_curves_of_their_own() -> None:
    curves = fit_curves(starts(-20.0, -18.0, -19.0))
    assert [(curve.layer, curve.restart) for curve in curves] == [("chain", 0), ("chain", 1), ("chain", 2)]
    assert [curve.reached for curve in curves] == [-20.0, -18.0, -19.0]
    assert [len(curve.steps) for curve in curves] == [30, 30, 30]
    assert fit_curves(starts(-20.0, steps=5))[0].reached == -np.inf


@pytest.mark.parametrize(("reached", "kept"), [((-20.0, -18.0, -19.0), 1), ((-18.0,), 0), ((-5.0,) * 7, 0)])
def test_the_starts_share_a_panel_that_marks_the_kept_one(
    tmp_path: Path, reached: tuple[float, ...], kept: int
) -> None:
    draw_fit_figure(starts(*reached), tmp_path / "f.png", tmp_path / "f.svg", layer_titles={"relu1": "dense1"})
    texts = svg_texts(tmp_path / "f.svg")
    values = ", ".join(f"{restart}: {value:.1f}".replace("-", "−") for restart, value in enumerate(reached))
    title = f"chain: start {kept} of {len(reached)} kept; all held-out images at the end of start {values}"
    assert title in texts
    assert f"held-out sample, start {kept}" in texts
    marked = {f"all held-out images, start {restart}" for restart in range(len(reached)) if restart != kept}
    assert {text for text in texts if text.startswith("all held-out images, start")} == marked | {
        f"all held-out images, start {kept} (kept)"
    }
    floor = min(reached) - 1 - 0.06 * (max(reached) - min(reached) + 1)
    cut = f"step (global minibatches); what lies below {floor:.0f} is cut off"
    assert cut.replace("-", "−") in texts
    assert "Log-likelihood while the hidden Markov model was learned, nats per image" in texts


def test_a_short_fit_is_shown_from_its_first_step(tmp_path: Path) -> None:
    draw_fit_figure(starts(-20.0, -18.0, steps=20), tmp_path / "f.png", tmp_path / "f.svg")
    texts = svg_texts(tmp_path / "f.svg")
    assert not any("cut off" in text for text in texts)
    assert "−3000" in texts


def test_losses_stand_beside_the_likelihood(tmp_path: Path) -> None:
    table = pa.concat_tables([history(("a", "b")), losses(("a", "b"))])
    draw_fit_figure(table, tmp_path / "f.png", tmp_path / "f.svg", layer_titles={"b": "top"})
    texts = svg_texts(tmp_path / "f.svg")
    assert sum("held out, 3 re-seeds" in text for text in texts) == 2, "the likelihood keeps to the first phase"
    assert texts.count("8.9 % wrong held out, hard 9.7 %, generative 1.2 %") == 2
    assert [text.partition(":")[0] for text in texts if "re-seeds" in text] == ["top", "a"]
    assert texts.count("held-out images, generative words") == 2
    assert texts.count("kept") == 2


def test_no_title_reaches_the_next_panel_or_leaves_the_page() -> None:
    table = pa.concat_tables([history(("a",)), losses(("a",))])
    figure = _figure(fit_curves(table, "joint"), loss_curves(table, "joint"), {"a": "add16 (layer4.12.add)"})
    renderer = FigureCanvasAgg(figure).get_renderer()
    left, right = (panel._left_title.get_window_extent(renderer) for panel in figure.axes)
    assert left.x1 < right.x0
    assert right.x1 < figure.bbox.x1


def test_a_loss_curve_knows_the_epoch_that_was_kept() -> None:
    found = loss_curves(pa.concat_tables([history(("a",)), losses(("a",))]), "joint")
    assert list(found) == ["a"]
    assert found["a"].steps.tolist() == list(range(31, 61))
    assert found["a"].steps[found["a"].kept] == 50
    assert loss_curves(losses(("a",), judged=False), "joint")["a"].summary == "not judged yet"
    assert loss_curves(history(), "joint") == {}
    assert loss_curves(losses(("a",)), "class-3") == {}

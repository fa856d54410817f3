"""The transition graph of a class: every count by a plain loop, widths to scale, errors in red, nothing overlaps."""

from __future__ import annotations

import io
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.workflows.report.made_up_graphs import CIFAR_NAMES, generated_pictures, save_pictures
from tests.workflows.report.test_graph_figure import outside, overlaps
from workflows.report.page import DPI
from workflows.report.pictures import PictureFolder
from workflows.report.transition_figure import ONLY_WRONG, PARTLY_WRONG, TAKEN, draw_transition_graph, transition_page
from workflows.report.transition_places import plan_transitions
from workflows.report.transition_view import (
    ClassPaths,
    TransitionView,
    build_transition_view,
    drawn_words,
    typical_images,
)
from workflows.storage.schemas import SCHEMAS

LABEL = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, generated_pictures(40, 32))
    return PictureFolder(folder)


def drawn_paths(images: int, levels: int, words: int, errors: float = 0.3, seed: int = 0) -> ClassPaths:
    """Random walks that prefer few words; the last level is the prediction."""
    rng = np.random.default_rng(seed)
    chances = [rng.dirichlet(np.full(words, 0.3), words) for _ in range(levels)]
    found = np.zeros((images, levels + 1), np.int64)
    for image in range(images):
        word = 0
        for level in range(levels):
            word = int(rng.choice(words, p=chances[level][word]))
            found[image, level] = word
    wrong = rng.uniform(size=images) < errors
    found[:, -1] = np.where(wrong, (LABEL + rng.integers(1, 10, images)) % 10, LABEL)
    return ClassPaths(LABEL, found)


def layer_names(levels: int) -> dict[str, str]:
    return {f"relu{level}": f"dense{level}" for level in range(1, levels + 1)} | {"output": "prediction"}


def view_of(paths: ClassPaths, pictures: PictureFolder | None = None, names=CIFAR_NAMES) -> TransitionView:
    rng = np.random.default_rng(1)
    layers = layer_names(paths.words.shape[1] - 1)
    words, exemplars = [], []
    for level, name in enumerate(layers):
        for word in range(int(paths.words[:, level].max()) + 1):
            key = {"scope": "joint", "layer": name, "word": word}
            unseen = word % 7 == 5
            known = {} if unseen else {"dominant_class": word % len(names), "dominant_share": 0.25 + word % 5 / 10}
            words.append(key | {"pi": 0.1, "columns": 5, "images": 5, "reseeded": 0} | known)
            for rank, image in enumerate(rng.choice(40, 0 if unseen else 6, replace=False).tolist()):
                place = {"y": 0, "x": 0, "x0": 0, "y0": 0, "x1": 32, "y1": 32, "posterior": 1.0, "log_joint": -1.0}
                exemplars.append(key | place | {"rank": rank, "image": image, "label": 0})
    return build_transition_view(
        paths,
        pa.Table.from_pylist(words, SCHEMAS["words"]),
        pa.Table.from_pylist(exemplars, SCHEMAS["exemplars"]),
        layers=layers,
        network="made_up",
        scope="joint",
        class_names=names,
        pictures=pictures,
    )


@pytest.mark.parametrize(("images", "words"), [(1, 4), (60, 5), (400, 30)])
def test_counts_equal_those_of_a_loop(images: int, words: int) -> None:
    paths = drawn_paths(images, 4, words)
    view = view_of(paths)
    rows = paths.words.tolist()
    wrong = [row for row in rows if row[-1] != LABEL]
    assert (view.images, view.wrong) == (images, len(wrong))
    hidden, ends = 0, {(level, word) for level, steps in enumerate(view.steps) for word in {s.lower for s in steps}}
    ends |= {(level, word) for level, steps in enumerate(view.steps, 1) for word in {s.upper for s in steps}}
    for level, layer in enumerate(view.layers):
        passed, errors = Counter(row[level] for row in rows), Counter(row[level] for row in wrong)
        least = (0.02 if level == 4 else 0.05) * images
        shown = {word: count for word, count in passed.items() if count >= least or (level, word) in ends}
        assert {word.word: word.images for word in layer.words} == shown
        assert all(word.wrong == errors[word.word] for word in layer.words)
        assert layer.other_words == len(passed) - len(shown)
        assert layer.other_images == images - sum(shown.values())
    for level, steps in enumerate(view.steps):
        passed = Counter((row[level], row[level + 1]) for row in rows)
        errors = Counter((row[level], row[level + 1]) for row in wrong)
        shown = {pair: count for pair, count in passed.items() if count >= 0.02 * images}
        assert {(step.lower, step.upper): step.images for step in steps} == shown
        assert all(step.wrong == errors[step.lower, step.upper] for step in steps)
        hidden += images - sum(shown.values())
    assert view.other_steps == hidden
    assert drawn_words(paths) == [[word.word for word in layer.words] for layer in view.layers]


def test_what_is_known_of_a_word_is_joined_by_layer_and_word(pictures: PictureFolder) -> None:
    view = view_of(drawn_paths(200, 3, 9), pictures)
    for word in (word for layer in view.layers for word in layer.words):
        unseen = word.word % 7 == 5
        assert word.dominant_class == (None if unseen else word.word % 10)
        assert len(word.pictures) == (0 if unseen else 3)


def test_typical_images_are_the_first_three_by_rank() -> None:
    rows = [(word, rank, 10 * word + rank) for word in (2, 1) for rank in (4, 1, 0, 2)]
    place = {"y": 0, "x": 0, "x0": 0, "y0": 0, "x1": 1, "y1": 1, "posterior": 1.0, "log_joint": -1.0, "label": 0}
    key = {"scope": "joint", "layer": "a"}
    table = [key | place | {"word": word, "rank": rank, "image": image} for word, rank, image in rows]
    found = typical_images(pa.Table.from_pylist(table, SCHEMAS["exemplars"]), "joint", "a", [1])
    assert found == {1: [10, 11, 12]}


@pytest.mark.parametrize("levels", [1, 3, 6])
@pytest.mark.parametrize(("images", "words"), [(1, 3), (40, 40), (1000, 40), (2000, 200)])
def test_nothing_overlaps_and_nothing_leaves_the_page(pictures, images: int, words: int, levels: int) -> None:
    page = transition_page(view_of(drawn_paths(images, levels, words), pictures))
    assert overlaps(page) == []
    assert outside(page) == []


def test_a_deep_network_of_few_words_fits_a4(pictures) -> None:
    page = transition_page(view_of(drawn_paths(500, 5, 8), pictures))
    assert page.width_pixels <= 1654
    assert page.height_pixels <= 2339


def test_a_thousand_long_class_names_fit(pictures) -> None:
    names = tuple(f"three-toed sloth {label}, ai" for label in range(1000))
    page = transition_page(view_of(drawn_paths(300, 4, 30), pictures, names))
    assert overlaps(page) == []
    assert outside(page) == []
    assert any("Transition graph of class three-toed sloth 3" in text for _, text, _ in page.boxes())


def test_widths_are_to_scale_and_steps_stand_side_by_side() -> None:
    view = view_of(drawn_paths(300, 4, 12))
    plan = plan_transitions(view, 30, 30)
    scale = {round(place.width / place.step.images, 6) for place in plan.steps}
    assert len(scale) == 1
    bars = {round(place.bar.width / place.word.images, 6) for row in plan.rows for place in row}
    assert bars == scale
    for lower, upper in pairwise(plan.rows):
        steps = [place for place in plan.steps if place.start == lower[0].card.y]
        for cards, ends in ((lower, "x"), (upper, "end_x")):
            for card in cards:
                word = "lower" if ends == "x" else "upper"
                mine = sorted(
                    (getattr(place, ends), place.width)
                    for place in steps
                    if getattr(place.step, word) == card.word.word
                )
                assert sum(width for _, width in mine) <= card.bar.width + 1e-6
                assert all(card.card.x <= x - width / 2 <= x + width / 2 <= card.card.right for x, width in mine)
                assert all(b - a >= (v + w) / 2 - 1e-6 for (a, v), (b, w) in pairwise(mine))


def test_steps_of_errors_are_red_and_no_others() -> None:
    words = np.array([[0, 1, LABEL]] * 60 + [[0, 2, LABEL]] * 20 + [[0, 2, 5]] * 20 + [[4, 2, 5]] * 10)
    view = view_of(ClassPaths(LABEL, words))
    page = transition_page(view)
    plan = plan_transitions(view, 30, 30)
    assert sum(place.step.images == place.step.wrong for place in plan.steps) == 2
    picture = np.asarray(Image.open(io.BytesIO(page.png()))).astype(np.int64)
    seen = picture @ (1 << 16, 1 << 8, 1)
    for colour in (TAKEN, PARTLY_WRONG, ONLY_WRONG):
        assert (seen == int(colour[1:], 16)).sum() > 1000
    kinds = Counter(artist.get_label() for artist in page.figure.get_children())
    assert kinds["step"] == 6
    assert kinds["wrong part"] == 1  # of 0 -> 2 only: 20 right, 20 wrong; 2 -> LABEL has no error in it
    right = transition_page(view_of(ClassPaths(LABEL, words[:80])))
    kinds = Counter(artist.get_label() for artist in right.figure.get_children())
    assert kinds["wrong part"] == 0
    texts = [text for _, text, _ in page.boxes()]
    assert "made_up · scope joint · 110 validation images of the class: 80 classified as cat, 30 not" in texts
    assert {"word 0", "word 1", "word 2", "word 4", "cat", "dog", "prediction", "dense2"} <= set(texts)


def test_predictions_of_another_class_are_written_in_red() -> None:
    page = transition_page(view_of(drawn_paths(100, 2, 4)))
    heads = [
        artist
        for artist in page.figure.get_children()
        if artist.get_label() == "title" and artist.get_fontweight() == "bold" and artist.get_text() in CIFAR_NAMES
    ]
    colours = {artist.get_text(): artist.get_color() for artist in heads}
    assert colours.pop("cat") != ONLY_WRONG
    assert len(colours) > 1
    assert set(colours.values()) == {ONLY_WRONG}


def test_a_layer_of_rare_words_shows_the_most_frequent() -> None:
    words = np.stack([np.arange(200) // 2, np.full(200, LABEL)], axis=1)
    words[0, 0] = 17
    view = view_of(ClassPaths(LABEL, words))
    assert [(word.word, word.images) for word in view.layers[0].words] == [(17, 3)]
    assert overlaps(transition_page(view)) == []


def test_what_is_not_drawn_is_told() -> None:
    words = np.array([[0, LABEL]] * 98 + [[1, LABEL], [2, 7]])
    view = view_of(ClassPaths(LABEL, words))
    texts = " ".join(text for _, text, _ in transition_page(view).boxes())
    assert "1 of 3 words" in texts
    assert "1 of 2 classes" in texts
    assert "2.0 % in others" in texts
    assert "steps of under 2.0 % of the images, in all 2.0 % of the steps" in texts


def test_both_files_are_reproducible(tmp_path: Path, pictures) -> None:
    view = view_of(drawn_paths(80, 3, 6), pictures)
    for name in ("a", "b"):
        draw_transition_graph(view, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert round(picture.info["dpi"][0]) == DPI


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="class 3: a transition graph needs the path of at least one image"):
        ClassPaths(LABEL, np.zeros((0, 4), np.int64))

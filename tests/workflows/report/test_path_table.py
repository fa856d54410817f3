"""The path of an image as the terminal prints it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from tests.workflows.report.made_up_graphs import CIFAR_NAMES
from tests.workflows.report.made_up_paths import made_up_path
from tests.workflows.report.test_terminal import printed
from workflows.errors import RunFolderError
from workflows.report.path_table import path_table
from workflows.report.path_views import PathTables, WordNames, build_path_view
from workflows.storage.schemas import SCHEMAS

LONG_NAMES = tuple(f"three-toed sloth number {i} of a very long row, ai" for i in range(1000))


def test_each_layer_has_its_word_and_its_runner_up() -> None:
    lines = printed(path_table(made_up_path(3, leaves=3, odds=[20.4, 0.25, 1234.5])), 100)
    assert lines[0] == "Inference path of image 4711: predicted truck (62 %), true label airplane"
    assert lines[1] == "log P(path | all layers) −0.73 nats"
    assert lines[2].split() == ["layer", "word", "mostly", "log", "P", "runner-up", "lost", "by"]
    cells = [line.split() for line in lines[4:8]]
    assert " ".join(cells[0]) == "1 dense1 word 11 automobile 16 % −0.01 word 3 (cat 19 %) 20.4"
    assert [line[-1] for line in cells] == ["20.4", "0.25", "1234.5", "–"]
    assert cells[3] == ["4", "output", "truck", "−0.04", "–", "–"]


@pytest.mark.parametrize(
    ("leaves", "expected", "sentence"),
    [
        (3, 1, "Leaves the paths of airplane at level 3: from dense2 word 12 to dense3 word 13, where images of "
               "airplane go to word 1, 2.50 nats less probable by the model."),
        (1, 1, "Leaves the paths of airplane at level 1: from the start to dense1 word 11, where images of airplane "
               "go to word 1, 2.50 nats less probable by the model."),
        (4, 0, "Leaves the paths of airplane at level 4: from dense3 word 13 to output truck, where images of airplane "
               "go to airplane, 2.50 nats less probable by the model."),
        (2, None, "Leaves the paths of airplane at level 2: from dense1 word 11 to dense2 word 12, where no image of "
                  "airplane comes by."),
    ],
)  # fmt: skip
def test_a_sentence_says_where_the_path_leaves(leaves: int, expected: int | None, sentence: str) -> None:
    lines = printed(path_table(made_up_path(3, leaves=leaves, expected=expected)), 200)
    assert lines[-1].strip() == sentence
    wrapped = printed(path_table(made_up_path(3, leaves=leaves, expected=expected)), 80)
    assert " ".join(" ".join(wrapped).split()).endswith(sentence)


def test_log_odds_may_be_unknown_and_a_correct_image_stays() -> None:
    path = made_up_path(3, leaves=3)
    assert path.departure is not None
    unknown = replace(path, departure=replace(path.departure, log_odds=None))
    assert printed(path_table(unknown), 200)[-1].endswith("where images of airplane go to word 1.")
    better = replace(path, departure=replace(path.departure, log_odds=-1.5))
    assert printed(path_table(better), 200)[-1].endswith("go to word 1, 1.50 nats more probable by the model.")
    assert "Leaves" not in " ".join(printed(path_table(made_up_path(3, leaves=None)), 100))


def test_the_step_that_leaves_is_red() -> None:
    lines = printed(path_table(made_up_path(3, leaves=2)), 100, colour=True)
    red = [line for line in lines if "31m" in line and "dense" in line and "word" in line and "Leaves" not in line]
    assert len(red) == 1
    assert "dense2" in red[0]


@pytest.mark.parametrize("width", [80, 100])
def test_long_names_give_way_and_numbers_do_not(width: int) -> None:
    path = made_up_path(6, names=LONG_NAMES, long=True, odds=[1234.5, 20.4, 3.0, 2.0, 1.0, 0.5])
    lines = printed(path_table(path), width)
    assert max(len(line) for line in lines) <= width
    rows = [line for line in lines if line[:1].isdigit()]
    assert [line.split()[-1] for line in rows] == ["1234.5", "20.4", "3.00", "2.00", "1.00", "0.50", "–"]
    assert all("word" in line for line in rows[:-1])


def test_names_are_never_read_as_markup() -> None:
    names = ("[red]plane[/red]", *CIFAR_NAMES[1:-1], "[bold]truck[/]")
    lines = printed(path_table(made_up_path(2, names=names)), 120)
    assert lines[0] == "Inference path of image 4711: predicted [bold]truck[/] (62 %), true label [red]plane[/red]"
    assert any("[bold]truck[/]" in line for line in lines[3:])
    assert "Leaves the paths of [red]plane[/red] at level 2" in " ".join(lines)


def tables(image: int = 5) -> PathTables:
    key = {"image": image, "scope": "joint", "path_log_probability": -0.5}
    rows = [
        key | {"level": 2, "layer": "output", "word": 9, "log_probability": 0.0},
        key | {"level": 1, "layer": "relu1", "word": 3, "log_probability": -0.1}
        | {"runner_up": 1, "runner_up_log_odds": 2.0},
    ]  # fmt: skip
    images = [{"image": image, "path": "x", "split": "validation", "label": 2, "label_name": "bird", "predicted": 9}
              | {"predicted_name": "truck", "probability": 0.75, "status": "ok"}]  # fmt: skip
    triage = [{"image": image, "scope": "joint", "split": "validation", "label": 2, "label_name": "bird"}
              | {"predicted": 9, "predicted_name": "truck", "junction": "relu1:3", "level": 2, "lower_layer": "relu1"}
              | {"lower_word": 3, "upper_layer": "output", "upper_word": 9}]  # fmt: skip
    return PathTables(
        paths=pa.Table.from_pylist(rows, SCHEMAS["paths"]),
        images=pa.Table.from_pylist(images, SCHEMAS["images"]),
        triage=pa.Table.from_pylist(triage, SCHEMAS["triage"]),
    )


def test_tables_of_a_run_become_a_path_from_the_lowest_layer_up() -> None:
    words = [{"scope": "joint", "layer": "relu1", "word": word, "pi": 0.5, "columns": 9, "images": 9, "reseeded": 0}
             | {"dominant_class": word, "dominant_name": "x", "dominant_share": 0.5} for word in (1, 3)]  # fmt: skip
    names = WordNames({"relu1": "dense1"}, CIFAR_NAMES, pa.Table.from_pylist(words, SCHEMAS["words"]))
    path = build_path_view(tables(), 5, names, scope="joint", network="n")
    assert [(step.level, step.word.layer_title, step.word.name) for step in path.steps] == [
        (1, "dense1", "word 3"),
        (2, "output", "truck"),
    ]
    assert path.steps[0].runner_up is not None
    assert (path.steps[0].runner_up.name, path.steps[0].runner_up.dominant_class) == ("word 1", "automobile")
    assert (path.steps[0].log_odds, path.steps[1].runner_up, path.steps[1].log_odds) == (2.0, None, None)
    assert (path.image.true_name, path.image.predicted_name, path.image.probability) == ("bird", "truck", 0.75)
    assert path.departure is not None
    assert (path.departure.level, path.departure.expected, path.departure.log_odds) == (2, None, None)
    assert path.departure.junction is not None
    assert (path.departure.junction.layer_title, path.departure.junction.name) == ("dense1", "word 3")
    assert (path.log_probability, path.lower_levels) == (-0.5, (1,))


def test_before_words_are_counted_no_word_has_a_dominant_class() -> None:
    path = build_path_view(tables(), 5, WordNames({"relu1": "dense1"}, CIFAR_NAMES), scope="joint", network="n")
    assert "1 dense1 word 3 – – −0.10 word 1 2.00" in " ".join(" ".join(printed(path_table(path), 100)).split())


def test_an_image_without_a_path_is_refused() -> None:
    names = WordNames({"relu1": "dense1"}, CIFAR_NAMES)
    with pytest.raises(RunFolderError, match=r"image 6 has no path: its picture was broken; images.parquet says why"):
        build_path_view(tables(), 6, names, scope="joint", network="n")

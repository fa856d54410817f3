"""The path of an image as a table for the terminal. Readable at 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workflows.report.chain_view import PathView, StepView, WordView
from workflows.report.lettering import short_name
from workflows.report.numbers import log_ratio, percent

_LEAVES = "bold red"


def path_table(path: PathView) -> RenderableType:
    """The word of each layer, lowest first, its runner-up, and by how many nats that one lost.

    The step at which the image leaves the paths of its true class is red; a sentence below says what it left.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    # Where the terminal is too narrow rich takes width from columns that may wrap: the names, never the numbers.
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("layer")
    table.add_column("word")
    table.add_column("mostly")
    table.add_column("", justify="right", no_wrap=True, min_width=5)
    table.add_column("log P", justify="right", no_wrap=True, min_width=5)
    table.add_column("runner-up")
    table.add_column("lost by", justify="right", no_wrap=True, min_width=7)
    for step in path.steps:
        leaves = path.departure is not None and path.departure.level == step.level
        table.add_row(*_cells(step), style=_LEAVES if leaves else None)
    return Group(_heading(path), table, _departure(path))


def _heading(path: PathView) -> Text:
    image = path.image
    heading = Text(f"Inference path of image {image.image}", style="bold")
    verdict = f": predicted {short_name(image.predicted_name)} ({percent(image.probability)})"
    heading.append(f"{verdict}, true label {short_name(image.true_name)}\n", style="not bold")
    return heading.append(f"log P(path | all layers) {log_ratio(path.log_probability)} nats", style="not bold")


def _cells(step: StepView) -> list[Text]:
    word, other = step.word, step.runner_up
    mostly = "" if word.is_class else short_name(word.dominant_class) if word.dominant_class else "–"
    return [
        Text(str(step.level)),
        _name(word.layer_title),
        _name(short_name(word.name)),
        _name(mostly),
        Text("" if word.is_class else percent(word.dominant_share)),
        Text(log_ratio(step.log_probability)),
        _name("–" if other is None else _runner_up(other)),
        Text("–" if step.log_odds is None else log_ratio(step.log_odds)),
    ]


def _runner_up(other: WordView) -> str:
    name = short_name(other.name)
    if other.is_class or not other.dominant_class:
        return name
    return f"{name} ({short_name(other.dominant_class)} {percent(other.dominant_share)})"


def _departure(path: PathView) -> Text:
    """Where the image left the paths of its class; empty where there is nothing to say."""
    found, image = path.departure, path.image
    if found is None:
        return Text("")
    true_name = short_name(image.true_name)
    where = "the start" if found.junction is None else f"{found.junction.layer_title} {short_name(found.junction.name)}"
    text = Text(f"\nLeaves the paths of {true_name} at level {found.level}", style=_LEAVES)
    taken = f"{found.taken.layer_title} {short_name(found.taken.name)}"
    text.append(f": from {where} to {taken}, ", style="not bold")
    if found.expected is None:
        return text.append(f"where no image of {true_name} comes by.", style="not bold")
    text.append(f"where images of {true_name} go to {short_name(found.expected.name)}", style="not bold")
    return text.append(_verdict(found.log_odds), style="not bold")


def _verdict(log_odds: float | None) -> str:
    """Which of the two words the model itself thought better, the prediction left open."""
    if log_odds is None:
        return "."
    better = "less" if log_odds >= 0 else "more"
    return f", {log_ratio(abs(log_odds))} nats {better} probable by the model."


def _name(name: str) -> Text:
    """A name on one line, shortened to the width of its column."""
    return Text(name, no_wrap=True, overflow="ellipsis")

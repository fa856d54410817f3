"""The command line: run, layers, status, show, sweep, parts, demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gmm_ops.errors import RefusedInput
from workflows.artefacts import ARTEFACTS
from workflows.errors import RunError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="How a convolutional network decides: visual words, what feeds what, and the [bold]inference graph[/bold] "
    "of a class or an image.\n\nStart with [bold]inference-graphs demo[/bold], then "
    "[bold]inference-graphs run PRESET.toml[/bold].",
)

INTERRUPTED = 130

Preset = Annotated[
    str, typer.Argument(help="A TOML file, or the name of a shipped preset (digits, cifar10_resnet20, ...).")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a field: [bold]section.field=value[/bold]; may be repeated.", metavar="FIELD=VALUE"
    ),
]
Out = Annotated[Path | None, typer.Option(help="Run folder; default runs/<name of the preset>.")]
Until = Annotated[str | None, typer.Option(help=f"Last stage: {', '.join(ARTEFACTS)}.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join (auto, host:port); default: a local Ray.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")]


@app.command()
def run(preset: Preset, set_: Set = None, out: Out = None, until: Until = None, address: Address = None) -> None:
    """Run a preset: what is finished is skipped, what was interrupted goes on.

    Examples:

        inference-graphs run digits

        inference-graphs run infra/presets/cifar10_resnet20.toml --set fit.words=50 --out runs/fifty

        inference-graphs run animals_resnet50 --until fit --address auto
    """
    from workflows.pipeline import run_pipeline
    from workflows.settings import load_settings

    settings = load_settings(find_preset(preset), set_ or ())
    console = _console()
    folder = run_pipeline(settings, out or default_out(settings.name), console, until, address)
    console.print(f"run folder {escape(str(folder.root))}", highlight=False, soft_wrap=True)


@app.command()
def layers(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="torchvision:<model>, timm:<model>, package.module:callable, or a preset, whose network it then is.",
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels of the square input; default: the preset's crop, 224 without a preset."),
    ] = None,
    set_: Set = None,
) -> None:
    """Names, sizes and aliases of the layers that network.layers can name. Needs no weights and no images.

    Examples:

        inference-graphs layers torchvision:resnet18

        inference-graphs layers timm:resnet10t --size 176

        inference-graphs layers cifar10_resnet20 --size 32
    """
    from workflows.cli.layers import print_layers
    from workflows.settings import load_settings

    if ":" in network and set_:
        raise RunError("layers: --set changes a preset; give one, or a network without --set")
    asked = network if ":" in network else load_settings(find_preset(network), set_ or ())
    print_layers(asked, size, _console())


@app.command()
def status(folder: Folder) -> None:
    """Stages of a run: shards done, failed and left, time, sizes.

    Example:

        inference-graphs status runs/digits
    """
    from workflows.cli.status import stage_statuses
    from workflows.report.terminal import status_table

    _console().print(status_table(stage_statuses(folder)))


@app.command()
def show(
    folder: Folder,
    class_: Annotated[str | None, typer.Option("--class", help="Name or id of a class.")] = None,
    image: Annotated[int | None, typer.Option(help="Id of an image (a row of images.parquet).")] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Whose words explain it: joint, class-<id> or list-<name>; default: joint, or its own."),
    ] = None,
) -> None:
    """The inference graph of a class or of an image as a table, and where its figure is.

    A run with a hidden Markov model prints the image's path first: words, runners-up and by how much they lost.

    Examples:

        inference-graphs show runs/digits --class 3

        inference-graphs show runs/cifar10-resnet20 --class horse

        inference-graphs show runs/cifar10-resnet20 --image 20015

        inference-graphs show runs/cifar10-resnet20 --class horse --scope class-7

        inference-graphs show runs/cifar10-mlp --image 20015

    Which images have a graph is the preset's mine.images; by default the misclassified validation images.
    """
    from workflows.cli.show import show_graph

    if (class_ is None) == (image is None):
        raise RunError("show: give either --class NAME or --image ID")
    show_graph(folder, class_, image, _console(), scope)


@app.command()
def sweep(
    preset: Preset,
    words: Annotated[str, typer.Option(help="Numbers of words K, with commas between.")] = "10,25,50,100,200",
    layers: Annotated[
        str | None, typer.Option(help="Layers, with commas between, lowest first; default: the preset's.")
    ] = None,
    losses: Annotated[str, typer.Option(help="both, or generative: likelihoods alone, which need no labels.")] = "both",
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name of the preset>-sweep.")] = None,
    address: Address = None,
) -> None:
    """How many words: every layer with several K, by likelihood and by the labels (IG Fig. 4 right).

    Dictionaries are those of all classes (scope joint). One extraction; then sweep.parquet, figures/sweep.png and what
    became of the paper's expectations. The same command goes on where it was, cell by cell. Other --words add to the
    table and the plot what they fit; another --out starts anew.

    Examples:

        inference-graphs sweep digits --words 5,10,20

        inference-graphs sweep cifar10_resnet20 --layers add8,add9 --set discriminative.epochs=10
    """
    from workflows.settings import load_settings
    from workflows.studies.sweep.command import run_sweep, sweep_request, sweep_settings

    request = sweep_request(words, losses)
    names = [name.strip() for name in layers.split(",") if name.strip()] if layers else []
    settings = sweep_settings(load_settings(find_preset(preset), set_ or ()), names, request.losses)
    console = _console()
    folder = run_sweep(settings, request, out or default_out(f"{settings.name}-sweep"), console, address)
    console.print(f"run folder {escape(str(folder.root))}", highlight=False, soft_wrap=True)


@app.command()
def parts(
    folder: Folder,
    boxes: Annotated[
        Path,
        typer.Argument(
            metavar="BOXES.csv",
            help="One object a line, with one of its parts: columns image (the end of the photo's path, such as "
            "n02391049/00001.jpg), obj_x0, obj_y0, obj_x1, obj_y1, part (a name, or empty) and part_x0, part_y0, "
            "part_x1, part_y1, in pixels of the photo file; others are not read.",
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="What a part is called: [bold]part01=head[/bold]; may be repeated.", metavar="PART=NAME"),
    ] = None,
) -> None:
    """Do the words of the class graphs sit on the object? Shares of their positions in boxes, against the area.

    For every chosen word: its exemplars and all its positions in the class's validation photos, photos with boxes only.
    Writes parts.parquet and figures/[<scope>/]parts.png; a run that draws its graphs again removes them.

    Example:

        inference-graphs parts runs/animals-resnet50 ../shared/data/imagenet_animals/parts.csv --name part01=head
    """
    from workflows.studies.boxes.command import part_names, run_parts

    run_parts(folder, boxes, part_names(name or ()), _console())


@app.command()
def demo(out: Out = None) -> None:
    """The whole main job on scikit-learn's handwritten digits: no download, no configuration, about two minutes.

    Example:

        inference-graphs demo --out runs/digits
    """
    from workflows.cli.show import show_graph
    from workflows.pipeline import run_pipeline
    from workflows.settings import load_settings

    settings = load_settings(find_preset("digits"))
    console = _console()
    folder = run_pipeline(settings, out or default_out(settings.name), console)
    show_graph(folder.root, "3", None, console)
    command, shown = _command(), escape(str(out or default_out(settings.name)))
    console.print(
        f"\nEvery figure is in [bold]{shown}/figures[/bold]. Try next:\n"
        f"  {command} status {shown}\n"
        f"  {command} show {shown} --class 8\n"
        f"  {command} run digits --set fit.words=50 --out {escape(str(Path('runs') / 'fifty'))}",
        highlight=False,
        soft_wrap=True,
    )


def _console(stderr: bool = False) -> Console:
    """Without emoji codes: a class called ``:cat:`` is shown by its name."""
    return Console(stderr=stderr, emoji=False)


def _command() -> str:
    """How this command line was called, so that its hints work where no environment is active."""
    called = Path(sys.argv[0])
    return escape(str(called)) if called.name == "inference-graphs" and called.exists() else "inference-graphs"


def default_out(name: str) -> Path:
    """``runs/<name>``, whatever characters a name has."""
    from workflows.storage.names import slug

    return Path("runs") / slug(name)


def find_preset(name: str) -> Path:
    """A TOML file as given, or the shipped preset of that name."""
    import infra

    shipped = Path(infra.__file__).parent / "presets"
    given = Path(name)
    known = sorted(path.stem for path in shipped.glob("*.toml"))
    if name not in known and (given.is_file() or given.suffix == ".toml"):
        return given
    if name not in known:
        raise RunError(f"preset {name!r} is neither a file nor a shipped preset; shipped are {', '.join(known)}")
    return shipped / f"{name}.toml"


def main() -> None:
    """Entry point: errors of a run are one clear message, not a traceback."""
    errors = _console(stderr=True)
    try:
        app()
    except (RunError, RefusedInput) as error:
        errors.print(f"[bold red]error[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer has turned the Ctrl-C into an exit
            errors.print("stopped; the same command goes on where it was", highlight=False)
        raise

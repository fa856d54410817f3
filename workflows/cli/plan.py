"""``inference-graphs plan``: what a run will take, before it starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workflows.cli.options import (
    AllowCode,
    AsJson,
    Out,
    Preset,
    Set,
    console,
    default_out,
    find_preset,
    print_json,
)
from workflows.errors import SettingsError
from workflows.report.numbers import duration, size

if TYPE_CHECKING:
    from workflows.forecast.forecasts import Forecast

Nodes = Annotated[int, typer.Option(min=1, help="Machines like this one that the run shall have.")]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus-per-node", min=0, help="GPUs of each, an actor on each; default: as on this machine."),
]
GpuSpeed = Annotated[
    float | None,
    typer.Option(
        "--gpu-speed",
        min=0.01,
        help="How many times what an actor does here an actor with a GPU does; needed where this machine has none.",
    ),
]


Images = Annotated[
    int | None,
    typer.Option(min=2, help="Images that the run shall have, if those that are there are only some like them."),
]
MeantClasses = Annotated[int | None, typer.Option(min=1, help="Classes that they are of, evenly.")]
FreeDisk = Annotated[
    float | None,
    typer.Option("--free-disk", min=0.0, help="Free disk where the run folder will be, in TB; default: as here."),
]


def plan(
    preset: Preset,
    set_: Set = None,
    out: Out = None,
    images: Images = None,
    classes: MeantClasses = None,
    free_disk: FreeDisk = None,
    nodes: Nodes = 1,
    gpus_per_node: Gpus = None,
    gpu_speed: GpuSpeed = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:
    """Time, disk, files and memory of every stage, from a short trial on a few images; refuses what cannot fit.

    The trial runs the preset itself beside the run folder and is removed. The plan stays beside the folder
    (runs/digits.plan.json), and status shows what the run took against it.

    Examples:

        inference-graphs plan digits

        inference-graphs plan cifar10_resnet20 --set fit.words=50 --out runs/fifty

        inference-graphs plan imagenet_resnet50 --set data.folders=few --images 1281167 --classes 1000 --nodes 8
        --gpus-per-node 8 --gpu-speed 100 --free-disk 10
    """
    from workflows.forecast.foreseeing import Meant, foresee
    from workflows.forecast.scaling import Machines
    from workflows.settings import load_settings

    settings = load_settings(find_preset(preset), set_ or ()).allowing(allow_code or ())
    root = out or default_out(settings.name)
    disk = None if free_disk is None else int(free_disk * 1e12)
    machines = Machines(nodes, gpus_per_node, _speed(gpus_per_node, gpu_speed), disk)
    meant = Meant(images, classes) if images or classes else None
    found = foresee(settings, root, machines, meant)
    written = found.write(root, settings)
    if as_json:
        print_json(asdict(found) | {"seconds": found.seconds, "size": found.size, "file": str(written)})
    else:
        print_forecast(found, console())
        console().print(f"kept in {written}; status shows the run against it", highlight=False, soft_wrap=True)


def _speed(gpus: int | None, given: float | None) -> float:
    """Raises SettingsError: nobody knows how fast the GPUs are."""
    if given is not None or not gpus:
        return given or 1.0
    import torch

    if not torch.cuda.is_available():
        raise SettingsError(
            f"--gpu-speed: must be given with --gpus-per-node {gpus} on a machine without a GPU, got none; say how "
            "many times what an actor does here one with a GPU does, or plan on a machine that has one"
        )
    return 1.0


def print_forecast(found: Forecast, console: Console) -> None:
    """The table of stages, then what the machines must hold, then what was taken for granted."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_footer=True)
    table.add_column("stage", "total", no_wrap=True)
    files = sum(stage.files for stage in found.stages)
    for name, total in (
        ("time", duration(found.seconds)),
        ("disk", size(found.size)),
        ("files", f"{files:,}"),
        ("memory of a node", ""),
    ):
        table.add_column(name, total, justify="right", no_wrap=True)
    for stage in found.stages:
        memory = size(stage.memory) if stage.memory else "–"
        table.add_row(Text(stage.name), duration(stage.seconds), size(stage.size), f"{stage.files:,}", memory)
    console.print(table)
    lines = (
        f"{found.nodes} node{'s' * (found.nodes > 1)}, {found.actors} actors; the trial took "
        f"{duration(found.trial_seconds)}",
        f"disk {size(found.disk_at_most)} at most, before packing, of {size(found.disk_there)} free",
        f"memory {size(found.memory)} at most on a node, of {size(found.memory_there)} free; "
        f"object store {size(found.object_store)} at most",
        *(f"assumed: {words}" for words in found.assumptions),
    )
    for line in lines:
        console.print(Text(line), highlight=False, soft_wrap=True)

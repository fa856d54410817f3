"""``inference-graphs resample``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from workflows.cli.options import Address, AllowCode, Anew, AsJson, Classes, Folder, Images, asking, print_json
from workflows.errors import SettingsError


def resample(
    folder: Folder,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="An image (row of images.parquet), misclassified or misclassified:N; may be "
                     "repeated. Default: the validation images."),
    ] = None,
    class_: Classes = None,
    images: Images = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Names, aliases or numbers of convolutions, with commas between: [bold]3-9[/bold], "
                     "[bold]layer1.0.conv1[/bold]. Default: seven, spread evenly."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="correlation, precision, mean_square_over_variance, directional, activation_sum, "
                     "activation_variance, weight_sum, weight_variance or all; may be repeated. Random units are "
                     "always there. Default: all but the third and fourth."),
    ] = None,
    n: Annotated[int, typer.Option(help="Noisy copies of an image; drawn twice, for the test-retest.")] = 50,
    sigma: Annotated[float, typer.Option(help="Standard deviation of the noise, a share of the pixel.")] = 0.1,
    top: Annotated[str, typer.Option(help="Units a layer, with commas between.")] = "5,20",
    reduce: Annotated[
        Literal["position", "sum"], typer.Option(help="Correlate every position, or the sum of a unit's map.")
    ] = "position",
    precision: Annotated[
        Literal["inverse_of_mean", "mean_of_inverse"],
        typer.Option(help="1 / mean variance (the authors' code), or the mean of 1 / variance (IR Eq. 3)."),
    ] = "inverse_of_mean",
    tap: Annotated[
        Literal["post", "pre"], typer.Option(help="Read units behind the ReLU of a convolution, or before it.")
    ] = "post",
    masks: Annotated[
        str | None,
        typer.Option(metavar="KIND:PATH", help="Where the objects are: boxes:FILE.csv, coco:FILE.json, broden:FOLDER, "
                     "labels:FOLDER or colours:FOLDER. Default: data.masks of the run, if it has one."),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Weights during training, such as 'RUN/checkpoints/*.pt' "
                     "(training.keep_epochs): how far selections and their patches change."),
    ] = None,
    secondary: Annotated[bool, typer.Option(help="Train a second classifier on the patches alone.")] = True,
    anew: Anew = False,
    address: Address = None,
    allow_code: AllowCode = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Which channels matter for a decision (input resampling), and which patches of the image do they see?

    Every image is multiplied by noise n times, twice over. Units are selected by how their response goes along with the
    class's logit, by how little it varies, by four baselines and at random; a deconvnet shows what each one sees. Every
    selection comes with its test-retest, chance, and what permuted outputs select: at n = 50 most are noise.
    Writes selections.parquet, selection_means.parquet, secondary.parquet, selection_epochs.parquet and figures.

    Examples:

        inference-graphs resample runs/cifar10-resnet20 --images 100

        inference-graphs resample runs/animals-resnet50 --class zebra --class tiger --images 20 --top 5
        --masks boxes:../shared/data/imagenet_animals/parts.csv
    """
    from workflows.studies.resample.command import run_resample
    from workflows.studies.resample.request import ResampleRequest
    from workflows.studies.resample.scores import DEFAULT_METRICS, METRICS

    metrics = tuple(metric or DEFAULT_METRICS)
    request = ResampleRequest(
        ids=tuple(image or ()),
        classes=tuple(class_ or ()),
        layers=tuple(name.strip() for name in (layers or "").split(",") if name.strip()),
        metrics=METRICS if metrics == ("all",) else metrics,
        copies=n,
        sigma=sigma,
        tops=_numbers(top),
        reduce=reduce,
        precision=precision,
        tap=tap,
        masks=masks,
        checkpoints=checkpoints,
        secondary=secondary,
    )
    found = run_resample(asking(folder, as_json, images, anew, address, allow_code), request)
    if as_json:
        print_json(found)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise SettingsError(f"--top: must be numbers with commas between, got {text!r}; give 5,20") from None

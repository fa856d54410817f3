"""What the study is asked, and what that is in a run: layers, weights, images, masks."""

from __future__ import annotations

import difflib
import glob
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from gmm_ops.units.resampling import PrecisionRule, Reduce
from workflows.asking.run_masks import masks_of_run
from workflows.asking.study import Asked, StudyContext
from workflows.data.folders import natural_key
from workflows.data.masks.concept_masks import MaskSet
from workflows.errors import NetworkError, SettingsError
from workflows.networks.attribution.response_layers import ResponseLayer, response_layers
from workflows.networks.loading import build_network
from workflows.networks.receptive_fields import operation_shapes
from workflows.networks.taps import Tap
from workflows.networks.tracing import trace_network
from workflows.plan.requests import chosen_classes, requested_images
from workflows.run import Run
from workflows.storage.images_table import ImageColumns
from workflows.studies.resample.scores import DEFAULT_METRICS, METRICS, RANDOM, Resampling


@dataclass(frozen=True)
class ResampleRequest:
    """What the command is told.

    Attributes:
        ids, classes: of images, and names or ids of classes; none: all validation images.
        layers: names, aliases or numbers of convolutions; none: seven, evenly.
        metrics: of ``METRICS``; random units are always there.
        copies, sigma, tops, reduce, precision, tap: see ``Resampling``.
        masks: of objects, see ``read_masks``; None: the run's ``data.masks``, if it has one.
        checkpoints: a pattern of files of weights; None: the run's own alone.
        secondary: train the second classifier.
    """

    ids: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = DEFAULT_METRICS
    copies: int = 50
    sigma: float = 0.1
    tops: tuple[int, ...] = (5, 20)
    reduce: Reduce = "position"
    precision: PrecisionRule = "inverse_of_mean"
    tap: Tap = "post"
    masks: str | None = None
    checkpoints: str | None = None
    secondary: bool = True

    def checked(self) -> ResampleRequest:
        """Itself, with ``random`` as the last metric.

        Raises:
            SettingsError: a metric that there is not, or numbers that cannot be.
        """
        for metric in self.metrics:
            if metric not in METRICS:
                near = difflib.get_close_matches(metric, METRICS, n=2)
                offer = f"did you mean {' or '.join(near)}?" if near else "give one of these, or several"
                raise SettingsError(f"--metric: must be of {', '.join(METRICS)}, got {metric!r}; {offer}")
        if self.copies < 2:
            raise SettingsError(
                f"--n: must be at least 2, got {self.copies}; one copy has neither variance nor correlation: 50 is "
                "the paper's"
            )
        if not self.sigma > 0:
            raise SettingsError(f"--sigma: must be above 0, got {self.sigma:g}; without noise nothing varies")
        if not self.tops or min(self.tops) < 1:
            raise SettingsError(f"--top: must be numbers of at least 1, got {','.join(map(str, self.tops))}; give 5,20")
        ordered = tuple(metric for metric in METRICS if metric in {*self.metrics, RANDOM})
        return ResampleRequest(**{**asdict(self), "metrics": ordered, "tops": tuple(sorted(set(self.tops)))})


@dataclass(frozen=True)
class Weights:
    """One set of weights that is asked: the run's own (None), or a checkpoint."""

    checkpoint: str | None
    path: str

    @property
    def phase(self) -> str:
        """Name of its phase."""
        return "run" if self.checkpoint is None else f"checkpoint {self.checkpoint}"


def asked_layers(run: Run, request: ResampleRequest) -> tuple[tuple[ResponseLayer, ...], list[int]]:
    """The layers, and D of each.

    Raises:
        NetworkError: a layer does not exist, or the network cannot be traced.
    """
    graph = trace_network(build_network(run.settings.network))
    layers = tuple(response_layers(graph, request.layers, request.tap))
    shape = (run.settings.preprocessing.channels, run.plan.input_height, run.plan.input_width)
    shapes = operation_shapes(graph, shape)
    found = {layer.name: tuple(shapes.get(graph.node(layer.tap), torch.Size())) for layer in layers}
    for name, dimensions in found.items():
        if len(dimensions) != 4:
            raise NetworkError(
                f"--layers: must have maps of units (N, D, H, W), got {name!r}, which gives {dimensions}; name "
                "convolutions"
            )
    return layers, [dimensions[1] for dimensions in found.values()]


def asked_weights(run: Run, pattern: str | None) -> list[Weights]:
    """The run's own, and before it checkpoints in natural order of their names.

    Raises:
        SettingsError: the pattern fits no file, or two of one name.
    """
    own = Weights(None, run.plan.weights)
    if pattern is None:
        return [own]
    paths = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True), key=natural_key)
    if not paths:
        raise SettingsError(
            f"--checkpoints: must fit files of weights, got {pattern!r}, which fits none; training.keep_epochs keeps "
            "those of a run's own training in checkpoints/"
        )
    found = [Weights(Path(path).stem, str(Path(path).resolve())) for path in paths]
    if len({one.checkpoint for one in found}) < len(found):
        raise SettingsError(f"--checkpoints: must fit files of different names, got {pattern!r}; name one folder")
    return [*found, own]


def resampling(request: ResampleRequest, layers: tuple[ResponseLayer, ...]) -> Resampling:
    """The part of a request that every image is asked."""
    return Resampling(
        layers,
        request.metrics,
        request.copies,
        request.sigma,
        request.tops,
        request.reduce,
        request.precision,
        request.tap,
    )


def asked_masks(run: Run, request: ResampleRequest, asked: Asked) -> MaskSet | None:
    """Where objects are; None, and told, where neither the command nor the run names masks."""

    def say(text: str) -> None:
        asked.console.print(text, markup=False, highlight=False, soft_wrap=True)

    if request.masks is None and not run.settings.data.masks:
        say("resample: no --masks, so nothing is said of where patches lie")
        return None
    return masks_of_run(run, request.masks, say)


def asked_images(study: StudyContext, request: ResampleRequest) -> Int[np.ndarray, " n"]:
    """Ids, ascending, at most as many as ``--images`` says.

    Raises:
        DataError: an image or a class that there is not.
    """
    plan = study.plan
    columns = ImageColumns.read(study.folder, 0, plan.images)
    if request.ids:
        ids = requested_images(request.ids, plan, columns, asked_by="--image")
        return study.choose_images(among=np.array(ids, np.int64))
    if not request.classes:
        return study.choose_images(split="validation")
    labels = np.where(columns.label < 0, columns.predicted, columns.label)
    labels[: plan.train_images] = -1
    chosen, _ = chosen_classes(request.classes, plan.class_names, labels)
    among = np.flatnonzero(np.isin(labels, chosen))
    return study.choose_images(split="validation", among=among, classes=chosen)

"""images -> weights.pt, checkpoints/: trains the network, or its head, where a preset says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workflows.context import StageContext
from workflows.data.decoding import BrokenPicture
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.networks.equivalence import check_network
from workflows.networks.starting import cut_head, started_network
from workflows.networks.training import accuracy, train_classifier
from workflows.settings import Settings
from workflows.storage.atomic import replacing
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder


def run(context: StageContext) -> None:
    """The stage: nothing, or a network trained in memory on S_T and its accuracy on S_V."""
    settings, folder, plan = context.settings, context.folder, context.plan()
    if settings.training is None or settings.network.weights != "train":
        context.begin(0)
        return
    context.begin(1)
    names = [layer.name for layer in plan.layers]
    train = _images(settings, folder, 0, plan.train_images)
    # Weights must not depend on how many cores this machine has, and two threads gain nothing on small networks.
    torch.set_num_threads(settings.training.threads or settings.runtime.threads)
    started = started_network(settings.network, settings.training, settings.seed)
    network = trained = started.network
    images, labels = train
    if settings.training.trains == "head":
        context.progress.note("the frozen part looks at the images")
        cut = cut_head(network, started.head)
        trained, images = cut.head, cut.features(images)
    train_classifier(
        trained,
        images,
        labels,
        settings.training,
        settings.seed,
        progress=lambda epoch, epochs, loss: context.progress.note(f"epoch {epoch} of {epochs}, loss {loss:.3f}"),
        channels_last=plan.rewriting.channels_last,
        keep=lambda epoch, _: _save(folder.checkpoint(epoch), network),  # of which a head is a part
    )
    # The index stage checked the rewriting with random weights, which hide faults: normalisation does nothing yet.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    checked = check_network(network, names, train[0][:2])
    replace(plan, rewriting=checked.rewriting, probabilities=checked.probabilities).write(folder)
    images, labels = _images(settings, folder, plan.train_images, plan.images)
    share = accuracy(network, images.contiguous(), labels)
    _save(folder.weights, network)
    context.finished("network", {"validation_accuracy": share})
    context.progress.note(f"{share:.1%} of the validation images right")


def _save(path: Path, network: nn.Module) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        torch.save(network.state_dict(), temporary)


def _images(settings: Settings, folder: RunFolder, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (N, 3, H, W) float32 and labels (N,) of rows [first, stop), without broken pictures."""
    rows = read_image_rows(folder.images_table, first, stop, ["path", "label"])
    preprocessor = Preprocessor(settings.preprocessing)
    with PictureReader(settings.data, settings.runtime.decode_threads, geometry=preprocessor.crop) as reader:
        pictures = reader.read(rows["path"].to_pylist())
    readable = [not isinstance(picture, BrokenPicture) for picture in pictures]
    crops = [picture.pixels for picture in pictures if not isinstance(picture, BrokenPicture)]
    labels = torch.from_numpy(rows["label"].to_numpy()[np.array(readable)].astype(np.int64))
    return preprocessor.normalise(preprocessor.stack(crops)), labels

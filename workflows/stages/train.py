"""images -> weights.pt, checkpoints/: trains the network, or its head, where a preset says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workflows.context import StageContext
from workflows.data.decoding import BrokenPicture
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.errors import NetworkError
from workflows.networks.equivalence import check_network
from workflows.networks.starting import cut_head, started_network
from workflows.networks.training import accuracy, train_classifier
from workflows.runtime.patience import patiently
from workflows.settings import Settings
from workflows.storage.atomic import replacing
from workflows.storage.identities import FileIdentity
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
    tries = settings.runtime.max_attempts, settings.runtime.retry_wait_s
    train = patiently(lambda: _images(settings, folder, 0, plan.train_images), *tries)
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
        keep=lambda epoch, _: _keep(folder.checkpoint(epoch), network),  # of which a head is a part
    )
    # The index stage checked the rewriting with random weights, which hide faults: normalisation does nothing yet.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    checked = check_network(network, names, train[0][:2])
    plan = replace(plan, rewriting=checked.rewriting, probabilities=checked.probabilities)
    images, labels = patiently(lambda: _images(settings, folder, plan.train_images, plan.images), *tries)
    share = accuracy(network, images.contiguous(), labels)
    replace(plan, weights_file=_save(folder.weights, network, plan.weights_file)).write(folder)
    context.finished("network", {"validation_accuracy": share})
    context.progress.note(f"{share:.1%} of the validation images right")


def _keep(path: Path, network: nn.Module) -> None:
    _save(path, network)


def _save(path: Path, network: nn.Module, earlier: FileIdentity | None = None) -> FileIdentity:
    """Write a state dict. Raises NetworkError: it is another one than the run had before, and that was lost."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:  # a name of its own would be in the file's bytes
        torch.save(network.state_dict(), file)
        file.flush()
        found = FileIdentity.of(temporary)
        if earlier is not None and found.sha256 != earlier.sha256:
            raise NetworkError(
                f"{str(path)!r} was lost, and training anew came to another network (other libraries, another kind of "
                "processor): restore the file, or give another --out"
            )
    return FileIdentity.of(path)


def _images(settings: Settings, folder: RunFolder, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images (N, 3, H, W) float32 and labels (N,) of rows [first, stop), without broken pictures."""
    rows = read_image_rows(folder.images_table, first, stop, ["label"])
    indexed = IndexedPictures.read(folder.images_table, range(first, stop))
    preprocessor = Preprocessor(settings.preprocessing)
    with PictureReader(settings.data, settings.runtime.decode_threads, geometry=preprocessor.crop) as reader:
        pictures = reader.read(indexed.paths, indexed.states)
    readable = [not isinstance(picture, BrokenPicture) for picture in pictures]
    crops = [picture.pixels for picture in pictures if not isinstance(picture, BrokenPicture)]
    labels = torch.from_numpy(rows["label"].to_numpy()[np.array(readable)].astype(np.int64))
    return preprocessor.normalise(preprocessor.stack(crops)), labels

"""images -> weights.pt, checkpoints/, decoder.pt: trains the network, its head, or an autoencoder where told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gmm_ops.explanatory.synthesis import signal_to_noise
from workflows.context import StageContext
from workflows.data.boxes import match_images, read_boxes
from workflows.data.decoding import BrokenPicture
from workflows.data.image_index import UNLABELLED
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.network_inputs import ObjectInputs
from workflows.data.objects import boxed_objects
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader, photo_sizes
from workflows.errors import NetworkError
from workflows.networks.equivalence import check_network
from workflows.networks.starting import cut_head, started_network
from workflows.networks.training import accuracy, train_classifier
from workflows.networks.vae_gan import AutoencoderLosses, rebuilt, train_autoencoder
from workflows.plan.run_inputs import with_fetched_weights
from workflows.plan.run_plan import Plan
from workflows.report.rebuilt_figure import draw_rebuilt
from workflows.runtime.patience import patiently
from workflows.settings import Settings, TrainingSettings
from workflows.storage.atomic import replacing
from workflows.storage.identities import FileIdentity
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder

_SHOWN = 12
"""Held-out pictures of the figure, and as many made ones."""


def run(context: StageContext) -> None:
    """The stage: nothing, or a network trained in memory on S_T, and what it is worth on S_V."""
    folder, plan = context.folder, context.plan()
    if context.settings.training is None or context.settings.network.weights != "train":
        context.begin(0)
        return
    context.begin(1)
    settings = with_fetched_weights(context.settings, folder)
    assert settings.training is not None, "as before"
    # Weights must not depend on how many cores this machine has, and two threads gain nothing on small networks.
    torch.set_num_threads(settings.training.threads or settings.runtime.threads)
    train = _autoencoder if settings.learns_pictures else _classifier
    trained = train(replace(context, settings=settings), plan, settings.training)
    network = trained.network
    # The index stage checked the rewriting with random weights, which hide faults: normalisation does nothing yet.
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    checked = check_network(network, [layer.name for layer in plan.layers], trained.seen, plan.outputs)
    plan = replace(plan, rewriting=checked.rewriting, probabilities=checked.probabilities)
    replace(plan, weights_file=_save(folder.weights, network, plan.weights_file)).write(folder)
    if trained.decoder is not None:  # only beside the weights that it was trained with
        _save(folder.decoder, trained.decoder)
    context.finished("network", trained.found)
    context.progress.note(trained.told)


@dataclass(frozen=True)
class _Trained:
    """What a training gives.

    Attributes:
        network: of the run.
        seen: two of its images.
        found: what the ledger keeps.
        told: what people are told.
        decoder: of an autoencoder.
    """

    network: nn.Module
    seen: Tensor
    found: dict[str, float]
    told: str
    decoder: nn.Module | None = None


def _classifier(context: StageContext, plan: Plan, training: TrainingSettings) -> _Trained:
    settings, folder = context.settings, context.folder
    images, labels = _images(settings, folder, 0, plan.train_images)
    seen = images[:2]
    started = started_network(settings.network, training, settings.seed)
    network = trained = started.network
    if training.trains == "head":
        context.progress.note("the frozen part looks at the images")
        cut = cut_head(network, started.head)
        trained, images = cut.head, cut.features(images)
    train_classifier(
        trained,
        images,
        labels,
        training,
        settings.seed,
        progress=lambda epoch, epochs, loss: context.progress.note(f"epoch {epoch} of {epochs}, loss {loss:.3f}"),
        channels_last=plan.rewriting.channels_last,
        keep=lambda epoch, _: _keep(folder.checkpoint(epoch), network),  # of which a head is a part
    )
    images, labels = _images(settings, folder, plan.train_images, plan.images)
    share = accuracy(network, images.contiguous(), labels)
    return _Trained(network, seen, {"validation_accuracy": share}, f"{share:.1%} of the validation images right")


def _autoencoder(context: StageContext, plan: Plan, training: TrainingSettings) -> _Trained:
    settings, folder = context.settings, context.folder
    pictures = _pictures(settings, plan, folder, 0, plan.train_images)
    network = started_network(settings.network, training, settings.seed).network

    def note(epoch: int, epochs: int, losses: AutoencoderLosses) -> None:
        context.progress.note(f"epoch {epoch} of {epochs}, loss {losses.total:.3f}")

    decoder = train_autoencoder(
        network,
        pictures,
        training,
        settings.seed,
        progress=note,
        keep=lambda epoch, encoder: _keep(folder.checkpoint(epoch), encoder),
    )
    held = _pictures(settings, plan, folder, plan.train_images, plan.images)
    shown = rebuilt(network, decoder, held)
    mean = pictures.mean(dim=0, keepdim=True).expand_as(held)
    colours = Preprocessor(settings.preprocessing).colours
    found = {
        name: float(signal_to_noise(colours(one), colours(held)).mean())
        for name, one in (("validation_psnr", shown), ("mean_picture_psnr", mean))
    }
    told = f"held-out pictures are rebuilt to {found['validation_psnr']:.1f} dB"
    told += f" (mean picture {found['mean_picture_psnr']:.1f} dB)"
    some = torch.linspace(0, len(held) - 1, min(_SHOWN, len(held))).long()
    rows = {"held out": held[some], "rebuilt": shown[some], "made up": decoder.made(_SHOWN, settings.seed)}
    draw_rebuilt(
        {name: _pixels(colours(one)) for name, one in rows.items()},
        f"{settings.name}: pictures and what the decoder makes of codes",
        told,
        (folder.figure("rebuilt", "png"), folder.figure("rebuilt", "svg")),
    )
    return _Trained(network, pictures[:2], found, told, decoder)


def _pixels(pictures: Float[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


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
                f"{str(path)!r}, or a file of the same training, was lost, and training anew came to another network "
                "(other libraries, another kind of processor): restore the file, or give another --out"
            )
    return FileIdentity.of(path)


def _pictures(settings: Settings, plan: Plan, folder: RunFolder, first: int, stop: int) -> Float[Tensor, "N 3 H W"]:
    """Normalised pictures of rows [first, stop): their objects (``training.boxes``), then those without a box."""
    assert settings.training is not None, "an autoencoder is trained"
    if not settings.training.boxes:
        return _images(settings, folder, first, stop)[0]
    paths = read_image_rows(folder.images_table, first, stop, ["path"])["path"].to_pylist()
    boxes = match_images(read_boxes(Path(settings.training.boxes), {}), paths)
    sizes = photo_sizes(settings.data, [paths[place] for place in boxes], settings.runtime.patience)
    objects = boxed_objects({first + place: rows for place, rows in boxes.items()},
                            {first + place: size for place, size in zip(boxes, sizes, strict=True)})  # fmt: skip
    size = (plan.input_height, plan.input_width)
    crops = patiently(lambda: [*ObjectInputs(settings, folder, size).crops(objects)], *settings.runtime.patience)
    whole, _ = _read(settings, folder, [first + place for place in range(len(paths)) if place not in boxes])
    return torch.cat([Preprocessor(settings.preprocessing).normalise(np.stack(crops)), whole])


def _images(settings: Settings, folder: RunFolder, first: int, stop: int) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, H, W) float32 and labels (N,) of rows [first, stop), without broken pictures."""
    rows = read_image_rows(folder.images_table, first, stop, ["label"])
    images, readable = _read(settings, folder, range(first, stop))
    # Labels are null where nobody has told a class.
    return images, torch.from_numpy(rows["label"].fill_null(UNLABELLED).to_numpy()[readable].astype(np.int64))


def _read(settings: Settings, folder: RunFolder, rows: Sequence[int]) -> tuple[Float[Tensor, "n 3 H W"], np.ndarray]:
    """Normalised images of the pictures that are whole, and which of them are; storage may be away for a while."""
    return patiently(lambda: _read_once(settings, folder, rows), *settings.runtime.patience)


def _read_once(
    settings: Settings, folder: RunFolder, rows: Sequence[int]
) -> tuple[Float[Tensor, "n 3 H W"], np.ndarray]:
    indexed = IndexedPictures.read(folder.images_table, rows)
    preprocessor = Preprocessor(settings.preprocessing)
    with PictureReader(settings.data, settings.runtime.decode_threads, geometry=preprocessor.crop) as reader:
        pictures = reader.read(indexed.paths, indexed.states)
    crops = [picture.pixels for picture in pictures if not isinstance(picture, BrokenPicture)]
    readable = np.array([not isinstance(picture, BrokenPicture) for picture in pictures], bool)
    return preprocessor.normalise(preprocessor.stack(crops, preprocessor.input_size)), readable

"""What a run will do, decided once before any long work: layers, shapes, windows, classes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gmm_ops.graphs.windows import Window
from workflows.errors import RunFolderError
from workflows.networks.rewriting_choice import EVERY_CHANGE, Rewriting
from workflows.settings import ExtractSettings
from workflows.storage.atomic import write_bytes
from workflows.storage.damage import undamaged
from workflows.storage.identities import FileIdentity
from workflows.storage.run_folder import RunFolder

OUTPUT = "output"
"""Name of the output layer; its word id is the class id (IG section 3.2)."""


def plan_path(folder: RunFolder) -> Path:
    """``plan.json`` of a run."""
    return folder.root / "plan.json"


@dataclass(frozen=True)
class LayerPlan:
    """One modelled layer.

    Attributes:
        name: canonical layer name (the tapped node).
        given: the name used in the preset.
        units: D.
        height, width: H, W of the map; 1 x 1 for a dense layer.
        words: K of its dictionary.
        stored: columns stored for a training image.
        window: which columns of the next lower modelled layer feed a column; None for the lowest.
        pixels: which pixels of the network's input feed a column.
        rectified: the layer ends in a ReLU, so its zeros are censored; asked by hidden Markov models only.
    """

    name: str
    given: str
    units: int
    height: int
    width: int
    words: int
    stored: int
    window: Window | None
    pixels: Window
    rectified: bool = False

    @property
    def positions(self) -> int:
        """H times W."""
        return self.height * self.width

    @property
    def all_stored(self) -> bool:
        """Whether every column of an image is stored, not a sample."""
        return self.stored == self.positions


@dataclass(frozen=True)
class LayerPair:
    """A layer and the next modelled layer above it.

    Attributes:
        lower, upper: canonical layer names.
        window: R(p), which lower columns feed an upper column.
        lower_words, upper_words: K of both dictionaries; the output has one word a class.
    """

    lower: str
    upper: str
    window: Window
    lower_words: int
    upper_words: int

    @property
    def name(self) -> str:
        """``lower__upper``, as in the folder's file names."""
        return f"{self.lower}__{self.upper}"


@dataclass(frozen=True)
class ForwardTrial:
    """A batch that was tried.

    Attributes:
        batch: images in one forward pass.
        images_per_second: of all actors of a node.
        same: it gives the bits that the batch gives which is taken without measuring.
    """

    batch: int
    images_per_second: float
    same: bool


@dataclass(frozen=True)
class ForwardChoice:
    """The batch of the run, and what was measured for it.

    Attributes:
        batch: images in one forward pass.
        actors, threads: actors that ran at once on the node, and threads of each.
        trials: in the order of their batches.
    """

    batch: int
    actors: int
    threads: int
    trials: tuple[ForwardTrial, ...]


@dataclass(frozen=True)
class Plan:
    """The whole run.

    Attributes:
        layers: modelled layers, lowest first, without the output.
        class_names: readable name of every output, in output order; without outputs, of every label.
        images: number of rows of images.parquet; training images come first.
        train_images: number of training images.
        input_height, input_width: pixels of the network's input.
        weights: absolute file of the network's state dict, torchvision:<WEIGHTS> or timm:<model>.<tag>. In plan.json
            the run's own file is relative to the run, which may be moved.
        rewriting: how every actor runs the network; decided anew by the train stage for trained weights.
        probabilities: the network ends in a softmax, so its outputs are probabilities, not logits.
        forward: the batch that the extract stage chose; None: it had nothing to choose.
        outputs: the network decides between the classes (``network.outputs``).
        weights_file: what the file of the weights was; None of a library's, before a run has trained its own, and in
            a plan of an earlier version.
        sources: module and SHA-256 of the source of an imported network; see ``network_sources``.
    """

    layers: tuple[LayerPlan, ...]
    class_names: tuple[str, ...]
    images: int
    train_images: int
    input_height: int
    input_width: int
    weights: str
    rewriting: Rewriting = EVERY_CHANGE
    probabilities: bool = False
    forward: ForwardChoice | None = None
    outputs: bool = True
    weights_file: FileIdentity | None = None
    sources: tuple[tuple[str, str], ...] = ()

    def batch(self, extract: ExtractSettings) -> int:
        """Images in one forward pass; before the extract stage has chosen, the most that it may choose."""
        return extract.largest_batch if self.forward is None else self.forward.batch

    @property
    def stores_everything(self) -> bool:
        """Whether word maps can be made from stored activations, without running the network again."""
        return all(layer.all_stored for layer in self.layers)

    @property
    def stored_images(self) -> int:
        """Rows of the activation arrays: every image, or the training images when columns are sampled."""
        return self.images if self.stores_everything else self.train_images

    def pairs(self) -> list[LayerPair]:
        """Neighbouring layers, from the output downwards."""
        top = self.layers[-1]
        found = [LayerPair(top.name, OUTPUT, Window.whole(), top.words, len(self.class_names))]
        for lower, upper in zip(self.layers[-2::-1], self.layers[:0:-1], strict=True):
            assert upper.window is not None
            found.append(LayerPair(lower.name, upper.name, upper.window, lower.words, upper.words))
        return found

    @classmethod
    def read(cls, folder: RunFolder) -> Plan:
        """The plan of a run.

        Raises:
            RunFolderError: the index stage has not written it, or it is damaged.
        """
        try:
            with undamaged(plan_path(folder), "delete the run folder and run again"):
                plan = cls.from_json(plan_path(folder).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(f"{str(plan_path(folder))!r} is missing: run the index stage") from None
        return replace(plan, weights=_weights_here(plan.weights, folder))

    def write(self, folder: RunFolder) -> None:
        """Write plan.json whole or not at all."""
        weights = Path(self.weights)
        own = not is_library(self.weights) and weights.is_relative_to(folder.root)
        stored = replace(self, weights=str(weights.relative_to(folder.root))) if own else self
        write_bytes(plan_path(folder), stored.to_json().encode())

    def layer(self, name: str) -> LayerPlan:
        """The layer of a canonical name."""
        return next(layer for layer in self.layers if layer.name == name)

    def to_json(self) -> str:
        """Text for plan.json."""
        raw = asdict(self)
        for layer, plan in zip(raw["layers"], self.layers, strict=True):
            layer["window"] = plan.window.to_dict() if plan.window else None
            layer["pixels"] = plan.pixels.to_dict()
        return json.dumps(raw, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Inverse of ``to_json``."""
        raw: dict[str, Any] = json.loads(text)
        layers = []
        for layer in raw.pop("layers"):
            window = Window.from_dict(layer.pop("window")) if layer["window"] else layer.pop("window")
            layers.append(LayerPlan(window=window, pixels=Window.from_dict(layer.pop("pixels")), **layer))
        rewriting = Rewriting(**raw.pop("rewriting", {}))
        forward = raw.pop("forward", None)
        if forward is not None:
            forward = ForwardChoice(**forward | {"trials": tuple(ForwardTrial(**one) for one in forward["trials"])})
        names = tuple(raw.pop("class_names"))
        weights = raw.pop("weights_file", None)
        weights_file = None if weights is None else FileIdentity(**weights)
        sources = tuple((module, sha256) for module, sha256 in raw.pop("sources", ()))
        decided = {"rewriting": rewriting, "forward": forward, "weights_file": weights_file, "sources": sources}
        return cls(**raw | decided | {"layers": tuple(layers), "class_names": names})


def is_library(name: str) -> bool:
    """Whether a network or its weights are a library's: ``torchvision:...``, ``timm:...``."""
    return name.startswith(("torchvision:", "timm:"))


def _weights_here(weights: str, folder: RunFolder) -> str:
    """Of a plan as it was written: the run's own file in the run's folder, wherever that lies now.

    An earlier version wrote where the folder was; only a run that trains its network has weights of its own.
    """
    if is_library(weights):
        return weights
    if Path(weights).is_absolute():
        moved = folder.weights.exists() or (
            Path(weights).name == folder.weights.name
            and folder.run_file.exists()
            and folder.settings().network.weights == "train"
        )
        return str(folder.weights) if moved else weights
    return str(folder.root / weights)

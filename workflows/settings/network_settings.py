"""What a run is told of its network: which it is, how it is trained, and how its columns are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from workflows.settings.section import Names, Section, UserPath

DENSE = "dense"
"""In ``network.layers``: the dense layers of the chain that ends in the output, found in the network."""

_BATCHES = (5, 10, 25, 50)
"""What ``extract.batch = "auto"`` tries, made to fit into a shard. One image alone has other kernels and bits."""


class NetworkSettings(Section):
    """The frozen network and its modelled layers."""

    name: str = Field(
        description="torchvision:<model>, timm:<model> (extra `timm`), or an import path package.module:callable of "
        "the current folder, of torchvision.models, timm.models or workflows.networks.architectures, or of a package "
        "named with --allow-code"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the callable")
    weights: UserPath = Field(
        description="file or URI (s3://, https://) of a state dict, of torch or .safetensors; torchvision:<WEIGHTS> or "
        "timm:<model>.<tag> to download; or `train` for the training section"
    )
    layers: Names = Field(
        min_length=1,
        description="modelled layers, lowest first: node names or aliases (add3, conv2_1); "
        "with an [hmm] section `dense`: all dense layers of the chain that ends in the output",
    )
    tap: Literal["pre", "post"] = Field("pre", description="the named node, or the ReLU behind it")
    outputs: Literal["classes", "none"] = Field(
        "classes",
        description="none: a network without a classifier, such as convolutions alone: the run ends after index, or "
        "train, and is asked what needs no decision; extract, fit and words run with --until, by likelihood, in scope "
        "joint",
    )

    _allowed_code: tuple[str, ...] = PrivateAttr(())

    @property
    def allowed_code(self) -> tuple[str, ...]:
        """Packages whose code the user lets the network be made of; never told by a preset or a run folder."""
        return self._allowed_code

    def allowing(self, packages: Sequence[str]) -> NetworkSettings:
        """The same with the code of more packages allowed."""
        told = self.model_copy()
        told._allowed_code = (*self._allowed_code, *packages)
        return told

    @property
    def finds_layers(self) -> bool:
        """Whether the dense layers are found in the network instead of being named."""
        return self.layers == (DENSE,)

    @property
    def has_outputs(self) -> bool:
        """Whether it decides between classes."""
        return self.outputs == "classes"


class TrainingSettings(Section):
    """Trains the network first (small networks on small images)."""

    start: UserPath = Field(
        "",
        description="file or URI of a state dict to begin from; what it lacks, or has in another shape, begins at "
        "random and must be the head, the last parameters of the network; empty: all begin at random",
    )
    objective: Literal["classes", "vae", "vae_gan"] = Field(
        "classes",
        description="classes: labels, by cross entropy; vae, vae_gan: pictures, the network being the encoder of an "
        "autoencoder: half of its outputs are the mean of a code, half the logarithm of its variance; vae_gan: a "
        "discriminator sees how like pictures are, and tells them from made ones (network.outputs = 'none')",
    )
    boxes: UserPath = Field(
        "",
        description="vae, vae_gan: CSV file of objects' boxes; every object is an image, cut out as `patterns` does, "
        "and so is every photo without a box; empty: the images as they are",
    )
    trains: Literal["all", "head"] = Field(
        "all", description="head: what start does not give, on values that the rest, frozen, computes once"
    )
    epochs: int = Field(8, gt=0)
    batch: int = Field(64, gt=0, description="images")
    learning_rate: float = Field(
        0.02, gt=0, description="peak of the one-cycle schedule, of stochastic descent; vae, vae_gan: of Adam"
    )
    weight_decay: float = Field(5e-4, ge=0)
    flip: bool = Field(False, description="every image is mirrored with probability 1/2, anew in every epoch")
    shift: int = Field(0, ge=0, description="pixels an image is moved by at most, each way, anew in every epoch")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label spread over all classes")
    keep_epochs: int = Field(
        0, ge=0, description="the weights of every so many epochs, and of the first, stay in checkpoints/; 0: none do"
    )
    threads: int | None = Field(
        None, gt=0, description="torch threads; part of the result's definition; default: runtime.threads"
    )

    @model_validator(mode="after")
    def _has_a_head(self) -> TrainingSettings:
        if self.trains == "head" and not self.start:
            raise ValueError(
                "training.trains = 'head' must have training.start, which the rest of the network comes from, got "
                "none; give the file of a state dict"
            )
        varied = [field for field in ("flip", "shift") if getattr(self, field)]
        if self.trains == "head" and varied:
            raise ValueError(
                f"training.{varied[0]}: must be left out with training.trains = 'head', got "
                f"{getattr(self, varied[0])!r}: the frozen part sees every image once"
            )
        return self

    @model_validator(mode="after")
    def _learns_classes_or_pictures(self) -> TrainingSettings:
        if not self.learns_pictures:
            if self.boxes:
                raise ValueError(
                    f"training.boxes: must be left out with training.objective = 'classes', got {self.boxes!r}; name "
                    "them in data.boxes with data.source = 'crops', or set training.objective = 'vae_gan'"
                )
            return self
        given, came = f"with training.objective = {self.objective!r}", self.model_fields_set
        for is_met, field, rule, why in (
            (self.trains == "all", "trains", "be 'all'", "an encoder has no head that decides; leave it out"),
            (not self.label_smoothing, "label_smoothing", "be left out", "pictures have no labels"),
            (self.batch > 1, "batch", "be 2 or more", "batches are normalised, and half of one is made up; raise it"),
            ("learning_rate" in came, "learning_rate", "be given", "the default is not for Adam; try 0.001"),
        ):
            if not is_met:
                value = repr(getattr(self, field)) if field in came else "none"
                raise ValueError(f"training.{field}: must {rule} {given}, got {value}: {why}")
        return self

    @property
    def learns_pictures(self) -> bool:
        """Whether the network is the encoder of an autoencoder."""
        return self.objective != "classes"

    def keeps(self, epoch: int) -> bool:
        """Whether the weights after an epoch, counted from 1, stay."""
        return self.keep_epochs > 0 and (epoch == 1 or epoch % self.keep_epochs == 0)


class ExtractSettings(Section):
    """Forward pass and storage of activation columns."""

    columns_per_image: int | Literal["all", "auto"] = Field(
        "auto", description="stored training columns an image; auto: all for maps up to 16x16, else 256"
    )
    dtype: Literal["float16", "float32"] = "float16"
    codec: Literal["auto", "zstd", "none"] = Field(
        "auto", description="zstd with checksum, none with crc32c, or decided on the first shard"
    )
    zstd_level: int = Field(
        1, ge=1, le=22, description="1 packs post-ReLU float16 as small as 3 does, in half the time"
    )
    images_per_shard: int = Field(500, gt=0, description="one work item, one Zarr shard")
    images_per_chunk: int = Field(50, gt=0, description="smallest unit of reading; divides images_per_shard")
    batch: Annotated[int, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="images in one forward pass; part of the result's definition; auto: the largest divisor of "
        "images_per_shard up to 50 and, where extraction takes minutes, the fastest that changes no bit of its result",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the forward pass; bfloat16 takes less than half its time and changes 1 % of the words",
    )
    decode: Literal["cpu", "device"] = Field(
        "cpu",
        description="where JPEGs are decoded and cropped; device: on the actor's GPU, which changes pixels by a few "
        "grey levels and some words with them",
    )

    @model_validator(mode="after")
    def _aligned(self) -> ExtractSettings:
        for field in ("images_per_chunk", "batch"):
            if getattr(self, field) != "auto" and self.images_per_shard % getattr(self, field):
                raise ValueError(f"images_per_shard ({self.images_per_shard}) must be a multiple of {field}")
        return self

    @property
    def batches(self) -> tuple[int, ...]:
        """What ``batch`` allows, ascending."""
        if self.batch != "auto":
            return (self.batch,)
        fitting = [size for size in range(1, _BATCHES[-1] + 1) if self.images_per_shard % size == 0]
        return tuple(sorted({max(size for size in fitting if size <= most) for most in _BATCHES}))

    @property
    def largest_batch(self) -> int:
        """Taken where nothing is measured, and for columns that are stored."""
        return self.batches[-1]

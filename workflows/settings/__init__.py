"""What a run is told: frozen, documented field by field, without I/O.

A preset is a TOML file with one table per section below. ``--set section.field=value`` overrides one field.
Paths are relative to the folder the command is started in.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from workflows.errors import SettingsError
from workflows.settings.fit_settings import (
    DiscriminativeFitSettings,
    FitSettings,
    HMMSettings,
    ListScope,
    Names,
    Section,
    UserPath,
    UserPaths,
)

__all__ = [
    "DENSE",
    "DataSettings",
    "DiscriminativeFitSettings",
    "FitSettings",
    "HMMSettings",
    "ListScope",
    "NetworkSettings",
    "PreprocessingSettings",
    "RuntimeSettings",
    "Settings",
    "TrainingSettings",
    "load_settings",
    "parse_settings",
]

DENSE = "dense"
"""In ``network.layers``: the dense layers of the chain that ends in the output, found in the network."""


class DataSettings(Section):
    """Which images, and which of them train the dictionaries (S_T) or are counted (S_V)."""

    source: Literal["parquet", "folders", "cifar10", "digits"] = Field(
        description="parquet files (image{bytes,path}, label) | image folders by class | "
        "torchvision's CIFAR-10 | scikit-learn's digits"
    )
    train: UserPaths = Field((), description="parquet: files or glob patterns of the training images")
    validation: UserPaths = Field(
        (),
        description="parquet: files or glob patterns of the validation images; folders: as `folders`, with the same "
        "class folders, instead of drawing them",
    )
    folders: UserPaths = Field(
        (), description="folders: each holds one folder per class; equal class folders are joined"
    )
    image_column: str = Field("", description="parquet: of pictures; default: image, or the only one that can be")
    label_column: str = Field("", description="parquet: of labels; default: label, or the only one called like it")
    root: UserPath = Field("", description="cifar10: where torchvision keeps its files")
    download: bool = Field(False, description="cifar10: let torchvision download the files")
    validation_fraction: float = Field(
        0.25, gt=0, lt=1, description="folders without `validation`, digits: stratified share that becomes S_V"
    )
    class_names: UserPath = Field(
        "",
        description="JSON list of the names in output order, or torchvision:<WEIGHTS> for the names in the weights",
    )
    max_train: int | None = Field(None, gt=0, description="at most so many training images (class-balanced)")
    max_validation: int | None = Field(None, gt=0, description="at most so many validation images")
    max_broken: float = Field(0.01, ge=0, le=1, description="share of unreadable images that stops the run")

    @model_validator(mode="after")
    def _reads_what_is_named(self) -> DataSettings:
        reads = {"parquet": ("train", "validation"), "folders": ("folders", "validation"), "cifar10": ("root",)}
        for field, instead in (("train", "folders"), ("validation", ""), ("folders", "train"), ("root", "")):
            if getattr(self, field) and field not in reads.get(self.source, ()):
                offer = f"name them in data.{instead}" if instead in reads.get(self.source, ()) else "leave it out"
                raise ValueError(f"data.{field} is not read with source = {self.source!r}: {offer}")
        return self


class PreprocessingSettings(Section):
    """From a picture to the network's input."""

    resize: int | None = Field(None, gt=0, description="short side in pixels after resizing")
    crop: int | None = Field(None, gt=0, description="side of the centre crop in pixels")
    channels: Literal[1, 3] = Field(3, description="of the network's input: 3: red, green, blue; 1: grey (ITU-R 601)")
    scale: float = Field(255.0, gt=0, description="pixels 0..255 are divided by this")
    mean: tuple[float, ...] = Field(
        (0.485, 0.456, 0.406), description="subtracted per channel, after scale; as many as channels"
    )
    std: tuple[float, ...] = Field((0.229, 0.224, 0.225), description="divided per channel, after scale")

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_number(cls, numbers: Any) -> Any:
        return (numbers,) if isinstance(numbers, int | float) else numbers

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if any(value <= 0 for value in std):
            raise ValueError("every standard deviation must be above 0")
        return std


class NetworkSettings(Section):
    """The frozen network and its modelled layers."""

    name: str = Field(
        description="torchvision:<model>, timm:<model> (extra `timm`), or an import path package.module:callable; the "
        "current folder is looked into as well"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the callable")
    weights: UserPath = Field(
        description="a state dict file, torchvision:<WEIGHTS> or timm:<model>.<tag> to download, or `train` for the "
        "training section"
    )
    layers: Names = Field(
        min_length=1,
        description="modelled layers, lowest first: node names or aliases (add3, conv2_1); "
        "with an [hmm] section `dense`: all dense layers of the chain that ends in the output",
    )
    tap: Literal["pre", "post"] = Field("pre", description="the named node, or the ReLU behind it")

    @property
    def finds_layers(self) -> bool:
        """Whether the dense layers are found in the network instead of being named."""
        return self.layers == (DENSE,)


class TrainingSettings(Section):
    """Trains the network first (small networks on small images)."""

    epochs: int = Field(8, gt=0)
    batch: int = Field(64, gt=0, description="images")
    learning_rate: float = Field(0.02, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(5e-4, ge=0)
    flip: bool = Field(False, description="every image is mirrored with probability 1/2, anew in every epoch")
    shift: int = Field(0, ge=0, description="pixels an image is moved by at most, each way, anew in every epoch")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label spread over all classes")
    threads: int | None = Field(
        None, gt=0, description="torch threads; part of the result's definition; default: runtime.threads"
    )


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
    batch: int = Field(100, gt=0, description="images in one forward pass; part of the result's definition")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass")

    @model_validator(mode="after")
    def _aligned(self) -> ExtractSettings:
        for field in ("images_per_chunk", "batch"):
            if self.images_per_shard % getattr(self, field):
                raise ValueError(f"images_per_shard ({self.images_per_shard}) must be a multiple of {field}")
        return self


class TriageSettings(Section):
    """At which junction the path of a misclassified image leaves the paths of its true class."""

    min_images: int = Field(
        1, gt=0, description="correctly classified training images of a class that make a branch one of its own"
    )


class CountSettings(Section):
    """Co-occurrence over the validation images (IG Eq. 5, 6)."""

    scheduler: Literal["auto", "ray", "threads"] = Field("auto", description="auto: ray when joining a cluster")


class MineSettings(Section):
    """Algorithm 1."""

    classes: Names = Field(("all",), description="class names or ids; all")
    images: Names = Field(
        ("misclassified",),
        description="image ids, misclassified (validation images), or misclassified:N for the first N; empty: none",
    )
    top: int = Field(3, gt=0, description="Z: words kept in a layer")
    prior: Literal["marginal", "frequency"] = "marginal"
    pseudo_count: float = Field(1.0, ge=0, description="m of the smoothed P(t|s); 0 is the paper")
    positive_only: bool = False


class DrawSettings(Section):
    """Figures."""

    rectangle_layers: int = Field(2, ge=0, description="so many highest layers show rectangles, lower ones patches")
    exemplars: int = Field(6, gt=0, le=12)
    code_edges: bool = Field(False, description="always draw the edges of the class node, as the authors' code")
    paths: Names = Field(
        ("misclassified:12",),
        description="[hmm]: images whose path is drawn: ids, misclassified, misclassified:N for the first N",
    )
    junctions: int = Field(
        8,
        ge=0,
        description="[hmm]: so many decision junctions, those with most errors first; "
        "`start`, which has no word, is left out",
    )


class RuntimeSettings(Section):
    """Where and how wide it runs. It may differ when a run is resumed.

    The number of actors changes no bit of a result, but for ``fit_actors``: it changes the order of float64 sums, about
    1e-12 of a parameter. Another device or number of threads changes the last bits of
    activations and of trained weights.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    actors: int | None = Field(None, gt=0, description="extract, words and draw actors; default: one per GPU or core")
    fit_actors: int = Field(1, gt=0, description="W: actors that share one fit")
    threads: int = Field(1, gt=0, description="torch threads of an actor; 1 keeps words independent of actors")
    decode_threads: int = Field(2, gt=0, description="picture decoding threads of an actor")
    max_attempts: int = Field(3, gt=0, description="tries of a shard before the run stops")
    item_timeout_s: float | None = Field(
        None,
        gt=0,
        description="seconds after which a shard or a figure counts as hung and is tried again; default: never",
    )
    hung_after_s: float = Field(
        1800.0,
        gt=0,
        description="seconds after which a fit actor counts as hung and its group starts again from the checkpoint: "
        "for 10 steps, or all held-out images at the end of an epoch",
    )
    disk_margin: float = Field(1.1, ge=1, description="free disk must be the plan's size times this")
    memory_gb: float | None = Field(None, gt=0, description="memory the plan may use; default: what is free")


class Settings(Section):
    """A whole run."""

    name: str = Field(description="shown in figures and in `network` columns")
    seed: int = 0
    data: DataSettings
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    network: NetworkSettings
    training: TrainingSettings | None = None
    extract: ExtractSettings = ExtractSettings()
    fit: FitSettings
    discriminative: DiscriminativeFitSettings = DiscriminativeFitSettings()
    hmm: HMMSettings | None = None
    triage: TriageSettings = TriageSettings()
    count: CountSettings = CountSettings()
    mine: MineSettings = MineSettings()
    draw: DrawSettings = DrawSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        words, layers = self.fit.words, self.network.layers
        if "output" in layers:
            raise ValueError("network.layers: the output is always modelled, leave 'output' out")
        if len(words) not in (1, len(layers)) and not self.network.finds_layers:
            raise ValueError(f"fit.words has {len(words)} numbers for {len(layers)} layers: give one, or one per layer")
        if self.hmm is None and DENSE in layers:
            raise ValueError("network.layers = ['dense'] needs an [hmm] section; name the layers, or add the section")
        if self.hmm is not None and self.fit.var_floor == 0:
            raise ValueError("[hmm] needs fit.var_floor above 0: a unit that is always zero has no variance of its own")
        if self.hmm is not None and self.network.tap != "post":
            raise ValueError(
                "[hmm] reads dense layers behind their ReLU, where zeros are exact: set network.tap = 'post'"
            )
        if self.hmm is not None and (self.fit.scopes != ("joint",) or self.fit.loss != "generative"):
            raise ValueError("[hmm] has one chain for all classes: set fit.scopes = ['joint'], fit.loss = 'generative'")
        if self.hmm is not None and self.fit.word_slices > 1:
            raise ValueError(
                f"fit.word_slices is {self.fit.word_slices}, and the words of [hmm] are not sliced: set it to 1"
            )
        if self.fit.scopes == ("class",) and not self.mine.classes:
            raise ValueError(
                "fit.scopes = ['class'] makes a scope of every class of mine.classes, which is []: name classes in "
                "mine.classes, set it to ['all'], or add 'joint' to fit.scopes"
            )
        if self.network.weights == "train" and self.training is None:
            raise ValueError("network.weights = 'train' needs a [training] section")
        return self

    def words_of_layers(self, n_layers: int) -> tuple[int, ...]:
        """K of every modelled layer, lowest first.

        Raises:
            SettingsError: the network has another number of layers than ``fit.words`` has numbers.
        """
        words = self.fit.words
        if len(words) not in (1, n_layers):
            raise SettingsError(f"fit.words has {len(words)} numbers for {n_layers} layers: give one, or one per layer")
        return words if len(words) > 1 else words * n_layers


def load_settings(preset: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a preset and apply ``section.field=value`` overrides (values in TOML, bare text allowed).

    Raises:
        SettingsError: the file is missing or no TOML, or a field is unknown, mistyped or contradictory.
    """
    try:
        raw = tomllib.loads(_text(preset))
    except FileNotFoundError:
        raise SettingsError(f"preset {str(preset)!r} does not exist; presets ship in infra/presets") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise SettingsError(f"preset {str(preset)!r} is not a TOML file: {error}") from None
    for override in overrides:
        _apply(raw, override)
    return parse_settings(raw)


def _text(preset: Path) -> str:
    content = preset.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SettingsError(f"preset {str(preset)!r} is UTF-16; save it as UTF-8")
    # Some editors begin UTF-8 with a byte order mark, which TOML does not know.
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def parse_settings(raw: dict[str, Any]) -> Settings:
    """Check a nested dictionary of settings; see ``load_settings``."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from None


def _apply(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise SettingsError(f"--set {override!r}: write section.field=value")
    *sections, field = path.strip().split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SettingsError(f"--set {override!r}: {section!r} is not a section")
    target[field] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such field{_nearest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"{field}: is required"
    came = "" if isinstance(problem["input"], dict) else f" (came: {problem['input']!r})"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{came}"


def _nearest(location: Sequence[Any]) -> str:
    import difflib

    section: Any = Settings
    for part in (part for part in location[:-1] if isinstance(part, str)):
        annotation = section.model_fields[part].annotation
        section = next((a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")), annotation)
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; the fields are {', '.join(known)}"

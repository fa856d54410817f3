"""What a run is told of its pictures: where they are, and how they become the input of the network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from workflows.settings.section import Names, Section, UserPath, UserPaths

MASK_SOURCES = ("coco", "boxes", "broden", "labels", "colours")
"""What may stand before the colon of ``data.masks``."""


class DataSettings(Section):
    """Which images, and which of them train the dictionaries (S_T) or are counted (S_V)."""

    source: Literal["parquet", "folders", "cifar10", "digits", "scenes"] = Field(
        description="parquet files (image{bytes,path}, label) | image folders by class | "
        "torchvision's CIFAR-10 | scikit-learn's digits | drawn objects whose parts move"
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
    labels: Literal["given", "none"] = Field(
        "given",
        description="none: folders of images without classes, at any depth; words by likelihood alone, and no errors, "
        "neighbours or accuracy; where a class is asked for, it is the predicted one",
    )
    masks: str = Field(
        "",
        description="masks or boxes of the images, for the studies that ask for some: coco:FILE, boxes:FILE, "
        "broden:FOLDER, labels:FOLDER or colours:FOLDER",
    )
    endings: Names = Field(
        (), description="labels = none: read files with these endings only, such as .jpg where masks lie beside photos"
    )
    image_column: str = Field("", description="parquet: of pictures; default: image, or the only one that can be")
    label_column: str = Field("", description="parquet: of labels; default: label, or the only one called like it")
    root: UserPath = Field("", description="cifar10: where torchvision keeps its files")
    download: bool = Field(False, description="cifar10: let torchvision download the files")
    validation_fraction: float = Field(
        0.25, gt=0, lt=1, description="folders without `validation`, digits, scenes: stratified share that becomes S_V"
    )
    class_names: UserPath = Field(
        "",
        description="JSON list of the names in output order, or torchvision:<WEIGHTS> for the names in the weights",
    )
    max_train: int | None = Field(None, gt=0, description="at most so many training images (class-balanced)")
    max_validation: int | None = Field(None, gt=0, description="at most so many validation images")
    max_broken: float = Field(0.01, ge=0, le=1, description="share of unreadable images that stops the run")

    @field_validator("masks")
    @classmethod
    def _known_masks(cls, masks: str) -> str:
        kind, colon, place = masks.partition(":")
        if masks and not (kind in MASK_SOURCES and colon and place.strip()):
            raise ValueError(f"must be one of {', '.join(MASK_SOURCES)}, a colon and a path; got {masks!r}")
        return masks

    @model_validator(mode="after")
    def _has_labels(self) -> DataSettings:
        if self.labels == "none" and self.source != "folders":
            raise ValueError(f"data.labels = 'none' must have source = 'folders', got {self.source!r}: leave it out")
        if self.endings and self.labels != "none":
            raise ValueError(f"data.endings must have data.labels = 'none', got {self.labels!r}: leave it out")
        strange = [ending for ending in self.endings if not ending.startswith(".") or ending != ending.lower()]
        if strange:
            raise ValueError(f"data.endings must be like .jpg, in small letters, got {', '.join(strange)}")
        return self

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

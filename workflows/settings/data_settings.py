"""What a run is told of its pictures: where they are, and how they become the input of the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from workflows.settings.section import Names, Section, UserPath, UserPaths

MASK_SOURCES = ("coco", "boxes", "broden", "labels", "colours")
"""What may stand before the colon of ``data.masks``."""


ONE_WORD, A_LIST = "one word", "a list"
"""The two ways of ``data.labels``."""


class FolderLabel(Section):
    """A label of several class folders, ``[[data.labels]]`` in a preset: one output of the network."""

    name: str = Field(min_length=1, description="of the class")
    folders: Names = Field((), description="names of its class folders")
    rest: bool = Field(False, description="instead of folders: every class folder that no label names")

    @model_validator(mode="after")
    def _names_something(self) -> FolderLabel:
        if self.rest == bool(self.folders):
            came = "both" if self.rest else "neither"
            raise ValueError(f"must have folders or rest = true, got {came}; name class folders, or all others")
        return self


LabelChoice = Annotated[
    Annotated[Literal["given", "none"], Tag(ONE_WORD)] | Annotated[tuple[FolderLabel, ...], Tag(A_LIST)],
    Discriminator(lambda given: ONE_WORD if isinstance(given, str) else A_LIST),
]


class DataSettings(Section):
    """Which images, and which of them train the dictionaries (S_T) or are counted (S_V)."""

    source: Literal["parquet", "tar", "folders", "imagenet", "crops", "cifar10", "digits", "scenes"] = Field(
        description="parquet files (image{bytes,path}, label) | tar files of WebDataset | image folders by class | "
        "ImageNet as it is published | crops of the objects and of the background in image folders by class | "
        "torchvision's CIFAR-10 | scikit-learn's digits | drawn objects whose parts move; the first four by path, or "
        "by URI of an object store (s3://, gs://, https://)"
    )
    train: UserPaths = Field(
        (),
        description="parquet, tar: files or patterns of the training images; `*`, `**`, `{000..146}`",
    )
    validation: UserPaths = Field(
        (),
        description="parquet, tar: files or patterns of the validation images; folders: as `folders`, with the same "
        "class folders, instead of drawing them",
    )
    folders: UserPaths = Field(
        (), description="folders, crops: each holds one folder per class; equal class folders are joined"
    )
    boxes: UserPath = Field(
        "",
        description="crops: CSV file of the objects' boxes; a class with boxes is a label of its objects, the last "
        "label is `background`: crops of the same photos that hardly touch an object (IoU below 0.1), and photos of "
        "other classes",
    )
    labels: LabelChoice = Field(
        "given",
        description="none: folders of images without classes, at any depth; words by likelihood alone, and no errors, "
        "neighbours or accuracy; where a class is asked for, it is the predicted one. A list of name and folders (or "
        "rest = true): class folders are joined to these labels, the network's outputs in this order; others are left "
        "out",
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
    label_column: str = Field(
        "",
        description="parquet: of labels; default: label, or the only one called like it; tar: key of the label in "
        ".json; default: .cls, label in .json, or the folder",
    )
    root: UserPath = Field(
        "",
        description="cifar10: where torchvision keeps its files; imagenet: the folder of train/ and val/",
    )
    ground_truth: UserPath = Field(
        "",
        description="imagenet: classes of the pictures in val/: LOC_val_solution.csv, a file of names and classes or "
        "of classes alone, or the development kit's ILSVRC2012_validation_ground_truth.txt with its meta.mat beside it",
    )
    download: bool = Field(False, description="cifar10: let torchvision download the files")
    validation_fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="folders without `validation`, crops, digits, scenes: stratified share that becomes S_V; crops of "
        "a photo stay together",
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

    @property
    def joined_labels(self) -> tuple[FolderLabel, ...]:
        """Labels of several class folders each; none where folders are their own labels."""
        return () if isinstance(self.labels, str) else self.labels

    @model_validator(mode="after")
    def _joins_folders(self) -> DataSettings:
        if isinstance(self.labels, str):
            return self
        names = [label.name for label in self.labels]
        if len(set(names)) < max(2, len(names)):
            raise ValueError(
                f"data.labels: must have at least 2 labels of different names, got {', '.join(names) or 'none'}; a "
                "network decides between them"
            )
        if sum(label.rest for label in self.labels) > 1:
            raise ValueError("data.labels: must have one label with rest = true at most, got several; name folders")
        if self.class_names:
            raise ValueError(
                f"data.class_names: must be left out with a list of data.labels, which names the outputs, got "
                f"{self.class_names!r}"
            )
        return self

    @model_validator(mode="after")
    def _has_labels(self) -> DataSettings:
        if self.labels != "given" and self.source != "folders":
            given = "'none'" if self.labels == "none" else "a list"
            raise ValueError(f"data.labels = {given} must have source = 'folders', got {self.source!r}: leave it out")
        if self.endings and self.labels != "none":
            raise ValueError(f"data.endings must have data.labels = 'none', got {self.labels!r}: leave it out")
        strange = [ending for ending in self.endings if not ending.startswith(".") or ending != ending.lower()]
        if strange:
            raise ValueError(f"data.endings must be like .jpg, in small letters, got {', '.join(strange)}")
        return self

    @model_validator(mode="after")
    def _reads_what_is_named(self) -> DataSettings:
        reads = {
            "parquet": ("train", "validation"),
            "tar": ("train", "validation"),
            "imagenet": ("root", "ground_truth"),
            "folders": ("folders", "validation"),
            "crops": ("folders", "boxes"),
            "cifar10": ("root",),
        }
        if self.source == "crops" and not self.boxes:
            raise ValueError("data.boxes: must be a CSV file with source = 'crops', got none; name the objects' boxes")
        lacking = [field for field in reads["imagenet"] if not getattr(self, field)]
        if self.source == "imagenet" and lacking:
            raise ValueError(
                f"data.{lacking[0]}: must be given with source = 'imagenet', got none; where val/ holds a folder a "
                "class, use source = 'folders' with data.validation"
            )
        offers = {"train": "folders", "folders": "train"}
        for field in ("train", "validation", "folders", "boxes", "root", "ground_truth"):
            instead = offers.get(field, "")
            if getattr(self, field) and field not in reads.get(self.source, ()):
                offer = f"name them in data.{instead}" if instead in reads.get(self.source, ()) else "leave it out"
                raise ValueError(f"data.{field} is not read with source = {self.source!r}: {offer}")
        return self


class PreprocessingSettings(Section):
    """From a picture to the network's input."""

    resize: int | None = Field(None, gt=0, description="short side in pixels after resizing")
    crop: int | None = Field(None, gt=0, description="side of the centre crop in pixels")
    channels: Literal[1, 3] = Field(3, description="of the network's input: 3: red, green, blue; 1: grey (ITU-R 601)")
    channel_order: Literal["rgb", "bgr"] = Field(
        "rgb",
        description="of the network's input, and of mean and std; bgr: blue first, as networks from Caffe read it",
    )
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

    @model_validator(mode="after")
    def _has_an_order(self) -> PreprocessingSettings:
        if self.channel_order != "rgb" and self.channels == 1:
            raise ValueError(
                f"preprocessing.channel_order: must be 'rgb' with channels = 1, got {self.channel_order!r}, but grey "
                "has no order; leave it out"
            )
        return self

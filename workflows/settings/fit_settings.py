"""What a run is told of its dictionaries: whose they are, how they are fitted, and by which loss."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from workflows.settings.section import Names, Section

ScopeKind = Literal["joint", "class", "list"]


class ListScope(Section):
    """A dictionary of named classes, ``[[fit.lists]]`` in a preset."""

    name: str = Field(min_length=1, description="of the scope, which is called list-<name>")
    classes: Names = Field(min_length=1, description="class names or ids; their graphs can be mined")
    rest: bool = Field(False, description="every other class is one more label, `rest`")


class FitSettings(Section):
    """Dictionaries: one mixture per scope and layer by online EM (Cappé & Moulines 2009), then by IG Eq. 8 if asked."""

    scopes: tuple[ScopeKind, ...] = Field(
        ("joint",),
        min_length=1,
        description="joint: one dictionary for all classes; class: one for every class of mine.classes and its "
        "neighbours (`all` leaves out, and tells, classes that cannot have one); list: those of fit.lists",
    )
    lists: tuple[ListScope, ...] = Field((), description="scope list: named classes, each list one dictionary")
    loss: Literal["generative", "discriminative"] = Field(
        "generative", description="likelihood alone, or from there on the cross entropy of the labels (IG Eq. 8)"
    )
    min_confusions: int = Field(
        1, gt=0, description="scope class: validation images of the class predicted as another make it a neighbour"
    )
    max_neighbours: int | None = Field(
        None, gt=0, description="scope class: at most so many, the most frequent (ties: lowest id); default: all"
    )
    min_images: int = Field(20, gt=0, description="training images of every label that the discriminative loss needs")
    words: tuple[int, ...] = Field(min_length=1, description="K: one for all layers, or one per layer")
    word_slices: int = Field(
        1,
        gt=0,
        description="actors over which the words of every dictionary are sliced, for one that a device cannot hold; "
        "above 1 it is the size of a fit's group in place of runtime.fit_actors, and results differ in the last bits",
    )
    minibatch: int = Field(
        50_000, gt=0, description="columns of a global minibatch, at most; 10 columns a word where that is less"
    )
    epochs: int = Field(3, gt=0, description="passes over the columns; more where these are less than 50 steps")
    exponent: float = Field(0.51, gt=0.5, le=1, description="a of the step size (n + offset)^-a")
    offset: float = Field(1.0, ge=1)
    warmup: int = Field(
        20,
        ge=0,
        description="minibatches before the first M-step, at most a 50th of all; [hmm]: at most the first epoch",
    )
    var_floor: float = Field(1e-4, ge=0, description="lowest variance, times what floor_of names")
    floor_of: Literal["layer", "unit"] = Field(
        "layer",
        description="var_floor is a share of the layer's mean variance, or of each unit's own, for layers whose units "
        "differ by orders of magnitude",
    )
    variance_of: Literal["word", "unit", "layer"] = Field(
        "word",
        description="what has a variance of its own: each unit of each word (the paper's), each unit for all words "
        "alike, or the layer, one number; shared ones keep more of the network's decisions in the words' means",
    )
    min_share: float = Field(
        0.05, ge=0, lt=1, description="times 1/K: a word below it takes half of the heaviest word; 0: never"
    )
    init: Literal["random", "kmeans++"] = "random"
    polyak: bool = False
    tolerance: float = Field(1e-4, ge=0, description="relative held-out gain of an epoch that stops the fit")
    held_out: float = Field(0.1, gt=0, lt=1, description="share of the training images, by image")
    checkpoint_steps: int = Field(50, gt=0, description="steps between checkpoints")

    @field_validator("words", mode="before")
    @classmethod
    def _one_number(cls, words: Any) -> Any:
        return (words,) if isinstance(words, int) else words

    @field_validator("words")
    @classmethod
    def _enough(cls, words: tuple[int, ...]) -> tuple[int, ...]:
        if any(count < 1 for count in words):
            raise ValueError("every layer needs at least 1 word")
        return words

    @field_validator("scopes", mode="before")
    @classmethod
    def _one_scope(cls, scopes: Any) -> Any:
        return (scopes,) if isinstance(scopes, str) else scopes

    @field_validator("scopes")
    @classmethod
    def _once(cls, scopes: tuple[ScopeKind, ...]) -> tuple[ScopeKind, ...]:
        if len(set(scopes)) < len(scopes):
            raise ValueError("every kind of scope is given once")
        return scopes

    @model_validator(mode="after")
    def _sliced(self) -> FitSettings:
        if self.word_slices > min(self.words):
            raise ValueError(
                f"word_slices has {self.word_slices} actors for {min(self.words)} words, and each needs one: "
                "take fewer slices or more words"
            )
        if self.word_slices > 1 and self.init != "random":
            raise ValueError(f"word_slices above 1 starts from random columns: set init = 'random', not {self.init!r}")
        return self

    @model_validator(mode="after")
    def _listed(self) -> FitSettings:
        names = [one.name for one in self.lists]
        if "list" in self.scopes and not names:
            raise ValueError("scopes has 'list', so lists must have one: [[fit.lists]] with name, classes, rest")
        if "list" not in self.scopes and names:
            raise ValueError(f"lists has {', '.join(names)}, which only scopes = ['list'] reads: add 'list' to scopes")
        if len(set(names)) < len(names):
            raise ValueError(f"lists must have different names, not {', '.join(names)}")
        if self.loss == "discriminative" and self.var_floor == 0:
            raise ValueError("loss = 'discriminative' needs a var_floor above 0")
        return self


class DiscriminativeFitSettings(Section):
    """Training words and a linear layer on their histograms for the decision (IG Eq. 8), with Adam."""

    epochs: int = Field(10, gt=0, description="passes over the fitted images, at most")
    batch: int = Field(100, gt=0, description="images of a global minibatch")
    mixture_rate: float = Field(
        1e-2, ge=0, allow_inf_nan=False, description="highest learning rate of the words; means in layer deviations"
    )
    classifier_rate: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="highest of the linear layer, whose inputs are shares of words"
    )
    start: Literal["generative", "paper"] = Field(
        "generative", description="the fitted mixture, or the paper's: random columns, one variance, equal shares"
    )
    columns: Literal["stored", "recomputed"] = Field(
        "stored", description="read the stored columns, or run the network on the images again"
    )
    patience: int = Field(
        10,
        gt=0,
        description="stop after so many epochs without a lower held-out loss; the rates fall towards the end, so it "
        "often falls late",
    )
    precision: Literal["float32", "float64"] = Field("float32", description="of the products; sums are float64")
    max_loss: float = Field(
        20.0, gt=1, allow_inf_nan=False, description="times log(labels): a minibatch above it stops the fit"
    )


class HMMSettings(Section):
    """One hidden Markov model over a chain of dense layers, instead of a mixture a layer (IG section 3.1).

    It is fitted by online EM as ``[fit]`` says; a column is an image, so ``fit.minibatch`` counts images.
    """

    output: Literal["fixed", "gaussian"] = Field(
        "fixed",
        description="the last variable is the prediction, observed, so paths end in a class; "
        "or a layer of words on the logits, plain Gaussians",
    )
    restarts: int = Field(3, gt=0, description="fits from different starts; the best held-out likelihood is kept")
    clamp: float = Field(5.0, gt=0, description="a rectified mean stays above so many standard deviations below 0")
    transition_prior: float = Field(0.1, ge=0, description="pseudo-images per cell of every transition table")

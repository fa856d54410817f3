"""What a run is told of its graphs: what is counted, mined and drawn."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from workflows.settings.section import Names, Section

ALL_FIGURES, ASKED_FIGURES, NO_FIGURES = "all", "asked", "none"
_GRAPH = re.compile(r"class:.+|image:\d+")


class TriageSettings(Section):
    """At which junction the path of a misclassified image leaves the paths of its true class."""

    min_images: int = Field(
        1, gt=0, description="correctly classified training images of a class that make a branch one of its own"
    )


class CountSettings(Section):
    """Co-occurrence over the validation images (IG Eq. 5, 6)."""

    scheduler: Literal["auto", "ray", "threads"] = Field("auto", description="auto: ray when joining a cluster")
    pairs: Literal["total", "per_class", "none"] = Field(
        "total",
        description="rows of the table `pairs`: all pairs of words that occur together; also those of every class by "
        "itself; no table",
    )
    intervals: bool = Field(
        True,
        description="95 % intervals of log ratios over images (tables `edges`, `pairs`), from sums of squares of the "
        "counts of single images: counting pairs takes four to five times as long, and 64 bytes on disk for each pair "
        "of words that occurs",
    )
    folds: int = Field(
        20,
        ge=0,
        description="of each class's validation images, dealt by a hash of their ids: how often every word of a graph "
        "is chosen again on 200 resamplings of them (`nodes.chosen_again`); 0: not asked. Counts are kept by class and "
        "fold too: up to so many times their bytes on disk and in the memory of the mine stage",
    )

    @field_validator("folds")
    @classmethod
    def _are_several(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("must be 0, or at least 2: with one fold every resampling is the same; give 20, or 0")
        return folds


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
    criterion: Literal["likelihood", "effect", "both"] = Field(
        "likelihood",
        description="what the words of a graph are chosen by: `likelihood`, the paper's Algorithm 1; `effect`, what "
        "taking them out of the network would cost the class's logit, to first order (one forward and backward pass "
        "over the validation images); `both`: two graphs of everything that is asked for",
    )
    intervention: Literal["shift", "mean"] = Field(
        "shift",
        description="what columns say without their word in a graph by effect: `shift` x - mu_w + centre (the residual "
        "stays), `mean` the layer's mean column",
    )

    @property
    def criteria(self) -> tuple[str, ...]:
        """One or two, as the column `criterion` has them."""
        return ("likelihood", "effect") if self.criterion == "both" else (self.criterion,)


class DrawSettings(Section):
    """Figures."""

    figures: Names = Field(
        ("all",),
        description="all; asked: of the classes and images that [mine] names one by one; class:<name or id>, "
        "image:<id>: these, beside asked or alone; none",
    )
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

    @field_validator("figures")
    @classmethod
    def _are_known(cls, figures: tuple[str, ...]) -> tuple[str, ...]:
        alone = len(figures) == 1 and figures[0] in (ALL_FIGURES, NO_FIGURES)
        if not alone and not all(one == ASKED_FIGURES or _GRAPH.fullmatch(one) for one in figures):
            raise ValueError(
                "must be all, asked, none, or a list of asked, class:<name or id> and image:<id>; give one of these"
            )
        return figures

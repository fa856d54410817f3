"""Shortcuts planted in networks trained from scratch, and decoys: does `trust --shortcuts` find them, and their use?

What is measured was fixed before any of the networks was trained. A *mark's word* of a layer is the word that covers
the cells of the mark best, by IoU over the class's Omega; below 0.2 the mark has none in the layer. A mark is found if
its word of some layer is among the first three of its class's ranking, which has the words of all layers; it is called
used if its word of some layer is. *Nearest used* also takes words of a lower IoU.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from gmm_ops.units.ablation import wilson
from tests.benchmarks.planted_marks import (
    CIFAR,
    Mark,
    MarkedImages,
    MarkWord,
    best_word,
    by_label,
    chosen_marks,
    marked,
    on_cells,
    read_cifar,
    write_images,
)
from workflows.asking.study import Asked
from workflows.networks.architectures import digits_resnet
from workflows.pipeline import run_pipeline
from workflows.run import Run, open_run
from workflows.settings import Settings, load_settings
from workflows.storage.images_table import ImageColumns
from workflows.studies.trust.command import run_trust
from workflows.studies.trust.request import TrustRequest
from workflows.words.word_maps import read_words

PRESET = Path(__file__).parents[2] / "infra" / "presets" / "digits.toml"
NETWORKS, SEED, FIRST = 5, 2026, 3


@dataclass(frozen=True)
class Size:
    """Images that the network learns from, that words are learned from and that are looked at; epochs; words."""

    learned: int = 6_000
    words_from: int = 2_000
    looked_at: int = 1_500
    epochs: int = 8
    words: tuple[int, ...] = (40, 50, 50)


TINY = Size(600, 300, 400, 2, (8, 8, 8))


@dataclass(frozen=True)
class Case:
    """A mark and what was found of it.

    Attributes:
        network: which.
        mark: what was drawn.
        attack: share of other classes' images that the network calls the class once they have the mark.
        before: the same without the mark.
        words: by layer: what covers the mark best, its rank, and whether it is used; None of a word without a drop.
        first: what stands first in the class's ranking.
    """

    network: int
    mark: Mark
    attack: float
    before: float
    words: tuple[tuple[str, MarkWord, int | None, bool], ...]
    first: str

    @property
    def rank(self) -> int:
        """Of its best word, from 0; where none has a rank, the last that there could be."""
        return min((rank for _, word, rank, _ in self.words if word.is_own and rank is not None), default=999)

    @property
    def used(self) -> bool:
        """Whether some layer's word is."""
        return any(used for _, word, _, used in self.words if word.is_own)

    @property
    def nearest_used(self) -> bool:
        """The same where what covers the mark best counts, however badly."""
        return any(used for *_, used in self.words)

    @property
    def has_word(self) -> bool:
        """Whether the mark has one in some layer."""
        return any(word.is_own for _, word, *_ in self.words)


def measure(tiny: bool = False, networks: Sequence[int] | None = None, seed: int = SEED) -> list[dict[str, Any]]:
    """One row a mark, then one a measure."""
    chosen = (range(1) if tiny else range(NETWORKS)) if networks is None else networks
    cases, clean = list[Case](), np.zeros(2, int)
    for network in chosen:
        with tempfile.TemporaryDirectory() as place:
            own, flagged = planted_network(Path(place), network, seed, TINY if tiny else Size())
        cases, clean = [*cases, *own], clean + flagged
        for case in own:
            print(_row(case), flush=True)
    return [*map(_row, cases), *_summary(cases, clean)]


def planted_network(place: Path, network: int, seed: int, size: Size) -> tuple[list[Case], np.ndarray]:
    """The cases of a network; of the classes without a mark, the words that are called used, and all of them."""
    started, marks = time.perf_counter(), chosen_marks(network, seed)
    pictures = _pictures(size)
    seeds = np.random.SeedSequence([seed, network]).generate_state(3).tolist()
    sets = [
        marked(*some, marks, learned, one)
        for some, learned, one in zip(pictures, (True, False, False), seeds, strict=True)
    ]
    for name, one in zip(("learned", "words", "looked"), sets, strict=True):
        write_images(place / f"{name}.parquet", one)
    trained = run_pipeline(
        _settings(place, network, size, "learned", "looked", "train"), place / "net", Console(quiet=True), until="train"
    )
    attacks = dict(_attacks(trained.root / "weights.pt", pictures[2], marks, network))
    told = ", ".join(f"{mark.role} {mark} {after:.2f}" for mark, (_, after) in attacks.items())
    print(
        f"network {network}: {time.perf_counter() - started:.0f} s, calls marked images the class: {told}", flush=True
    )
    settings = _settings(place, network, size, "words", "looked", str(trained.root / "weights.pt"))
    run_pipeline(settings, place / "run", Console(quiet=True), until="mine")
    asked = TrustRequest(interventions=("shift",), draws=1, shortcuts=True)
    run_trust(Asked(place / "run", Console(quiet=True)), asked)
    run = open_run(place / "run")
    rows = run.table("shortcuts").to_pylist()
    cases = [Case(network, mark, *attacks[mark][::-1], *_found(run, sets[2], mark, rows)) for mark in marks]
    clean = [row["used"] for row in rows if row["class"] not in by_label(marks)]
    print(f"network {network}: {time.perf_counter() - started:.0f} s in all", flush=True)
    return cases, np.array([sum(clean), len(clean)])


def _pictures(size: Size) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the network learns from, what words are learned from, and what is looked at: test images, then others."""
    last = size.learned + size.words_from
    tested = read_cifar("test", 0, size.looked_at)
    further = size.looked_at - len(tested[1])
    if further:
        others = read_cifar("train", last, last + further)
        tested = np.concatenate([tested[0], others[0]]), np.concatenate([tested[1], others[1]])
    return [read_cifar("train", 0, size.learned), read_cifar("train", size.learned, last), tested]


def _settings(place: Path, network: int, size: Size, train: str, validation: str, weights: str) -> Settings:
    training = [f"training.epochs={size.epochs}", "training.flip=true", "training.learning_rate=0.05"]
    return load_settings(
        PRESET,
        [
            "name=planted",
            "data.source=parquet",
            f"data.train=['{place}/{train}.parquet']",
            f"data.validation=['{place}/{validation}.parquet']",
            f"data.class_names={CIFAR}/classes.json",
            f"network.weights={weights}",
            *(training if weights == "train" else []),
            f"seed={network}",
            f"fit.words={list(size.words)}",
            "fit.min_images=1",
            "fit.epochs=2",
            "discriminative.epochs=2",
            "extract.images_per_shard=500",
            "mine.images=[]",
            "draw.figures=none",
        ],
    )


def _attacks(
    weights: Path, tested: tuple[np.ndarray, np.ndarray], marks: Sequence[Mark], seed: int
) -> Iterator[tuple[Mark, tuple[float, float]]]:
    """By mark: the share of other classes' images that are called the class, without it and with it."""
    network, chance = digits_resnet(), np.random.default_rng(seed)
    network.load_state_dict(torch.load(weights, weights_only=True))
    for mark in marks:
        others = tested[0][tested[1] != mark.label]
        with_mark = np.stack([mark.drawn(one, chance)[0] for one in others])
        before, after = (float((_called(network, some) == mark.label).mean()) for some in (others, with_mark))
        yield mark, (before, after)


@torch.inference_mode()
def _called(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    network.eval()
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([network(some).argmax(dim=1) for some in images.split(200)]).numpy()


def _found(
    run: Run, looked_at: MarkedImages, mark: Mark, rows: Sequence[Mapping[str, Any]]
) -> tuple[tuple[tuple[str, MarkWord, int | None, bool], ...], str]:
    """By layer, what is said of the mark's word; and the word that stands first."""
    plan = run.plan
    images = ImageColumns.read(run.folder, plan.train_images, plan.images)
    omega, rows_of = np.flatnonzero(images.predicted == mark.label), _rows_in_file(run)
    assert np.array_equal(looked_at.labels[rows_of], images.label)
    rows_of = rows_of[omega]
    own = {(row["layer"], row["word"]): row for row in rows if row["class"] == mark.label}
    found = []
    for layer in plan.layers:
        words = read_words(run.folder, "joint", layer.name, plan.train_images, plan.images).numpy()[omega]
        here = looked_at.where[rows_of] & (looked_at.mark[rows_of] == mark.label)[:, None, None]
        word = best_word(words, on_cells(here, layer.height, layer.width), layer.words)
        row = own.get((layer.name, word.word))
        found.append((layer.given, word, None if row is None else row["rank"], bool(row and row["used"])))
    given = {layer.name: layer.given for layer in plan.layers}
    firsts = [f"{given[row['layer']]} {row['word']}" for row in own.values() if row["rank"] == 0]
    return tuple(found), (firsts or ["none"])[0]


def _rows_in_file(run: Run) -> np.ndarray:
    """Of the images that are looked at: the run has them in the order of their classes."""
    paths = run.table("images", filters=[("split", "=", "validation")])["path"].to_pylist()
    return np.array([int(re.findall(r"#(\d+)", path)[-1]) for path in paths])


def _row(case: Case) -> dict[str, Any]:
    words = [
        f"{layer} {word.word}: {'no drop' if rank is None else f'rank {rank + 1}'}{', used' if used else ''} "
        f"(IoU {word.iou:.2f})"
        for layer, word, rank, used in case.words
        if word.is_own
    ]
    return {
        "case": f"{case.network}, class {case.mark.label}: {case.mark.role} {case.mark}",
        "called the class": case.attack,
        "before": case.before,
        "first three": "yes" if case.rank < FIRST else "no",
        "used": "yes" if case.used else "no",
        "nearest used": "yes" if case.nearest_used else "no",
        "the mark's words": "; ".join(words) or "none",
        "ranked first": case.first,
    }


def _summary(cases: Sequence[Case], clean: np.ndarray) -> Iterator[dict[str, Any]]:
    planted, decoys = ([case for case in cases if case.mark.planted == one] for one in (True, False))
    kinds = {role: [case for case in decoys if case.mark.role == role] for role in ("unseen", "ignored")}
    for name, some in {"planted": planted, "decoys": decoys, **kinds}.items():
        yield {
            "case": f"{len(some)} {name}",
            "called the class": float(np.mean([case.attack for case in some])),
            "before": float(np.mean([case.before for case in some])),
            "first three": _share(sum(case.rank < FIRST for case in some), len(some)),
            "used": _share(sum(case.used for case in some), len(some)),
            "nearest used": _share(sum(case.nearest_used for case in some), len(some)),
            "the mark's words": f"{sum(case.has_word for case in some)} of {len(some)} have one",
            "ranked first": "",
        }
    yield {
        "case": "words of classes without a mark",
        "called the class": 0.0,
        "before": 0.0,
        "first three": "",
        "used": _share(*clean.tolist()),
        "nearest used": "",
        "the mark's words": "",
        "ranked first": "",
    }


def _share(hits: int, trials: int) -> str:
    if not trials:
        return "0 of 0"
    low, high = wilson(hits / trials, trials)
    return f"{hits} of {trials}: {hits / trials:.2f} [{low:.2f}, {high:.2f}]"

"""Where paths leave those of their true class: what the paths stage reads, counts and judges, shard by shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gmm_ops.hmm.branches import BranchCounts, departure_levels, departures
from gmm_ops.hmm.model import HiddenMarkovModel
from gmm_ops.records import Sums, joined
from workflows.data.shards import Shard
from workflows.errors import RunFolderError
from workflows.plan.run_plan import Plan
from workflows.settings import Settings
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state
from workflows.words.chain_words import read_columns
from workflows.words.word_maps import read_words

FIELDS = ("image", "level", "lower", "taken", "expected", "log_odds")
"""Of a triaged image: as in ``Departures``."""


@dataclass(frozen=True)
class ShardPaths:
    """The paths of consecutive images, and what became of them.

    Attributes:
        first: image id of row 0.
        words: (N, L+1), the prediction last; -1 in every level of a broken image.
        label: (N,) true class.
        train: (N,) whether the image belongs to S_T.
    """

    first: int
    words: Int[Tensor, "N L"]
    label: Int[Tensor, " N"]
    train: Bool[Tensor, " N"]

    @classmethod
    def read(cls, folder: RunFolder, scope: str, plan: Plan, first: int, stop: int) -> ShardPaths:
        """Word maps and labels of images [first, stop)."""
        images = ImageColumns.read(folder, first, stop)
        words = [read_words(folder, scope, layer.name, first, stop)[:, 0, 0].long() for layer in plan.layers]
        stacked = torch.stack([*words, torch.from_numpy(images.predicted)], dim=1)
        train = torch.arange(first, stop) < plan.train_images
        return cls(first, stacked, torch.from_numpy(images.label), train)

    @property
    def correct(self) -> Bool[Tensor, " N"]:
        """Readable images whose prediction is their label."""
        return self.words[:, -1] == self.label

    @property
    def wrong(self) -> Bool[Tensor, " N"]:
        """Readable images whose prediction is another class."""
        return ~self.correct & (self.words[:, -1] >= 0)


def n_states(plan: Plan) -> tuple[int, ...]:
    """Words at every level of a path, the classes last."""
    return (*(layer.words for layer in plan.layers), len(plan.class_names))


@dataclass(frozen=True)
class PathCounts(Sums):
    """Branches that paths take, over blocks of images.

    Attributes:
        own: by true class, of the correctly classified images of S_T.
        train, validation: of all readable images of S_T and of S_V, as if of one class.
    """

    own: BranchCounts
    train: BranchCounts
    validation: BranchCounts

    @classmethod
    def of(cls, paths: ShardPaths, plan: Plan) -> PathCounts:
        """Of one block of images."""
        states, classes = n_states(plan), len(plan.class_names)
        own = paths.correct & paths.train
        read = paths.words[:, -1] >= 0

        def counted(rows: Bool[Tensor, " N"]) -> BranchCounts:
            words = paths.words[rows]
            return BranchCounts.from_batch(words, torch.zeros(len(words), dtype=torch.int64), 1, states)

        by_class = BranchCounts.from_batch(paths.words[own], paths.label[own], classes, states)
        return cls(by_class, counted(read & paths.train), counted(read & ~paths.train))

    def save(self, path: Path) -> None:
        """Write the cells of every table and level."""
        save_state(path, self.to_arrays())

    @classmethod
    def load(cls, path: Path) -> PathCounts:
        """Inverse of ``save``.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        if not path.exists():
            raise RunFolderError(
                f"the counted branches {str(path)!r} are missing: delete the ledger of the paths stage, then run again"
            )
        return cls.from_arrays(load_state(path))


def branches_path(folder: RunFolder) -> Path:
    """Where the counted branches wait for the second pass."""
    return folder.path_parts / "branches.npz"


@dataclass(frozen=True)
class Triaged(Sums):
    """What the second pass finds, mergeable over blocks of images in their order.

    Attributes:
        errors: field of ``FIELDS`` -> one number per misclassified image.
        correct_leaving: per level, by junction (the lower word; level 1 has the start alone): correctly classified
            images of S_V that leave there.
    """

    errors: Annotated[dict[str, np.ndarray], joined]
    correct_leaving: tuple[Int[np.ndarray, " K"], ...]


@dataclass(frozen=True)
class TriageBlock:
    """One shard of images: counted in the first pass, judged in the second."""

    settings: Settings
    folder: RunFolder
    plan: Plan
    shard: Shard

    def paths(self) -> ShardPaths:
        """The shard's paths."""
        return ShardPaths.read(self.folder, JOINT, self.plan, self.shard.first, self.shard.stop)

    def count(self) -> PathCounts:
        """First pass: the branches."""
        return PathCounts.of(self.paths(), self.plan)

    def judge(self) -> Triaged:
        """Second pass: where the errors leave, and which correct images of S_V leave as well."""
        # With one thread a product's last bits do not depend on the machine.
        torch.set_num_threads(1)
        counts = PathCounts.load(branches_path(self.folder)).own
        paths = self.paths()
        return Triaged(self._errors(paths, counts), self._correct_leaving(paths, counts))

    def _correct_leaving(self, paths: ShardPaths, counts: BranchCounts) -> tuple[np.ndarray, ...]:
        rows = paths.correct & ~paths.train
        words = paths.words[rows]
        level = departure_levels(counts, words, paths.label[rows], self.settings.triage.min_images)
        tallies = [np.zeros(1, np.int64), *(np.zeros(layer.words, np.int64) for layer in self.plan.layers)]
        for at, tally in enumerate(tallies, start=1):
            left = words[level == at].numpy()
            np.add.at(tally, left[:, at - 2] if at > 1 else np.zeros(len(left), np.int64), 1)
        return tuple(tallies)

    def _errors(self, paths: ShardPaths, counts: BranchCounts) -> dict[str, np.ndarray]:
        """In the batches of the words stage, so that no number depends on the size of the shards."""
        model = load_chain(chain_path(self.folder, JOINT))
        step = self.settings.extract.largest_batch
        wrong = paths.wrong.nonzero()[:, 0]
        batches = [wrong[wrong // step == batch] for batch in (wrong // step).unique().tolist()]
        found = [self._departures(model, paths, rows, counts) for rows in batches]
        empty = {name: np.zeros(0, np.float64 if name == "log_odds" else np.int64) for name in FIELDS}
        return {name: np.concatenate([empty[name], *(part[name] for part in found)]) for name in FIELDS}

    def _departures(
        self, model: HiddenMarkovModel, paths: ShardPaths, rows: Int[Tensor, " n"], counts: BranchCounts
    ) -> dict[str, np.ndarray]:
        first, stop = paths.first + int(rows[0]), paths.first + int(rows[-1]) + 1
        columns = [layer[rows - rows[0]] for layer in read_columns(self.folder, self.plan, first, stop)]
        densities = [layer.log_densities(values) for layer, values in zip(model.layers, columns, strict=True)]
        minimum = self.settings.triage.min_images
        found = departures(model.chain, densities, paths.words[rows], paths.label[rows], counts, minimum)
        image = (paths.first + rows).numpy()
        return {"image": image} | {name: getattr(found, name).numpy() for name in FIELDS[1:]}

"""Where everything of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workflows.storage.ledger import Ledger
from workflows.storage.names import JOINT, joined_slug, slug
from workflows.storage.run_record import RUN_FILE

HEARTBEAT_FILE = ".heartbeat"
_OLD_TABLES = {"boxes": "parts"}
"""What tables were called before, by their present name."""


@dataclass(frozen=True)
class RunPaths:
    """Paths of one run. Artefacts appear when their stage writes them; asking for a path creates nothing."""

    root: Path

    @property
    def run_file(self) -> Path:
        """``run.json``: the format, the settings, and the versions that worked on the run, in order."""
        return self.root / RUN_FILE

    @property
    def heartbeat_file(self) -> Path:
        """What a driver does at the moment."""
        return self.root / HEARTBEAT_FILE

    @property
    def images_table(self) -> Path:
        """``images.parquet``."""
        return self.table("images")

    @property
    def scopes_file(self) -> Path:
        """``scopes.json``, see ``workflows.plan.scopes``."""
        return self.root / "scopes.json"

    @property
    def predictions_dir(self) -> Path:
        """Folder of the predictions, one file a shard, before they are joined into the images table."""
        return self.root / "predictions"

    @property
    def decisions(self) -> Path:
        """Folder of what histograms decide, one file a shard, before they are joined into decisions.parquet."""
        return self.root / "decisions"

    @property
    def path_parts(self) -> Path:
        """Folder of the paths of a hidden Markov model, one file a shard, before they are joined into paths.parquet."""
        return self.root / "path_parts"

    @property
    def figures(self) -> Path:
        """Folder of the drawn graphs."""
        return self.root / "figures"

    def figure(self, graph: str, ending: str, scope: str = JOINT) -> Path:
        """``figures/class-3.png``, ``figures/image-20417.svg``; of other scopes ``figures/list-pets/class-3.png``.

        ``effect:class:3`` is the graph by effect: ``figures/effect-class-3.png``.
        """
        folder = self.figures if scope == JOINT else self.figures / slug(scope)
        return folder / f"{graph.replace(':', '-')}.{ending}"

    @property
    def pictures(self) -> Path:
        """Folder of the saved crops that figures show."""
        return self.root / "pictures"

    @property
    def weights(self) -> Path:
        """State dict of a network that this run trained itself."""
        return self.root / "weights.pt"

    @property
    def fetched(self) -> Path:
        """Folder of the run's own copies of weights at URIs, each with a note of what was there."""
        return self.root / "fetched"

    @property
    def decoder(self) -> Path:
        """State dict of the decoder that was trained with an encoder; see ``workflows.networks.vae_gan``."""
        return self.root / "decoder.pt"

    def checkpoint(self, epoch: int) -> Path:
        """The same after an epoch, counted from 1; where ``training.keep_epochs`` keeps some."""
        return self.root / "checkpoints" / f"epoch-{epoch:04d}.pt"

    @property
    def ledgers(self) -> Path:
        """Folder of the ledgers, one a stage."""
        return self.root / "ledgers"

    def activations(self, layer: str, part: str | None = None) -> Path:
        """Zarr array of a layer's stored columns; ``part`` tells several arrays of one layer apart."""
        return self.root / "activations" / f"{_name(layer, part)}.zarr"

    def mixture(self, scope: str, layer: str) -> Path:
        """The dictionary of a layer."""
        return self.root / "mixtures" / slug(scope) / f"{slug(layer)}.npz"

    def fit_state(self, scope: str, layer: str) -> Path:
        """Checkpoint of an unfinished fit."""
        return self.root / "mixtures" / slug(scope) / f"{joined_slug(layer, 'state')}.npz"

    def words(self, scope: str, layer: str, part: str | None = None) -> Path:
        """Zarr array of a layer's word maps; ``part`` as in ``activations`` (for example ``posterior``)."""
        return self.root / "words" / slug(scope) / f"{_name(layer, part)}.zarr"

    def effect_part(self, scope: str, shard: int) -> Path:
        """Effects of the scope's words on the images of a shard, Parquet; see ``workflows.storage.effect_parts``."""
        return self.root / "effects" / slug(scope) / f"{shard:06d}.parquet"

    def words_index(self, scope: str) -> Path:
        """What is known of the word maps of a scope that holds few images; see ``workflows.words.few_maps``."""
        return self.root / "words" / slug(scope) / "maps.json"

    def words_shard(self, scope: str, layer: str, shard: int) -> Path:
        """Parquet file of its word maps of a layer in a shard of images."""
        return self.root / "words" / slug(scope) / f"{joined_slug(layer, f'{shard:06d}')}.parquet"

    def cooccurrence(self, scope: str, lower: str, upper: str) -> Path:
        """Parquet file of the pair counts of two layers."""
        return self.root / "cooccurrence" / slug(scope) / f"{joined_slug(lower, upper)}.parquet"

    def fold_counts(self, scope: str, lower: str, upper: str) -> Path:
        """The same counts by class and fold, Parquet."""
        return self.cooccurrence(scope, lower, upper).with_suffix(".folds.parquet")

    def pair_moments(self, scope: str, lower: str, upper: str) -> Path:
        """What the variance of log ratios follows from, see ``gmm_ops.trust.intervals.PairMoments``."""
        return self.cooccurrence(scope, lower, upper).with_suffix(".moments.npz")

    def word_summary(self, scope: str, layer: str) -> Path:
        """What was counted of the words of a layer."""
        return self.root / "words" / slug(scope) / f"{_name(layer, 'summary')}.npz"

    def table(self, name: str) -> Path:
        """The Parquet table ``name`` (see ``workflows.storage.tables``)."""
        return self.root / f"{slug(name)}.parquet"

    def existing_table(self, name: str) -> Path:
        """The same where it is; in a run of an earlier version it may have an earlier name."""
        path, old = self.table(name), self.table(_OLD_TABLES.get(name, name))
        return old if old.exists() and not path.exists() else path

    def ledger(self, stage: str) -> Ledger:
        """The ledger of a stage."""
        return Ledger(self.ledgers / f"{slug(stage)}.jsonl")


def _name(layer: str, part: str | None) -> str:
    return slug(layer) if part is None else joined_slug(layer, part)

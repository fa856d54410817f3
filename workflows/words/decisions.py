"""What the words' histograms decide about every validation image: all positions of its maps, all fits at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.histogram import hard_histograms, soft_histograms
from gmm_ops.mixtures.mixture import Mixture
from workflows.context import StageContext
from workflows.data.shards import Shard
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.ledger import Item
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, with_prefix
from workflows.storage.tables import read_table, to_table, write_table
from workflows.words.dictionaries import classifier_path, generative_path
from workflows.words.held_words import HELD_BYTES, HeldWords
from workflows.words.scope_images import ScopeImages, names_by_shard, shards_of
from workflows.words.shard_names import ShardNames, item_of_shard, map_names_left
from workflows.words.whole_maps import WholeMaps, columns_of_rows

WAYS = tuple((loss, histogram) for loss in ("discriminative", "generative") for histogram in ("soft", "hard"))
"""What decides: whose words, and the mean posterior or the share of hard words."""

NETWORK = "network_label"

Models = Mapping[str, tuple[Mixture, LinearClassifier]]


@dataclass(frozen=True)
class FittedLayer:
    """A fit with the discriminative loss whose files are written.

    Attributes:
        name: key in a ledger.
        scope: whose images it decides about.
        layer: with its number of words.
        out: folder of its files.
    """

    name: str
    scope: Scope
    layer: LayerPlan
    out: RunFolder

    @property
    def key(self) -> dict[str, Any]:
        """What tells its rows from those of others."""
        return {"scope": self.scope.name, "layer": self.layer.name, "words": self.layer.words}

    def load(self) -> Models:
        """Dictionary and linear layer of both losses."""
        scope, layer = self.scope.name, self.layer.name
        layers = load_state(classifier_path(self.out, scope, layer))
        paths = {
            "discriminative": self.out.mixture(scope, layer),
            "generative": generative_path(self.out, scope, layer),
        }
        return {
            loss: (load_mixture(path), LinearClassifier.from_arrays(with_prefix(layers, f"{loss}_")))
            for loss, path in paths.items()
        }


@dataclass(frozen=True)
class _Decisions:
    """Of one fit about images of a shard. rows: (n,) of the shard, ascending. given: (ways, n) labels of the scope."""

    fit: FittedLayer
    rows: Int[np.ndarray, " n"]
    given: Int[np.ndarray, "ways n"]


class DecisionsWorker:
    """Runs in an actor: one shard with validation images in, its rows of decisions.parquet out, for all fits.

    Columns are read once for all fits, which are kept as far as they fit, see ``HeldWords``. Broken images are left
    out.

    Args:
        settings, plan, folder: of the run.
        fits: all that may be asked for.
        parts: folder of the rows, a file a shard; rows of other fits that it holds stay.
    """

    def __init__(
        self, settings: Settings, plan: Plan, folder: RunFolder, fits: Sequence[FittedLayer], parts: Path
    ) -> None:
        self._network, self._plan, self._folder, self._parts = settings.name, plan, folder, parts
        self._fits = {fit.name: fit for fit in fits}
        self._device = choose_device(settings.runtime.device)
        self._dtype = getattr(torch, settings.discriminative.precision)
        self._maps = WholeMaps(settings, plan, folder, self._device)
        self._models = HeldWords(self._load, _tensors, HELD_BYTES)

    def __call__(self, item: ShardNames) -> dict[str, Any]:
        """Decide and write; no label depends on who works on a shard, nor on the other fits."""
        shard = item.shard
        images = ImageColumns.read(self._folder, shard.first, shard.stop)
        decisions = [self._empty(self._fits[name], shard, images) for name in item.names]
        self._models.keep(item.names)
        layers = {one.fit.layer.name for one in decisions}
        for _, batches in self._maps(shard, layers):
            for first, layer, columns in batches:
                for one in decisions:
                    if one.fit.layer.name == layer.name:
                        here, found = columns_of_rows(one.rows, first, columns)
                        if len(found):
                            one.given[:, here] = self._labels(self._models(one.fit.name), found)
        self._write(shard, images, decisions)
        return {"images": int(max(len(one.rows) for one in decisions))}

    def _load(self, name: str) -> Models:
        models = self._fits[name].load()
        return {loss: (mixture.to(self._device), layer) for loss, (mixture, layer) in models.items()}

    def _empty(self, fit: FittedLayer, shard: Shard, images: ImageColumns) -> _Decisions:
        """The readable validation images of the fit's scope, not yet decided about."""
        validation = np.arange(shard.first, shard.stop) >= self._plan.train_images
        rows = np.flatnonzero(fit.scope.contains(images.label) & (images.predicted >= 0) & validation)
        return _Decisions(fit, rows, np.zeros((len(WAYS), len(rows)), np.int64))

    def _labels(self, models: Models, columns: Float[Tensor, "N positions D"]) -> Int[np.ndarray, "ways N"]:
        rows = []
        for loss, histogram in WAYS:
            mixture, layer = models[loss]
            soft = histogram == "soft"
            shares = soft_histograms(mixture, columns, self._dtype) if soft else hard_histograms(mixture, columns)
            rows.append(layer.labels(shares.cpu()).numpy())
        return np.stack(rows)

    def _write(self, shard: Shard, images: ImageColumns, decisions: Sequence[_Decisions]) -> None:
        """Add the rows to those of other fits; those of a try that was cut short are replaced."""
        path = decisions_part(self._parts, shard.index)
        tables = [_table(shard, images, one, self._network) for one in decisions]
        if path.exists():
            tables.append(_without(read_table(path), [one.fit for one in decisions]))
        write_table(path, pa.concat_tables(tables), "decisions")


def _tensors(models: Models) -> Iterator[Tensor]:
    for mixture, layer in models.values():
        yield from (*vars(mixture).values(), layer.weight, layer.bias)


def decisions_part(parts: Path, shard: int) -> Path:
    """Rows of decisions.parquet of one shard."""
    return parts / f"{shard:06d}.parquet"


def shards_to_decide(
    settings: Settings, plan: Plan, folder: RunFolder, fits: Sequence[FittedLayer]
) -> dict[int, list[str]]:
    """Index of every shard with validation images of some fit's scope -> names of these fits."""
    images, size = ImageColumns.read(folder, plan.train_images, plan.images), settings.extract.images_per_shard
    members, shards = ScopeImages(images), dict[str, list[int]]()
    for fit in fits:
        if fit.scope.name not in shards:
            shards[fit.scope.name] = shards_of(members.members(fit.scope) + plan.train_images, size)
    return names_by_shard((fit.name, shards[fit.scope.name]) for fit in fits)


def decide(
    context: StageContext,
    plan: Plan,
    fits: Sequence[FittedLayer],
    wanted: Mapping[int, Sequence[str]],
    parts: Path,
    key: Callable[[int], Item] = item_of_shard,
) -> None:
    """Write the rows of every shard in ``wanted`` (see ``shards_to_decide``) that the ledger does not have."""
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": context.folder}
    map_names_left(context, plan, DecisionsWorker, inputs | {"fits": tuple(fits), "parts": parts}, wanted, key)


def _table(shard: Shard, images: ImageColumns, decisions: _Decisions, network: str) -> pa.Table:
    fit, rows = decisions.fit, decisions.rows
    classes = fit.scope.label_classes
    columns: dict[str, Any] = {name: [value] * len(rows) for name, value in fit.key.items()}
    columns |= {"image": shard.first + rows, "label": classes(fit.scope.scope_label(images.label[rows]))}
    columns[NETWORK] = classes(fit.scope.scope_label(images.predicted[rows]))
    columns |= {way_column(*way): classes(given) for way, given in zip(WAYS, decisions.given, strict=True)}
    return to_table(columns | {"network": [network] * len(rows)}, "decisions")


def _without(rows: pa.Table, fits: Sequence[FittedLayer]) -> pa.Table:
    keys = pc.binary_join_element_wise(rows["scope"], rows["layer"], rows["words"].cast(pa.string()), "/")
    ours = pa.array(["/".join(map(str, fit.key.values())) for fit in fits])
    return rows.filter(pc.invert(pc.is_in(keys, ours)))


def way_column(loss: str, histogram: str) -> str:
    """Column of decisions.parquet with what one of ``WAYS`` decides."""
    return f"{loss}_{histogram}"

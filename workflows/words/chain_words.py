"""The words of a run with a hidden Markov model: the most probable path of every image, from all layers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.hmm.inference import forward_backward, path_log_posterior
from gmm_ops.hmm.paths import Paths, RunnersUp, max_marginals, most_probable_paths, runners_up
from workflows.data.shards import Shard
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.arrays import read_rows, write_shard
from workflows.storage.atomic import sync_file_system
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.images_table import read_image_rows
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import write_table
from workflows.words.word_maps import FIELDS, words_path

Numbers = dict[str, np.ndarray]
"""What a batch of images gets: words and log_probability (N, L+1), runner_up and log_odds (N, L+1), path (N,),
and the word map fields posterior and log_joint (N, L). The last level is the prediction."""


def path_part(folder: RunFolder, shard: Shard) -> Path:
    """Rows of paths.parquet of one shard, before the paths stage joins them."""
    return folder.path_parts / f"{shard.index:06d}.parquet"


def layer_names(plan: Plan) -> list[str]:
    """Layer of every level of a path, lowest first; the last level is the prediction."""
    return [*(layer.name for layer in plan.layers), OUTPUT]


def read_columns(folder: RunFolder, plan: Plan, first: int, stop: int) -> list[Float[Tensor, "N D"]]:
    """The stored column of images [first, stop) in every layer of the chain, float32 on the CPU."""
    blocks = (read_rows(folder.activations(layer.name), first, stop) for layer in plan.layers)
    return [torch.from_numpy(block[:, 0]).float() for block in blocks]


class ChainWordsWorker:
    """Runs in an actor: one shard of images in, its word maps and its part of paths.parquet out.

    Columns are taken in batches of ``extract.batch`` images, broken ones included, so that no number depends on the
    size of the shards. An image that is impossible under the model is read without its prediction.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.device = choose_device(settings.runtime.device)
        self.model = load_chain(chain_path(folder, JOINT)).to(self.device)
        self.log_priors = [share.log() for share in self.model.chain.marginals()]

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Decode and write; the driver is told how many paths could only be found without the prediction."""
        rows = read_image_rows(self.folder.images_table, shard.first, shard.stop, ["status", "predicted"])
        readable = np.array([value == "ok" for value in rows["status"].to_pylist()])
        predicted = torch.from_numpy(rows["predicted"].fill_null(0).to_numpy().astype(np.int64))
        columns = read_columns(self.folder, self.plan, shard.first, shard.stop)
        step = self.settings.extract.largest_batch
        batches = [
            self._decoded([layer[start : start + step] for layer in columns], predicted[start : start + step])
            for start in range(0, len(predicted), step)
        ]
        numbers = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        self._write_maps(shard, numbers, readable)
        write_table(
            path_part(self.folder, shard), path_rows(self.settings, self.plan, shard.first, numbers, readable), "paths"
        )
        impossible = np.isneginf(numbers["path"]) & readable
        sync_file_system(self.folder.root)  # before the ledger says that they are there
        return {"images": len(shard), "impossible": int(impossible.sum())}

    def _decoded(self, columns: list[Float[Tensor, "N D"]], predicted: Int[Tensor, " N"]) -> Numbers:
        seen = predicted.to(self.device)
        observed = self.model.shape.n_classes is not None
        densities = self.model.log_densities([layer.to(self.device) for layer in columns], seen if observed else None)
        found = self._inferred(densities)
        impossible = found["path"] == -np.inf
        if observed and impossible.any():
            blind = [*densities[:-1], torch.zeros_like(densities[-1])]
            for name, values in self._inferred(blind).items():
                found[name][impossible] = values[impossible]
            found["path"][impossible] = -np.inf
        layers = len(self.plan.layers)
        words = torch.from_numpy(found["words"][:, :layers]).to(self.device)
        joint = [
            prior[word] + density.gather(1, word[:, None])[:, 0]
            for prior, density, word in zip(self.log_priors, densities, words.T, strict=False)
        ]
        numbers = {name: values[:, :layers] if values.ndim == 2 else values for name, values in found.items()}
        numbers["log_joint"] = torch.stack(joint, dim=1).cpu().numpy()
        return _with_prediction(numbers, predicted)

    def _inferred(self, densities: tuple[Tensor, ...] | list[Tensor]) -> Numbers:
        """Per variable of the chain; path: log P(whole path | all layers), -inf where no path is possible."""
        chain = self.model.chain
        paths: Paths = most_probable_paths(chain, densities)
        seconds: RunnersUp = runners_up(paths, max_marginals(chain, densities))
        posterior = forward_backward(chain, densities)
        chances = [
            gamma.gather(1, word[:, None])[:, 0] for gamma, word in zip(posterior.gamma, paths.word.T, strict=True)
        ]
        found = {
            "words": paths.word,
            "posterior": torch.stack(chances, dim=1),
            "path": path_log_posterior(paths.log_joint, posterior.log_likelihood),
            "runner_up": seconds.word,
            "log_odds": seconds.log_odds,
        }
        return {name: values.cpu().numpy() for name, values in found.items()}

    def _write_maps(self, shard: Shard, numbers: Numbers, readable: np.ndarray) -> None:
        for level, layer in enumerate(self.plan.layers):
            for field, dtype in FIELDS.items():
                values = numbers["words" if field == "word" else field][:, level]
                kept = np.where(readable, values, -1 if field == "word" else 0).astype(dtype)
                path = words_path(self.folder, JOINT, layer.name, field)
                write_shard(path, shard.first, kept[:, None, None])


def _with_prediction(numbers: Numbers, predicted: Int[Tensor, " N"]) -> Numbers:
    """Add the level of the prediction: it is certain, and nothing else comes second."""
    images = len(predicted)
    certain, none = np.zeros((images, 1)), np.full((images, 1), -1, np.int64)
    # Posteriors sum to 1 but for their last digit.
    log_probability = np.minimum(np.log(numbers["posterior"]), 0.0)
    return numbers | {
        "words": np.concatenate([numbers["words"], predicted.numpy()[:, None]], axis=1),
        "log_probability": np.concatenate([log_probability, certain], axis=1),
        "runner_up": np.concatenate([numbers["runner_up"], none], axis=1),
        "log_odds": np.concatenate([numbers["log_odds"], certain], axis=1),
    }


def path_rows(settings: Settings, plan: Plan, first: int, numbers: Numbers, readable: np.ndarray) -> pa.Table:
    """Rows of paths.parquet for consecutive images from ``first``; none for broken ones."""
    names = layer_names(plan)
    images = np.flatnonzero(readable)
    rows, levels = len(images), len(names)
    cells = rows * levels
    second = numbers["runner_up"][images].ravel()
    return pa.table(
        {
            "image": np.repeat(first + images, levels),
            "scope": pa.array([JOINT] * cells, pa.string()),
            "level": np.tile(np.arange(1, levels + 1), rows),
            "layer": pa.array(names * rows, pa.string()),
            "word": numbers["words"][images].ravel(),
            "log_probability": numbers["log_probability"][images].ravel(),
            "path_log_probability": np.repeat(numbers["path"][images], levels),
            "runner_up": pa.array(second, mask=second < 0),
            "runner_up_log_odds": pa.array(numbers["log_odds"][images].ravel(), mask=second < 0),
            "network": pa.array([settings.name] * cells, pa.string()),
        }
    )

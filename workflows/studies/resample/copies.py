"""Shards of images: noisy copies through the network, the units that they select, and the patches those see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from gmm_ops.units.resampling import ResponseSums, correlations
from workflows.asking.image_parts import ImageShard
from workflows.data.decoding import unbroken
from workflows.data.indexed_pictures import IndexedPictures
from workflows.data.masks.concept_masks import MaskSet
from workflows.data.masks.mask_sources import OBJECT
from workflows.data.preprocessing import Preprocessor
from workflows.data.reading import PictureReader
from workflows.networks.attribution.deconvnet import Deconvnet, Patch, ResponseNetwork
from workflows.networks.attribution.readers import reading_weights
from workflows.networks.attribution.resampled import noisy_copies, response_sums, steepest_responses, without_copies
from workflows.networks.loading import load_network
from workflows.networks.tracing import trace_network
from workflows.plan.run_plan import Plan
from workflows.runtime.devices import choose_device
from workflows.settings import Settings
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.studies.resample.scores import DIRECTIONAL, Evidence, LayerScores, Resampling, selection_columns

POOLED = ("signed", "signed_null", "signed_again", "signed_null_again")
"""Arrays (images, units of all layers) of a part: signed r and that with permuted outputs, of two draws."""

_NOISE, _RANDOM_UNITS = 1, 2
"""Streams of the seed."""

Row = dict[str, int | float]


class ResampleWorker:
    """Runs in an actor: images in, rows of their selections and signed correlations out.

    Args:
        settings, plan, folder: of the run.
        asked: what is asked of every image.
        weights: file of the network's state dict.
        masks: of objects, or None.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        asked: Resampling,
        weights: str,
        masks: MaskSet | None,
    ) -> None:
        self.settings, self.folder, self.asked, self.masks = settings, folder, asked, masks
        self.outputs = plan.outputs
        self.device, self.batch = choose_device(settings.runtime.device), plan.batch(settings.extract)
        network = load_network(settings.network.model_copy(update={"weights": weights}))
        shape = (settings.preprocessing.channels, plan.input_height, plan.input_width)
        graph = trace_network(network)
        self.readers = {layer.name: reading_weights(graph, layer.tap, shape) for layer in asked.layers}
        changed, has_outputs = plan.rewriting, plan.outputs
        self.network = ResponseNetwork(network, asked.layers, changed, outputs=has_outputs).to(self.device)
        self.deconvnet = Deconvnet(network, asked.layers, changed, outputs=has_outputs).to(self.device)
        self.preprocessor = Preprocessor(settings.preprocessing)
        self.pictures = ShownPictures(settings, folder)

    def __call__(self, shard: ImageShard) -> dict[str, np.ndarray]:
        """Columns of rows, and the arrays ``POOLED``."""
        rows: list[Row] = []
        pooled = []
        classes = explained_classes(self.folder, shard.images)
        pictures = self.pictures.of(shard.images, self.batch)
        for image, pixels, label in zip(shard.images, pictures, classes, strict=True):
            draws, signed = self._draws(image, pixels, int(label))
            rows += self._rows(image, pixels, draws)
            pooled.append(signed)
        names = rows[0] if rows else ()
        columns = {name: np.array([row[name] for row in rows]) for name in names}
        stacked = {name: np.stack([signed[place] for signed in pooled]) for place, name in enumerate(POOLED)}
        return {**columns, **stacked, "images": np.array(shard.images)}

    def _draws(
        self, image: int, pixels: UInt8[np.ndarray, "H W 3"], label: int
    ) -> tuple[list[dict[str, LayerScores]], list[np.ndarray]]:
        """Scores of two draws by layer, and ``POOLED`` of the image."""
        exact = torch.from_numpy(pixels).float()
        clean = self._input(exact[None])
        slopes: Mapping[str, tuple[Tensor, Tensor]] = {}
        output = label if self.outputs else None
        if DIRECTIONAL in self.asked.metrics:
            spread = self._input(exact[None] * (1 + self.asked.sigma)) - clean
            slopes = steepest_responses(self.network, clean, spread, label)
        origin = without_copies(self.network, clean, output)
        found, pooled = [], []
        for draw in range(2):  # one after the other: the sums of both would be twice the memory
            sums = self._sums(exact, origin, image, draw, output)
            found.append(self._scores(sums, slopes, image, draw))
            pooled += [self._signed(sums, permuted) for permuted in (False, True)]
        return found, pooled

    def _sums(
        self, pixels: Tensor, origin: dict[str, ResponseSums], image: int, draw: int, output: int | None
    ) -> dict[str, ResponseSums]:
        asked, grey = self.asked, self.settings.preprocessing.channels == 1
        seeds = np.random.SeedSequence([self.settings.seed % 2**64, _NOISE, image, draw]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seeds[0]) % 2**63)
        batches = noisy_copies(pixels, asked.copies, asked.sigma, self.batch, generator, grey)
        return response_sums(self.network, batches, self._input, output, origin)

    def _scores(
        self,
        sums: Mapping[str, ResponseSums],
        slopes: Mapping[str, tuple[Tensor, Tensor]],
        image: int,
        draw: int,
    ) -> dict[str, LayerScores]:
        found = {}
        for place, layer in enumerate(self.asked.layers):
            rng = np.random.default_rng([self.settings.seed % 2**64, _RANDOM_UNITS, image, place, draw])
            evidence = Evidence(sums[layer.name], self.readers[layer.name], slopes.get(layer.name), rng)
            found[layer.name] = LayerScores.of(evidence, self.asked)
        return found

    def _signed(self, sums: Mapping[str, ResponseSums], permuted: bool) -> np.ndarray:
        every = [correlations(sums[layer.name], self.asked.reduce, permuted, True) for layer in self.asked.layers]
        return torch.cat(every).cpu().numpy()

    def _rows(self, image: int, pixels: np.ndarray, draws: Sequence[Mapping[str, LayerScores]]) -> Iterator[Row]:
        """A row for every layer, metric, number of units and rank; layers and metrics by their places."""
        asked, (first, again) = self.asked, draws
        most = max(asked.tops)
        chosen = {name: {metric: one.chosen(metric, most) for metric in asked.metrics} for name, one in first.items()}
        wanted = {name: sorted({unit for units in by.values() for unit in units}) for name, by in chosen.items()}
        patches = self.deconvnet.patches(self._input(torch.from_numpy(pixels)[None])[0], wanted)
        mask = None if self.masks is None else object_mask(self.masks, image)
        for place, layer in enumerate(asked.layers):
            seen = {patch.unit: patch for patch in patches[layer.name]}
            one, other = first[layer.name], again[layer.name]
            for number, metric in enumerate(asked.metrics):
                for top in asked.tops:
                    common: Row = {"image": image, "layer": place, "metric": number, "top": top}
                    common |= selection_columns(one, other, metric, top)
                    for rank, unit in enumerate(chosen[layer.name][metric][:top]):
                        found = unit_columns(one, metric, seen[unit])
                        yield {**common, "rank": rank, **found, **place_columns(seen[unit], mask)}

    def _input(self, pixels: Tensor) -> Tensor:
        return self.preprocessor.normalise(pixels.clone(), self.device)  # it writes into floats that it is given


class ShownPictures:
    """Pictures of a run as its network sees them, before normalisation.

    Args:
        settings, folder: of the run.
    """

    def __init__(self, settings: Settings, folder: RunFolder) -> None:
        self._table = folder.images_table
        crop = Preprocessor(settings.preprocessing).crop
        self._reader = PictureReader(settings.data, settings.runtime.decode_threads, geometry=crop)

    def of(self, images: Sequence[int], batch: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """One after the other; a batch of them is decoded ahead. images: ascending, of one shard.

        Raises:
            DataError: a picture can no longer be read.
        """
        indexed = IndexedPictures.read(self._table, images)
        for results in self._reader.stream(indexed.paths, batch, states=indexed.states):
            yield from (unbroken(result).pixels for result in results)


def explained_classes(folder: RunFolder, images: Sequence[int]) -> np.ndarray:
    """Class whose logit is explained: the true one, or, of an image without a label, the predicted one; -1: neither."""
    columns = ImageColumns.read(folder, images[0], images[-1] + 1)
    label = np.where(columns.label < 0, columns.predicted, columns.label)
    return label[np.array(images) - images[0]]


def unit_columns(scores: LayerScores, metric: str, patch: Patch) -> Row:
    """A selected unit: its score, that with permuted outputs, its strongest position and its patch (-1: none)."""
    null = scores.null.get(metric)
    x0, y0, x1, y1 = patch.box or (-1, -1, -1, -1)
    return {
        "unit": patch.unit,
        "score": float(scores.own[metric][patch.unit]),
        "null_score": float("nan") if null is None else float(null[patch.unit]),
        "activation": patch.activation,
        "y": patch.y,
        "x": patch.x,
        **{"x0": x0, "y0": y0, "x1": x1, "y1": y1},
    }


def object_mask(masks: MaskSet, image: int) -> Bool[np.ndarray, "H W"] | None:
    """Pixels of the objects of an image, or of all its concepts where none is an object; None: it has no mask."""
    (found,) = masks.read([image])
    objects = [number for number, concept in enumerate(masks.concepts) if concept.category == OBJECT]
    present = [number for number in found.present().tolist() if not objects or number in objects]
    return np.any([found.mask(number) for number in present], axis=0) if present else None


def place_columns(patch: Patch, mask: Bool[np.ndarray, "H W"] | None) -> Row:
    """Whether a patch touches the object (-1: unknown), its share on it, and the object's share of the image."""
    share = float("nan") if mask is None else float(mask.mean())
    if mask is None or patch.box is None:
        return {"touches": -1, "overlap": float("nan"), "object_share": share}
    x0, y0, x1, y1 = patch.box
    inside = mask[y0:y1, x0:x1]
    return {"touches": int(inside.any()), "overlap": float(inside.mean()), "object_share": share}

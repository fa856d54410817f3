"""What of a layer is in its words, by how they are learned and by what their columns say instead.

ResNet-20 on CIFAR-10 with every column of one layer replaced; accuracy on images that nothing was learned or chosen
on, with Wilson intervals, and less that with k-means (scikit-learn's, of as many words, their centres), paired by image
with 2,000 bootstraps. Temperatures are chosen by the squared error on training columns. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from gmm_ops.discriminative.image_fit import fit_discriminative
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.mixtures.em import maximise
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_em import fit_online
from gmm_ops.mixtures.online_step import OnlineEMSettings
from gmm_ops.mixtures.seeding import lowest_variance
from gmm_ops.mixtures.statistics import em_pass
from gmm_ops.trust.column_changes import changed_columns, principal_axes
from gmm_ops.trust.paired_bootstrap import bootstrap_differences
from gmm_ops.units.ablation import wilson
from tests.benchmarks.em_pass import SHARED
from tests.gmm_ops.drawn_columns import cifar_images
from workflows.networks.interventions import Interventions, Pause, replaced
from workflows.networks.loading import load_network
from workflows.networks.unit_layers import UnitNetwork
from workflows.settings import NetworkSettings

LAYERS = {"add2": "layer1.1.add", "add4": "layer2.0.add", "add6": "layer2.2.add", "add8": "layer3.1.add"}
CLASSES, BATCH = 10, 100
POSITIONS = 32
"""Columns of a training image that are learned from, at random places."""
TEMPERATURES = (2.0, 4.0, 8.0, 16.0)
ACTIVE = 4
"""Of a sparse code."""
SHOWN = (1, 2, 4)
"""Components that are kept beside the words."""
REFERENCE = "k-means"

Says = Callable[[Tensor], Tensor]
"""From columns (n, D) to what they say instead."""


@dataclass(frozen=True, eq=False)
class Words:
    """A dictionary: means (K, D), and the words of columns; mixture: where it is one."""

    means: Tensor
    of: Callable[[Tensor], Tensor]
    mixture: Mixture | None = None

    @classmethod
    def by(cls, mixture: Mixture) -> Words:
        return cls(mixture.mean, lambda columns: mixture.assign(columns).word, mixture)

    def changed(self, change: Any, axes: Tensor | None = None) -> Says:
        """As the study of trust changes columns."""
        centre = torch.zeros(self.means.shape[1]) if self.mixture is None else self.mixture.center

        def says(columns: Tensor) -> Tensor:
            flat = columns[:, :, None, None]
            return changed_columns(flat, self.of(columns)[:, None, None], self.means, centre, change, axes)[..., 0, 0]

        return says

    def shares(self, columns: Tensor) -> Tensor:
        return torch.bincount(self.of(columns), minlength=len(self.means)).double()


@dataclass(frozen=True, eq=False)
class LayerColumns:
    """Of one layer's training images. columns: (N, positions, D). labels: (N,)."""

    columns: Tensor
    labels: Tensor

    @property
    def flat(self) -> Tensor:
        return self.columns.flatten(0, 1)


class Judge:
    """The network on the images that judge, stopped at every layer."""

    def __init__(self, network: UnitNetwork, images: Tensor, labels: Tensor) -> None:
        rest, names = Interventions(network), list(LAYERS.values())
        self._pauses: list[dict[str, Pause]] = []
        for some in images.split(BATCH):
            self._pauses.append({one.layers[0]: one for one in rest.pauses(some, [(name,) for name in names])})
        decided = torch.cat([rest(some).argmax(dim=1) for some in images.split(BATCH)])
        self.labels, self.right = labels, decided == labels

    @torch.inference_mode()
    def __call__(self, layer: str, says: Says) -> Tensor:
        """Which images are right with every column of a layer replaced."""
        name, decided = LAYERS[layer], []
        for pauses in self._pauses:
            maps = pauses[name].value(name)
            assert maps is not None
            columns = maps.permute(0, 2, 3, 1)
            instead = says(columns.flatten(0, 2)).view(columns.shape).permute(0, 3, 1, 2)
            decided.append(pauses[name].rest({name: replaced(instead)}).argmax(dim=1))
        return torch.cat(decided) == self.labels


@torch.no_grad()
def training_columns(network: UnitNetwork, images: Tensor, labels: Tensor) -> dict[str, LayerColumns]:
    """Some columns of every image, by layer."""
    body, source = network.tapped(list(LAYERS.values())), torch.Generator().manual_seed(0)
    found: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for some in images.split(BATCH):
        for name, maps in zip(LAYERS, body(some)[1], strict=True):
            columns = maps.flatten(2).transpose(1, 2)
            places = torch.rand(columns.shape[:2], generator=source).argsort(dim=1)[:, :POSITIONS, None]
            found[name].append(columns.gather(1, places.expand(-1, -1, columns.shape[2])))
    return {name: LayerColumns(torch.cat(parts), labels) for name, parts in found.items()}


def k_means(layer: LayerColumns, count: int) -> Words:
    fitted = MiniBatchKMeans(count, batch_size=4_096, n_init=3, random_state=0).fit(layer.flat.numpy())
    centres = torch.from_numpy(fitted.cluster_centers_).float()
    return Words(centres.double(), lambda columns: torch.cdist(columns, centres).argmin(dim=1))


def generative(layer: LayerColumns, count: int, variance_of: Any = "word") -> Words:
    return Words.by(fit_online(layer.flat, count, 0, OnlineEMSettings(variance_of=variance_of)).mixture)


def decision(layer: LayerColumns, start: Words) -> Words:
    assert start.mixture is not None
    settings = DiscriminativeSettings(epochs=10, classifier_rate=1.0, patience=10)
    fit = fit_discriminative(layer.columns, layer.labels, start.mixture, CLASSES, 0, settings)
    return Words.by(fit.parameters.to_mixture())


def tempered(layer: LayerColumns, start: Words, steps: int = 10) -> tuple[Words, float]:
    """Batch EM with posteriors to the power 1 / T; T with the least squared error."""
    assert start.mixture is not None
    columns = layer.flat
    floor = lowest_variance(columns.double().var(dim=0), 1e-4, "layer")
    found = []
    for temperature in TEMPERATURES:
        mixture = start.mixture
        for _ in range(steps):
            mixture = maximise(em_pass(heated(mixture, temperature), columns), mixture.center, floor)
        found.append((squared_error(Words.by(mixture).changed("words"), columns), temperature, mixture))
    _, best, mixture = min(found, key=lambda one: one[0])
    return Words.by(mixture), best


def heated(mixture: Mixture, temperature: float) -> Mixture:
    """The mixture whose posteriors are those of ``mixture`` to the power 1 / T, normalised."""
    spread = (1 - 1 / temperature) / 2 * mixture.variance.log().sum(dim=1)
    log_pi = torch.log_softmax(mixture.log_pi / temperature + spread, dim=0)
    return Mixture(log_pi, mixture.mean, mixture.variance * temperature, mixture.center)


class SparseAutoencoder(nn.Module):
    """x about its mean as ``ACTIVE`` of ``count`` directions, the strongest (Makhzani and Frey 2013)."""

    def __init__(self, columns: Tensor, count: int) -> None:
        super().__init__()
        self.register_buffer("centre", columns.mean(dim=0))
        self.register_buffer("scale", (columns - columns.mean(dim=0)).norm(dim=1).square().mean().sqrt())
        directions = torch.randn(count, columns.shape[1], generator=torch.Generator().manual_seed(0))
        directions /= directions.norm(dim=1, keepdim=True)
        self.encoder, self.decoder = nn.Parameter(directions.clone()), nn.Parameter(directions.clone())
        self.bias, self.middle = nn.Parameter(torch.zeros(count)), nn.Parameter(torch.zeros(columns.shape[1]))

    def forward(self, columns: Tensor) -> Tensor:
        moved = (columns - self.centre) / self.scale
        strength, chosen = ((moved - self.middle) @ self.encoder.T + self.bias).topk(ACTIVE, dim=1)
        told = (strength.relu()[:, :, None] * self.decoder[chosen]).sum(dim=1) + self.middle
        return told * self.scale + self.centre


def sparse_autoencoder(layer: LayerColumns, count: int, steps: int) -> Says:
    columns, source = layer.flat, torch.Generator().manual_seed(0)
    model = SparseAutoencoder(columns, count)
    optimiser = torch.optim.Adam(model.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        some = columns[torch.randint(len(columns), (2_048,), generator=source)]
        optimiser.zero_grad()
        ((model(some) - some) / model.scale).square().sum(dim=1).mean().backward()
        optimiser.step()
        rates.step()
    return model.eval()


def squared_error(says: Says, columns: Tensor) -> float:
    with torch.no_grad():
        return float((says(columns) - columns).square().sum(dim=1).mean())


def two_words(words: Words, temperature: float) -> Says:
    """The means of the two best words, by their posteriors to the power 1 / T."""
    assert words.mixture is not None
    mixture, means = heated(words.mixture, temperature), words.means.float()

    def says(columns: Tensor) -> Tensor:
        share, word = mixture.posteriors(columns).topk(2, dim=1)
        return ((share / share.sum(dim=1, keepdim=True))[:, :, None] * means[word]).sum(dim=1)

    return says


def own_components(words: Words, columns: Tensor, count: int) -> Says:
    """The word's mean and the first components of its own columns about it (principal components within the word)."""
    word, means = words.of(columns), words.means.float()
    axes = torch.zeros(len(means), count, columns.shape[1])
    for one in word.unique().tolist():
        about = (columns[word == one] - means[one]).double()
        axes[one] = torch.linalg.eigh(about.T @ about)[1].flip(1)[:, :count].T.float()

    def says(columns: Tensor) -> Tensor:
        word = words.of(columns)
        kept = torch.einsum("nqd,nd->nq", axes[word], columns - means[word])
        return means[word] + torch.einsum("nqd,nq->nd", axes[word], kept)

    return says


def ways_of(layer: LayerColumns, count: int, whole: bool, tiny: bool) -> Iterator[tuple[str, Says]]:
    """What is judged of a layer with so many words. whole: all ways, not only the dictionaries."""
    peer, own, shared = k_means(layer, count), generative(layer, count), generative(layer, count, "layer")
    every = {"generative": own, "generative, a variance a layer": shared}
    every |= {"generative, a variance a unit": generative(layer, count, "unit"), "decision": decision(layer, own)}
    every |= {"decision, from a variance a layer": decision(layer, shared)}
    yield REFERENCE, peer.changed("words")
    yield from ((name, words.changed("words")) for name, words in every.items())
    if not whole:
        return
    yield "generative, tempered", tempered(layer, own, 1 if tiny else 10)[0].changed("words")
    yield f"sparse code, {ACTIVE} active", sparse_autoencoder(layer, count, 5 if tiny else 1_000)
    yield from _replacements({REFERENCE: peer, **every}, layer.flat)


def _replacements(every: Mapping[str, Words], columns: Tensor) -> Iterator[tuple[str, Says]]:
    shown = ("generative", "generative, a variance a layer", "decision")
    for name in shown[:2]:
        error = {t: squared_error(two_words(every[name], t), columns[:20_000]) for t in TEMPERATURES}
        yield f"{name}: two words", two_words(every[name], min(error, key=error.__getitem__))
    for name in (REFERENCE, *shown):
        for count in SHOWN:
            yield f"{name}: and {count} of the word's components", own_components(every[name], columns, count)
    for name in shown:
        words = every[name]
        for count in SHOWN:
            axes = principal_axes(words.means, words.shares(columns), count)
            yield f"{name}: and {count} of the layer's components", words.changed("components", axes)
    for count in SHOWN:
        axes = principal_axes(every["generative"].means, every["generative"].shares(columns), count)
        yield f"no words: {count} of the layer's components", every["generative"].changed("axes", axes)


def measure(tiny: bool = False) -> list[dict[str, Any]]:
    """A row for each way and number of words. tiny: few images and words."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        return list(_rows((8,) if tiny else (100, 50, 200, 400), *((60, 20) if tiny else (3_000, 1_000)), tiny))
    finally:
        torch.set_num_threads(threads)


def _rows(counts: Sequence[int], training: int, judging: int, tiny: bool) -> Iterator[dict[str, Any]]:
    weights = f"{SHARED}/weights/resnet20_cifar10.pt"
    name = "workflows.networks.architectures:resnet20_cifar"
    network = UnitNetwork(load_network(NetworkSettings(name=name, weights=weights, layers=["add2"])), (3, 32, 32))
    layers = training_columns(network, *cifar_images(SHARED, "train", training))
    judge = Judge(network, *cifar_images(SHARED, "test", judging))
    for count in counts:
        begun = time.perf_counter()
        found = {
            layer: {way: judge(layer, says) for way, says in ways_of(own, count, count == counts[0], tiny)}
            for layer, own in layers.items()
        }
        seconds = time.perf_counter() - begun
        for way in found["add2"]:
            cells = {layer: _cell(right[way], right[REFERENCE]) for layer, right in found.items()}
            yield {"way": way, "K": count, **cells, "network": float(judge.right.double().mean()), "seconds": seconds}


def _cell(right: Tensor, reference: Tensor) -> str:
    """Accuracy [low, high]; difference to the reference [low, high]."""
    share = float(right.double().mean())
    low, high = wilson(share, len(right))
    mean, least, most = bootstrap_differences(right[:, None].double(), reference[:, None].double(), 0)[:, 0].tolist()
    return f"{share:.3f} [{low:.2f}, {high:.2f}]; {mean:+.3f} [{least:+.2f}, {most:+.2f}]"

"""What a fit learned of a layer's words, whether the run has a mixture a layer or one hidden Markov model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from workflows.plan.run_plan import LayerPlan, Plan
from workflows.settings import Settings
from workflows.storage.chains import chain_path, load_chain
from workflows.storage.mixtures import load_mixture, load_reseeded
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder


@dataclass(frozen=True)
class LayerDictionary:
    """The words of one layer.

    Attributes:
        pi: (K,) share of each word: mixing weight of the mixture, or the word's marginal in the chain.
        mean: (K, D) centres in layer units, float64; of a rectified layer those of the Gaussians before rectification.
        reseeded: (K,) how often the fit re-seeded each word; 0 in a hidden Markov model.
    """

    pi: Float[np.ndarray, " K"]
    mean: Float[np.ndarray, "K D"]
    reseeded: Int[np.ndarray, " K"]


def classifier_path(folder: RunFolder, scope: str, layer: str) -> Path:
    """Linear layers of both losses."""
    return folder.mixture(scope, layer).with_suffix(".classifier.npz")


def generative_path(folder: RunFolder, scope: str, layer: str) -> Path:
    """The dictionary of the generative fit that the discriminative one went on from, or is compared with."""
    return folder.mixture(scope, layer).with_suffix(".generative.npz")


def read_dictionary(
    folder: RunFolder, settings: Settings, plan: Plan, layer: LayerPlan, scope: str = JOINT
) -> LayerDictionary:
    """The dictionary of one layer of a scope.

    Raises:
        RunFolderError: the fit stage has not written it, or it is damaged.
    """
    if settings.hmm is None:
        path = folder.mixture(scope, layer.name)
        mixture = load_mixture(path)
        return LayerDictionary(mixture.log_pi.exp().numpy(), mixture.mean.numpy(), load_reseeded(path))
    model = load_chain(chain_path(folder, scope))
    level = [other.name for other in plan.layers].index(layer.name)
    pi = model.chain.marginals()[level].numpy()
    return LayerDictionary(pi, model.layers[level].mean.numpy(), np.zeros(len(pi), np.int64))

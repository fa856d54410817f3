"""One rank's share of one layer's fit whose words are sliced over the ranks: all phases, its checkpoint, its result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gmm_ops.fitting.collective import Collective
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.discriminative_training import DiscriminativeTraining
from workflows.storage.states import load_state, save_state
from workflows.words.dictionaries import classifier_path, generative_path
from workflows.words.sliced_words import Place, SliceFiles

IN_COMMON = ("history", "stopped", "loss_history")
"""Arrays that all ranks have in common: they are in the checkpoint, the others in the slices beside it."""

GENERATIVE = "generative"
"""Mark of the words that the first phase came to."""


class SlicedFit(DiscriminativeFit):
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    The phases of ``DiscriminativeFit`` (the first one alone with the generative loss) on the same minibatches, for a
    dictionary larger than one actor holds: every rank reads all columns and holds K / W of the words, with their
    statistics, moments and columns of the linear layers. Reductions change the order of sums, so results differ
    from those of the whole dictionary in the last bits.

    No actor ever holds all words. At the end of every segment each rank writes its own beside the checkpoint, by the
    number of the step; then rank 0 writes the checkpoint, which names the step. A rank that restores takes the step
    that the checkpoint names, which all ranks have: a slice goes only when the checkpoint names another.

    Args:
        rank, world: place in the fit group; world is ``fit.word_slices``.
        inputs: those of DiscriminativeFit but for rank and world.
    """

    def __init__(self, *, rank: int, world: int, **inputs: Any) -> None:
        super().__init__(rank=0, world=1, place=Place(rank, world, inputs["layer"].words), **inputs)
        self.files = SliceFiles(self.out.fit_state(self.scope.name, self.layer.name), rank, world)

    @property
    def done(self) -> bool:
        """Whether all phases are over."""
        return self.generative.done if self.settings.fit.loss == "generative" else super().done

    @property
    def at(self) -> int:
        """Steps of all phases."""
        trained = len(self._training.rows) if self._training is not None else 0
        return self.generative.state.step + trained

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint and the own words of its step, or draw the first words."""
        self._training = None
        if checkpoint is None:
            self.generative.restore_arrays(None)
            return
        common = load_state(checkpoint)
        own = self.files.read(f"step-{int(common['at'])}")
        if "loss_history" not in common:
            self.generative.restore_arrays(common | own)
            return
        self.generative.restore_arrays(common | self.files.read(GENERATIVE))
        self.generative.finish()
        self._training = self._new_training()
        self._training.restore(common | own)

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches; then writes the own words.

        Raises:
            DivergedFit: the loss or a parameter left the finite numbers, or nearly.
        """
        self.place.reduce = collective
        progress = super().advance(n_steps, collective)
        phase = self.generative if self._training is None else self._training
        self.files.write_step(self.at, _only(phase.to_arrays(), common=False))
        if self.done:
            models = (
                {GENERATIVE: (self.generative.words(), None)} if self._training is None else self._training.models()
            )
            self.files.write_result(models, self.generative.state.reseeded)
        return progress

    def save(self, path: Path) -> None:
        """Write the checkpoint: what the ranks have in common, and the step whose slices belong to it."""
        arrays = _only(self.generative.history.to_arrays(), common=True)
        arrays |= _only(self._training.to_arrays(), common=True) if self._training is not None else {}
        save_state(path, arrays | {"at": np.array(self.at)})

    def _write_words(self, scope: str, layer: str) -> None:
        """Join the slices of all ranks to the files that ``DiscriminativeFit`` or ``LayerFit`` write."""
        words, path = self.layer.words, self.out.mixture(scope, layer)
        if self._training is None:
            self.files.join_mixture(GENERATIVE, words, path)
            return
        self.files.join_mixture(GENERATIVE, words, generative_path(self.out, scope, layer))
        layers = self.files.layer_arrays(("discriminative", GENERATIVE))
        save_state(classifier_path(self.out, scope, layer), layers)
        # Last, because a dictionary that is there stands for the whole fit.
        self.files.join_mixture("discriminative", words, path)

    def _begun_training(self) -> DiscriminativeTraining:
        self.files.write(GENERATIVE, self.generative.finish())
        return super()._begun_training()

    def _digest(self, before: str) -> str:
        assert self._training is not None
        seen = np.array(self._training.rows, np.float64).tobytes()
        return hashlib.sha256(before.encode() + seen).hexdigest()


def _only(arrays: Mapping[str, np.ndarray], common: bool) -> dict[str, np.ndarray]:
    return {name: values for name, values in arrays.items() if (name in IN_COMMON) == common}

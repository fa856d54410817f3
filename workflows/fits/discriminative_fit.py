"""One rank's share of one layer's fit with the discriminative loss: likelihood, then cross entropy."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from gmm_ops.errors import Diverged
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.seeding import fit_seed
from workflows.errors import DivergedFit
from workflows.fits.discriminative_training import DiscriminativeTraining
from workflows.fits.fit_history import HistoryRow, LossRow, history_path, write_history
from workflows.fits.labelled_images import ImageReader, ImageSource, RecomputedImages, SampledImages, StoredImages
from workflows.fits.layer_fit import LayerFit
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scope import Scope
from workflows.settings import Settings
from workflows.storage.mixtures import save_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state, save_state
from workflows.words.dictionaries import classifier_path, generative_path
from workflows.words.sliced_words import Place


class DiscriminativeFit:
    """Runs in an actor; see ``workflows.runtime.fit_group.FitWorker``.

    Two phases, both in steps that the ranks share: the generative fit of ``LayerFit``, then the training of IG Eq. 8,
    from the fitted words or, with ``discriminative.start = "paper"``, from the generative fit's own start. The
    generative words are fitted in either case: errors are compared with theirs. A checkpoint holds what both phases
    have come to.

    Training histograms are means over the stored columns of an image, a sample of large maps.

    Args:
        rank, world: place in the fit group.
        settings, plan, folder: of the run.
        layer: whose columns are fitted, with how many words.
        scope: whose images are fitted, and whose labels.
        out: folder of what the fit comes to; None: the run's own.
        place: in the group that shares the words; None: they are whole.
    """

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        settings: Settings,
        plan: Plan,
        folder: RunFolder,
        layer: LayerPlan,
        scope: Scope,
        out: RunFolder | None = None,
        place: Place | None = None,
    ) -> None:
        self.rank, self.world, self.layer, self.scope = rank, world, layer, scope
        self.settings, self.plan, self.folder, self.out = settings, plan, folder, out or folder
        self.generative = LayerFit(
            rank=rank,
            world=world,
            settings=settings,
            plan=plan,
            folder=folder,
            layer=layer,
            scope=scope,
            out=out,
            place=place,
        )
        self.place = self.generative.place
        self._training: DiscriminativeTraining | None = None

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or draw the first words."""
        arrays = None if checkpoint is None else load_state(checkpoint)
        self.generative.restore_arrays(arrays)
        self._training = None
        if arrays is not None and "loss_history" in arrays:
            self._training = self._new_training()
            self._training.restore(arrays)

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches.

        Raises:
            DivergedFit: the loss or a parameter left the finite numbers, or nearly.
        """
        try:
            while n_steps > 0 and not self.done:
                self._step(collective)
                n_steps -= 1
        except Diverged as error:
            raise self._diverged(error) from error
        return self._progress()

    @property
    def done(self) -> bool:
        """Whether both phases are over."""
        return self._training is not None and self._training.done

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        arrays = self.generative.to_arrays()
        arrays |= self._training.to_arrays() if self._training is not None else {}
        save_state(path, arrays)

    def result(self) -> dict[str, Any]:
        """Write both dictionaries, their linear layers and the history; return what the ledger keeps."""
        scope, layer, network = self.scope.name, self.layer.name, self.settings.name
        keys = {"scope": scope, "layer": layer}
        write_history(history_path(self.out, scope, layer), self._rows(), network, restart=0, **keys)
        self._write_words(scope, layer)
        trained = {} if self._training is None else {"loss_steps": len(self._training.rows)}
        return self.generative.summary() | trained

    def _write_words(self, scope: str, layer: str) -> None:
        assert self._training is not None
        models, reseeded = self._training.models(), self.generative.state.reseeded
        save_mixture(generative_path(self.out, scope, layer), models["generative"][0], reseeded)
        layers = {
            f"{loss}_{name}": values for loss, (_, one) in models.items() for name, values in one.to_arrays().items()
        }
        save_state(classifier_path(self.out, scope, layer), layers)
        # Last, because a dictionary that is there stands for the whole fit.
        save_mixture(self.out.mixture(scope, layer), models["discriminative"][0], reseeded)

    def _step(self, collective: Collective) -> None:
        if not self.generative.done:
            self.generative.take_step(collective)
            return
        if self._training is None:
            self._training = self._begun_training()
        if not self._training.done:
            self._training.take_step(collective)

    def _begun_training(self) -> DiscriminativeTraining:
        self.generative.parts.release()
        training = self._new_training()
        sample = self.generative.start_sample()
        paper = self.settings.discriminative.start == "paper"
        words = self.generative.first_words() if paper else self.generative.words()
        training.begin(words, sample.double().var(dim=0, unbiased=False), self.generative.state.var_floor)
        return training

    def _new_training(self) -> DiscriminativeTraining:
        reader = self._reader()
        device = self.generative.source.device
        return DiscriminativeTraining(
            rank=self.rank,
            world=self.world,
            place=self.place,
            settings=self.settings,
            layer=self.layer,
            source=ImageSource(self.settings, self.plan, self.folder, self.layer, self.scope, device, reader),
            generative=self.generative.words(),
            n_labels=self.scope.n_labels,
            seed=fit_seed(self.settings.seed, self.scope.name, f"{self.layer.name} by discriminative loss"),
        )

    def _reader(self) -> ImageReader:
        if self.settings.discriminative.columns == "recomputed":
            network = RecomputedImages(self.settings, self.plan, self.folder, self.layer)
            return SampledImages(network, self.settings.seed, self.layer)
        return StoredImages(self.folder, self.layer, self.generative.source.device)

    def _rows(self) -> list[HistoryRow | LossRow]:
        before = self.generative.history
        trained = [] if self._training is None else self._training.rows
        step, columns = self.generative.state.step, before.columns
        counted_on = [row._replace(step=row.step + step, columns=row.columns + columns) for row in trained]
        return [*before.rows, *counted_on]

    def _progress(self) -> dict[str, Any]:
        progress = self.generative.progress()
        if self._training is not None:
            rows = self._training.rows
            progress |= {"phase": "discriminative", "step": len(rows), "steps": self._training.steps}
            progress["taken"] += len(rows)
            progress["columns"] += int(rows[-1].columns) if rows else 0
            # The words may have stopped, and the linear layer on generative words go on.
            last = next((row.loss for row in reversed(rows) if not math.isnan(row.loss)), math.nan)
            progress |= {"loss": last, "digest": self._digest(progress["digest"])}
        return progress | {"done": self.done}

    def _digest(self, before: str) -> str:
        assert self._training is not None
        digest = hashlib.sha256(before.encode())
        words, frozen = self._training.state["words"].parameters, self._training.state["frozen"].classifier
        for values in (words.mean, words.weight, frozen.weight):
            digest.update(values.cpu().numpy().tobytes())
        return digest.hexdigest()

    def _diverged(self, error: Diverged) -> DivergedFit:
        given = self.settings.discriminative
        state = self.out.fit_state(self.scope.name, self.layer.name)
        kept = f"the last good state is kept in {str(state)!r}" if state.exists() else "no checkpoint was due before"
        return DivergedFit(
            f"scope {self.scope.name}: {error.in_layer(self.layer.name)} Now discriminative.mixture_rate is "
            f"{given.mixture_rate:g} and discriminative.classifier_rate {given.classifier_rate:g}; {kept}; a run with "
            "other rates needs another --out"
        )

"""A picture after each validation: what the encoder heard, what it was asked, what it answered."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
import wandb
from lightning import Callback
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamnest.data.batch import Batch
from streamnest.loggers.wandb import UnfailingWandbLogger
from streamnest.plotting import Prediction, draw_code_histogram, draw_prediction, save, to_numpy
from streamnest.pretraining import Pretraining

log = logging.getLogger(__name__)


class Pictures(Callback):
    """Draws one validation utterance, the same each time, and the code frequencies; first rank only.

    Pictures go to `dirpath/step_*.png` and to W&B where a run is logged there, with the code counts as a histogram and,
    once, the audio.

    Args:
        dirpath: folder of the pictures.
        seconds: the utterance whose duration is nearest to this is drawn.
    """

    def __init__(self, dirpath: str | Path, seconds: float = 5.0) -> None:
        self.dirpath, self.seconds = Path(dirpath), seconds
        self._utterance: Batch | None = None
        self._chosen = self._audio_sent = False

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks for a nearer utterance, during the first validation."""
        # One rank alone cannot run a model that is sharded over all of them.
        if self._chosen or not trainer.is_global_zero or pl_module.device_mesh is not None:
            return
        if not isinstance(pl_module, Pretraining):  # other tasks have nothing hidden to show
            return
        samples = self.seconds * pl_module.frontend.sample_rate
        candidate = nearest_row(batch, samples)
        if int(candidate.lengths[0]) < pl_module.frontend.hop * pl_module.quantizer.stack:
            return  # silence in place of what could not be read has no block to show
        if self._utterance is None or distance(candidate, samples) < distance(self._utterance, samples):
            self._utterance = candidate

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws, saves and logs."""
        if self._utterance is None or trainer.sanity_checking or not isinstance(pl_module, Pretraining):
            return
        self._chosen = True
        model, step = pl_module, trainer.global_step
        baseline = trainer.callback_metrics.get("val/unigram")
        picture = predict(model, self._utterance, f"step {step}", None if baseline is None else float(baseline))
        if not np.isfinite(picture.nats).all():
            log.warning("no picture of step %d: what the model predicts is not finite", step)
            return
        counts = {"training": to_numpy(model.train_counts[0].double())}
        figures = {"prediction": draw_prediction(picture)}
        if counts["training"].any():
            figures["codes"] = draw_code_histogram(counts)
        try:
            self._publish(trainer, figures, model.train_counts[0], model.frontend.sample_rate)
        except OSError as error:
            log.warning("pictures of step %d could not be written (%s); the run goes on", step, error)

    def _publish(self, trainer: L.Trainer, figures: dict[str, Figure], counts: torch.Tensor, rate: int) -> None:
        step, sounds = trainer.global_step, {} if self._audio_sent else self._audio()
        names = {"prediction": f"step_{step:07d}.png", "codes": "codes.png"}
        paths = {name: save(figure, self.dirpath / names[name]) for name, figure in figures.items()}
        for logger in trainer.loggers:
            if isinstance(logger, UnfailingWandbLogger):
                _to_wandb(logger, paths, counts, step)
                if sounds:
                    logger.log_media({name: wandb.Audio(sound, rate) for name, sound in sounds.items()})
        self._audio_sent = True

    def _audio(self) -> dict[str, NDArray[np.float32]]:
        """The utterance of the pictures as it is, and as the encoder hears it where something is mixed in."""
        assert self._utterance is not None
        sounds = {"audio/clean": to_numpy(self._utterance.clean[0])}
        if self._utterance.noisy is not self._utterance.clean:
            sounds["audio/heard"] = to_numpy(self._utterance.noisy[0])
        return sounds


@torch.no_grad()
def predict(model: Pretraining, utterance: Batch, when: str, baseline: float | None = None) -> Prediction:
    """Runs a batch of one as validation does, keeping what it shows on every frame; draws nothing at random.

    Args:
        model: left in the mode it was in.
        utterance: a batch of one.
        when: for the title.
        baseline: see `Prediction`.
    """
    training = model.training
    model.eval()
    try:
        return _predict(model, utterance.to(model.device), when, baseline)
    finally:
        model.train(training)


def _predict(model: Pretraining, batch: Batch, when: str, baseline: float | None) -> Prediction:
    heard, codes, context = model.prepare_batch(batch, 0)
    encoded, _ = model.encode(heard, context)
    scores, selected = (both[0] for both in model.objective.shown(encoded, context))
    length = min(len(scores), codes.shape[1])
    scores, targets, selected = scores[:length].float(), codes[0, :length, 0], selected[:length]
    predicted, nats = scores.argmax(-1), F.cross_entropy(scores, targets, reduction="none")
    right, asked = int((predicted == targets)[selected].sum()), int(selected.sum())
    return Prediction(
        title=f"{batch.ids[0]}   {when}: {right} of {asked} predicted blocks right",
        features=to_numpy(heard[0]),
        mask=to_numpy(context.mask[0]),
        selected=to_numpy(selected),
        codes=to_numpy(targets),
        predicted=to_numpy(predicted),
        nats=to_numpy(nats),
        baseline=baseline,
        hop=model.frontend.hop_ms / 1000,
        stride=model.encoder.frame_ms / 1000,
        sample_rate=model.frontend.sample_rate,
    )


def _to_wandb(logger: UnfailingWandbLogger, paths: dict[str, Path], counts: torch.Tensor, step: int) -> None:
    shown: dict[str, Any] = {f"pictures/{name}": wandb.Image(str(path)) for name, path in paths.items()}
    # W&B draws at most 512 bins, so a bin is a group of neighbouring codes.
    histogram = np.histogram(np.arange(len(counts)), bins=min(512, len(counts)), weights=to_numpy(counts))
    shown["health/code_counts"] = wandb.Histogram(np_histogram=histogram)
    logger.log_media({**shown, "trainer/global_step": step})


def nearest_row(batch: Batch, samples: float) -> Batch:
    """A batch of one, on the processor and without padding: the row with the number of samples nearest to this."""
    row = int((batch.lengths - samples).abs().argmin())
    length = int(batch.lengths[row])
    clean = batch.clean[row : row + 1, :length].cpu()
    noisy = clean if batch.noisy is batch.clean else batch.noisy[row : row + 1, :length].cpu()
    return replace(
        batch,
        clean=clean,
        noisy=noisy,
        lengths=batch.lengths[row : row + 1].cpu(),
        keys=batch.keys[row : row + 1].cpu(),
        ids=[batch.ids[row]],
    )


def distance(batch: Batch, samples: float) -> float:
    """By how many samples a batch of one is longer or shorter."""
    return abs(int(batch.lengths[0]) - samples)

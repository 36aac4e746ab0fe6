"""Plots after each validation: learning curve, prediction for one utterance, and the code frequencies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning import Callback
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from streamnest.callbacks.history import ValHistory
from streamnest.callbacks.moving_average import averaged_weights
from streamnest.curves import plot_run
from streamnest.curves.curve import curve_of_records
from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.loggers.media import Media, log_media
from streamnest.plotting import Prediction, plot_code_histogram, plot_prediction, save, to_numpy
from streamnest.pretraining import Pretraining

log = logging.getLogger(__name__)


class Plots(Callback):
    """Plots the learning curve and, in pretraining, one utterance and the code frequencies; first rank only.

    The learning curve, `curve.png`, has the validations of a run and its continuations, which `ValHistory` records. The
    utterance is the same each time, in `step_*.png`. Plots are also sent to the loggers that show images. The audio is
    sent once, and the code counts to W&B as a histogram. Predictions are those of the averaged weights, if there are.

    Args:
        dirpath: folder of the plots.
        seconds: wanted duration; the utterance nearest to it is plotted.
    """

    def __init__(self, dirpath: str | Path, seconds: float = 5.0) -> None:
        self.dirpath, self.seconds = Path(dirpath), seconds
        self._utterance: Batch | None = None
        self._chosen = self._audio_sent = False

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks for an utterance of the wanted duration during the first validation."""
        # One rank alone cannot run a model that is sharded over all of them.
        if self._chosen or not trainer.is_global_zero or pl_module.device_mesh is not None:
            return
        if not isinstance(pl_module, Pretraining):  # other tasks have no masked frames
            return
        samples = self.seconds * pl_module.frontend.sample_rate
        candidate = nearest_row(batch, samples)
        if int(candidate.lengths[0]) < pl_module.frontend.hop * pl_module.quantizer.stack:
            return  # the short silence that replaces unreadable audio has no target frame
        if self._utterance is None or distance(candidate, samples) < distance(self._utterance, samples):
            self._utterance = candidate

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Plots, saves and logs."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        curve = _learning_curve(trainer, pl_module) if isinstance(pl_module, EncoderTask) else None
        figures = {} if curve is None else {"curve": curve}
        counts = None
        if self._utterance is not None and isinstance(pl_module, Pretraining):
            self._chosen = True
            figures, counts = figures | self._plots_of(trainer, pl_module), pl_module.train_counts[0]
        try:
            self._publish(trainer, figures, counts, getattr(pl_module, "sample_rate", 16_000))
        except OSError as error:
            log.warning("plots of step %d could not be written (%s); training continues", trainer.global_step, error)

    def _plots_of(self, trainer: L.Trainer, model: Pretraining) -> dict[str, Figure]:
        assert self._utterance is not None
        step, baseline = trainer.global_step, unigram_baseline(model, trainer.callback_metrics)
        with averaged_weights(trainer, model):
            prediction = predict(model, self._utterance, f"step {step}", baseline)
        if not np.isfinite(prediction.nats).all():
            log.warning("no plot of step %d: the predictions are not finite", step)
            return {}
        counts = {"training": to_numpy(model.train_counts[0].double())}
        figures = {"prediction": plot_prediction(prediction)}
        if counts["training"].any():
            figures["codes"] = plot_code_histogram(counts)
        return figures

    def _publish(self, trainer: L.Trainer, figures: dict[str, Figure], counts: Tensor | None, rate: int) -> None:
        if not figures:
            return
        step, audio = trainer.global_step, {} if self._audio_sent or counts is None else self._audio()
        names = {"prediction": f"step_{step:07d}.png", "codes": "codes.png", "curve": "curve.png"}
        plots = {name: save(figure, self.dirpath / names[name]) for name, figure in figures.items()}
        for logger in trainer.loggers:
            log_media(logger, Media(step, plots, None if counts is None else to_numpy(counts), audio, rate))
        self._audio_sent = self._audio_sent or bool(audio)

    def _audio(self) -> dict[str, NDArray[np.float32]]:
        """Returns the plotted utterance, clean and, if it is augmented, as the encoder receives it."""
        assert self._utterance is not None
        sounds = {"audio/clean": to_numpy(self._utterance.clean[0])}
        if self._utterance.noisy is not self._utterance.clean:
            sounds["audio/noisy"] = to_numpy(self._utterance.noisy[0])
        return sounds


def _learning_curve(trainer: L.Trainer, model: EncoderTask) -> Figure | None:
    """Plots the monitored metric of a run over its hours of audio; in pretraining, the gain as well."""
    records = [r for c in getattr(trainer, "callbacks", ()) if isinstance(c, ValHistory) for r in c.records]
    monitor = model.config.get("task", {}).get("monitor", "val/loss")
    metrics = dict.fromkeys([monitor, *(["val/gain"] if isinstance(model, Pretraining) else [])])
    name = str(model.config.get("name", ""))
    curves = [curve for metric in metrics if (curve := curve_of_records(name, metric, records))]
    return plot_run(curves, f"{name}: learning curve") if curves and len(curves[0].hours) > 1 else None


def unigram_baseline(model: Pretraining, metrics: Mapping[str, Tensor]) -> float | None:
    """Returns the unigram cross entropy in nats of the term of the loss that is plotted; None if it was not logged.

    That term is the first of the objective. `val/unigram` is the weighted sum over all terms.
    """
    term, weight = next(iter(model.objective.weights.items()))
    if f"val/gain_{term}" in metrics:
        return float(metrics[f"val/loss_{term}"]) + float(metrics[f"val/gain_{term}"])
    return float(metrics["val/unigram"]) / weight if "val/unigram" in metrics else None


@torch.no_grad()
def predict(model: Pretraining, utterance: Batch, when: str, baseline: float | None = None) -> Prediction:
    """Runs a batch of one as validation does and collects the prediction of each frame, without randomness.

    Args:
        model: pretraining model; its mode is restored.
        utterance: batch of one.
        when: moment in training, for the title.
        baseline: unigram cross entropy in nats; see `Prediction`.
    """
    training = model.training
    model.eval()
    try:
        return _predict(model, utterance.to(model.device), when, baseline)
    finally:
        model.train(training)


def _predict(model: Pretraining, batch: Batch, when: str, baseline: float | None) -> Prediction:
    features, codes, context = model.prepare_batch(batch, 0)
    encoded, _ = model.encode(features, context)
    scores, selected = (both[0] for both in model.objective.plot_data(encoded, context))
    length = min(len(scores), codes.shape[1])
    scores, targets, selected = scores[:length].float(), codes[0, :length, 0], selected[:length]
    predicted, nats = scores.argmax(-1), F.cross_entropy(scores, targets, reduction="none")
    correct, count = int((predicted == targets)[selected].sum()), int(selected.sum())
    kind = "masked" if context.mask.any() else "predicted"
    return Prediction(
        title=f"{batch.ids[0]}   {when}: {correct} of {count} {kind} frames correct",
        features=to_numpy(features[0]),
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


def nearest_row(batch: Batch, samples: float) -> Batch:
    """Returns the row whose number of samples is nearest to `samples`, as a batch of one on the CPU without padding."""
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
        hashes=batch.hashes[row : row + 1],
    )


def distance(batch: Batch, samples: float) -> float:
    """Returns the absolute difference in samples between a batch of one and a wanted length."""
    return abs(int(batch.lengths[0]) - samples)

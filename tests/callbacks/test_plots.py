from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from streamnest.build import build_model
from streamnest.callbacks import MovingAverage, Plots, ValHistory, plots
from streamnest.callbacks.plots import nearest_row, predict, unigram_baseline
from streamnest.data.batch import Batch
from streamnest.loggers.wandb import UnfailingWandbLogger
from streamnest.plotting import code_colors, plot_prediction, runs

SMALL = (
    "size.d_model=32",
    "size.num_layers=1",
    "size.subsampling_channels=8",
    "quantizer.num_classes=64",
    "name=x",
    "preset=p",
    "paths.output_dir=out",
)


@pytest.fixture
def model(composed):
    torch.manual_seed(0)
    cfg = composed(*SMALL, "encoder.normalize=none", "masking.mask_prob=0.02")
    model = build_model(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    model.train_counts.fill_(1.0)
    return model


@pytest.fixture
def batch(speech_like):
    audio = speech_like(2, 48000)
    lengths, keys = torch.tensor([16000, 48000]), torch.tensor([5, 7])
    return Batch(audio, audio, lengths, keys, step=3, ids=["short", "long"], seconds=4.0)


def trainer(batch, step):
    return SimpleNamespace(
        is_global_zero=True, sanity_checking=False, global_step=step, loggers=[], callback_metrics={}
    )


def test_each_validation_plots_the_same_utterance(model, batch, tmp_path):
    callback = Plots(tmp_path, seconds=2.5)
    for step in (0, 20):
        callback.on_validation_batch_start(trainer(batch, step), model, batch, 0)
        callback.on_validation_end(trainer(batch, step), model)
    assert callback._utterance.ids == ["long"]
    assert callback._utterance.clean.shape == (1, 48000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes.png", "step_0000000.png", "step_0000020.png"]
    assert all(p.stat().st_size > 10_000 for p in tmp_path.iterdir())


def test_the_learning_curve_of_all_validations_is_plotted(model, batch, tmp_path):
    callback, history = Plots(tmp_path, seconds=2.5), ValHistory()
    validating = trainer(batch, 0)
    validating.callbacks = [history, callback]
    for step, loss in ((0, 9.0), (20, 8.0)):
        validating.global_step, validating.callback_metrics = step, {"val/loss": torch.tensor(loss)}
        model.seconds_seen.fill_(36.0 * step)
        for plotting in (history, callback):
            plotting.on_validation_end(validating, model)
        assert (tmp_path / "curve.png").exists() == bool(step)
    assert [(record["hours"], record["val/loss"]) for record in history.records] == [(0.0, 9.0), (0.2, 8.0)]


def test_wandb_receives_audio_once_and_plots_each_time(model, batch, tmp_path, monkeypatch):
    logged = []
    logger = UnfailingWandbLogger.__new__(UnfailingWandbLogger)
    monkeypatch.setattr(UnfailingWandbLogger, "log_media", lambda self, values: logged.append(set(values)))
    callback = Plots(tmp_path, seconds=2.5)
    for step in (0, 20):
        noisy = replace(batch, noisy=batch.clean.clone())
        logging_trainer = trainer(noisy, step)
        logging_trainer.loggers = [logger]
        callback.on_validation_batch_start(logging_trainer, model, noisy, 0)
        callback.on_validation_end(logging_trainer, model)
    shown = {"plots/prediction", "plots/codes", "health/code_counts", "trainer/global_step"}
    assert logged == [shown, {"audio/clean", "audio/noisy"}, shown]


def test_the_plot_equals_the_validation(model, batch):
    alone = Batch(
        batch.clean[1:], batch.clean[1:], batch.lengths[1:], batch.keys[1:], step=3, ids=["long"], seconds=3.0
    )
    shown = predict(model, alone, "now")
    result = model.eval().predict(alone, 0)[0]["masked"]
    assert shown.selected.sum() == int(result.count) > 0
    assert shown.nats[shown.selected].sum() == pytest.approx(float(result.loss_sum), rel=1e-4)
    assert (shown.codes == shown.predicted)[shown.selected].sum() == int(result.correct)
    assert shown.stride == pytest.approx(0.04)


def test_the_baseline_is_that_of_the_plotted_term(model):
    metrics = {
        "val/unigram": torch.tensor(10.2),
        "val/loss_masked": torch.tensor(4.9),
        "val/gain_masked": torch.tensor(0.3),
    }
    assert unigram_baseline(model, metrics) == pytest.approx(5.2)
    assert unigram_baseline(model, {"val/unigram": torch.tensor(5.5)}) == pytest.approx(5.5)
    assert unigram_baseline(model, {}) is None
    weighted = SimpleNamespace(objective=SimpleNamespace(weights={"masked": 0.5}))
    assert unigram_baseline(weighted, {"val/unigram": torch.tensor(2.5)}) == pytest.approx(5.0)


def test_the_plot_shows_the_baseline_of_its_validation(model, batch, tmp_path, monkeypatch):
    plotted = []
    monkeypatch.setattr(plots, "plot_prediction", lambda shown: plotted.append(shown.baseline) or Figure())
    callback, validation = Plots(tmp_path), trainer(batch, 0)
    validation.callback_metrics["val/unigram"] = torch.tensor(5.5)
    callback.on_validation_batch_start(validation, model, batch, 0)
    callback.on_validation_end(validation, model)
    assert plotted == [pytest.approx(5.5)]


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_the_averaged_weights_are_plotted_and_training_keeps_its_own(model, batch, tmp_path, monkeypatch):
    shown, current = [], {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(plots, "plot_prediction", lambda one: shown.append(one.nats) or plot_prediction(one))
    average, callback, validating = MovingAverage(), Plots(tmp_path, seconds=2.5), trainer(batch, 20)
    average.setup(validating, model, "fit")
    for parameter in average._average_model.module.objective.heads.parameters():
        parameter.data.zero_()
    for callbacks in ([callback], [average, callback]):
        validating.callbacks = callbacks
        callback.on_validation_batch_start(validating, model, batch, 0)
        callback.on_validation_end(validating, model)
    assert shown[0].std() > 0.1 and np.allclose(shown[1], np.log(64))
    assert all(torch.equal(value, current[name]) for name, value in model.state_dict().items())


def test_the_frequency_axis_is_in_khz(model, batch):
    shown = predict(model, nearest_row(batch, 48000), "now")
    mel = plot_prediction(shown).axes[0]
    assert mel.get_ylabel() == "frequency (kHz)"
    assert [text.get_text() for text in mel.get_yticklabels()] == ["0.5", "1", "2", "4", "8"]


@pytest.mark.parametrize(("encoder", "offsets"), [("causal", 1), ("lookahead80", 5), ("lookahead80", 3)])
def test_the_plot_of_next_frames_shows_the_nearest_prediction(composed, batch, encoder, offsets):
    words = [f"encoder={encoder}", f"objective.num_offsets={offsets}", "encoder.normalize=none", "masking=none"]
    cfg = composed(*SMALL, "objective=next_token", *words)
    model = build_model(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])).eval()
    alone = Batch(batch.clean[1:], batch.clean[1:], batch.lengths[1:], batch.keys[1:], 3, ["long"], 3.0)
    shown = predict(model, alone, "now")
    first = model.objective.first_targets(model.receptive_field_end(75)).tolist()
    encoded, _ = model.encode(*model.prepare_batch(alone, 0)[::2])
    assert np.flatnonzero(shown.selected).tolist() == list(range(first[0], 75))
    for block in range(first[0], 75):
        frame = max(t for t in range(75) if first[t] <= block < first[t] + offsets)
        scores = model.objective.logits(encoded[0, frame])[block - first[frame], 0]
        assert int(scores.argmax()) == shown.predicted[block]


def test_plotting_leaves_the_model_in_training_mode(model, batch):
    alone = Batch(batch.clean[:1], batch.clean[:1], batch.lengths[:1], batch.keys[:1], 0, ["short"], 1.0)
    model.train()
    predict(model, alone, "now")
    assert model.training
    assert model.encoder.training


def test_the_same_code_has_the_same_color():
    colors = code_colors(np.array([4, 5, 4]))
    assert (colors[0] == colors[2]).all()
    assert abs(colors[0] - colors[1]).max() > 0.2


def test_spans_of_a_mask_are_half_open():
    assert runs(np.array([True, True, False, True])) == [(0, 2), (3, 4)]
    assert runs(np.zeros(3, bool)) == []


def test_a_plot_that_fails_stops_no_run(model, batch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    callback = Plots(tmp_path / "file", seconds=2.5)
    silent = replace(batch, lengths=torch.tensor([160, 320]))
    callback.on_validation_batch_start(trainer(silent, 0), model, silent, 0)
    callback.on_validation_end(trainer(silent, 0), model)
    assert callback._utterance is None
    callback.on_validation_batch_start(trainer(batch, 1), model, batch, 0)
    callback.on_validation_end(trainer(batch, 1), model)
    assert "could not be written" in caplog.text
    next(model.encoder.parameters()).data.fill_(float("nan"))
    callback.on_validation_end(trainer(batch, 2), model)
    assert "not finite" in caplog.text

"""Pretrains a streaming speech encoder, or trains a task on one: `python train.py task=ctc ...`; see `--help`."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
import traceback
import warnings
from contextlib import ExitStack, closing
from pathlib import Path

import hydra
import lightning as L
import torch
from omegaconf import DictConfig

from streamnest.build import build_all, build_data, build_model
from streamnest.callbacks import FinalValidation, StopOnSignal, ValHistory
from streamnest.callbacks.interrupt import exit_on_signals_before_training
from streamnest.callbacks.progress import tracked
from streamnest.checkpoint.compatibility import check_architecture, check_training_state, stored_labels, warn_of_changes
from streamnest.checkpoint.inherit_encoder import load_encoder, with_encoder_of
from streamnest.checkpoint.recognizer_teacher import load_recognizer_teacher
from streamnest.checkpoint.resume import checkpoint_to_continue, restoring
from streamnest.checkpoint.target_teacher import attach_teacher, with_teacher
from streamnest.checkpoint.transfer import transfer
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.console.allocator import keep_freed_memory
from streamnest.console.entry_point import PREEMPTED, without_trace
from streamnest.corpus_statistics import fit_statistics
from streamnest.data.datamodule import SpeechDataModule
from streamnest.data.loading import Prefetched
from streamnest.distributed.cluster import trainer_plugins
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.latency import require_no_leak
from streamnest.locations import config_folder, set_root
from streamnest.loggers.wandb import finish_runs
from streamnest.reporting.panels import config_panel, show, transfer_panel
from streamnest.reporting.start_panel import start_panel
from streamnest.reporting.summary import EndedRun, publish, summarize
from streamnest.reporting.summary_panel import summary_panel
from streamnest.streaming.receptive_field import require_causal
from streamnest.training import run_folder
from streamnest.training.budget import make_trainer, with_audio_budget
from streamnest.training.compiling import compile_for_training
from streamnest.training.finished import is_complete, is_finished, last_value
from streamnest.training.launching import check_command_line, is_sweep, refuse
from streamnest.training.piece_checks import check_pieces
from streamnest.training.preflight import warn
from streamnest.training.start_times import StartTimes

log = logging.getLogger("train")


def train(cfg: DictConfig) -> float | None:
    """Runs one job and returns the monitored metric of the last validation, or None, for hyperparameter searches."""
    with ExitStack() as at_end:
        return _train(cfg, at_end)


def _train(cfg: DictConfig, at_end: ExitStack) -> float | None:
    """Implements `train`; `at_end` releases what a run that is refused must not leave in memory."""
    started, times = time.monotonic(), StartTimes()
    refuse(cfg)
    _set_up_libraries(cfg)
    if cfg.print_config:
        show(config_panel(cfg))

    stored = checkpoint_to_continue(cfg)
    cfg = with_encoder_of(cfg, stored)
    cfg, teacher = with_teacher(cfg, stored, load=stored is None)
    data = build_data(cfg)
    cfg = with_audio_budget(cfg, data, stored)
    model = build_model(cfg, data, labels=stored_labels(stored, cfg.task.name))
    check_pieces(cfg, model)
    statistics = None if stored else at_end.enter_context(closing(_clean_audio(data)))
    with times.stage("check of causality"):
        _require_causal(model)
    if stored:
        check_architecture(stored, model.config)
        check_training_state(stored, model)
        if is_complete(stored.content, cfg) and is_finished(stored, cfg):
            return last_value(stored.content, cfg.task.monitor)
        warn_of_changes(stored, model.config)
        # Loaded only now, because a finished run needs no teacher.
        _, teacher = with_teacher(cfg, stored)
    if teacher:
        attach_teacher(model, teacher)
        data.hash_audio = cfg.quantizer.cache is not None
    transferred = None if stored else _initialized(model, cfg)
    load_recognizer_teacher(model)
    data.setup("fit")

    history = ValHistory()
    callbacks: list[L.Callback] = [history, times, *build_all(cfg.callbacks)]
    if stored and is_complete(stored.content, cfg):
        callbacks.append(FinalValidation())
    trainer = make_trainer(cfg, callbacks, logger=build_all(cfg.logger), plugins=trainer_plugins(stored))
    compile_for_training(model, cfg, trainer)
    show(start_panel(cfg, model, data, trainer))
    warn(cfg, trainer)
    if transferred:
        show(transfer_panel(transferred))
    if statistics:
        _prepare(model, data, trainer, statistics, times)
    _begin(cfg, model, trainer)

    path = stored.path if stored else None
    with restoring(path):
        trainer.fit(model, datamodule=data, ckpt_path=path, weights_only=True)
    return _finish(cfg, model, data, trainer, history, started)


def _require_causal(model: EncoderTask) -> None:
    """Checks each context of the encoder."""
    for number, _ in enumerate(model.encoder.each_context()):
        require_no_leak(model.encoder, model.latency)
        require_causal(model, brief=number > 0)


def _clean_audio(data: SpeechDataModule) -> Prefetched:
    """Begins to load the audio of the corpus statistics, which takes a thread while the encoder is checked."""
    data.setup("fit")
    return Prefetched(data.statistics_batches())


def _prepare(
    model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer, statistics: Prefetched, times: StartTimes
) -> None:
    """Fits the corpus statistics of a new run and validates its initial weights."""
    hours = model.config["statistics"]["hours"]
    with times.stage("corpus statistics"):
        fit_statistics(model, tracked(statistics, hours), hours, trainer.strategy.root_device)
        statistics.close()
    with times.stage("first validation"):
        trainer.validate(model, datamodule=data, verbose=False)


def _initialized(model: EncoderTask, cfg: DictConfig) -> TransferReport | None:
    """Copies the weights of the checkpoint that a new run starts from; None if it starts from scratch."""
    if cfg.encoder_from:
        return load_encoder(model, cfg.encoder_from)
    return transfer(model, cfg.init_from) if cfg.init_from else None


def _finish(
    cfg: DictConfig, model: EncoderTask, data: SpeechDataModule, trainer: L.Trainer, history: ValHistory, started: float
) -> float | None:
    """Validates the last weights unless a signal ended the run, writes the summary, and returns the monitored metric.

    A run that was preempted ends with its own exit status.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stops = [callback for callback in callbacks if isinstance(callback, StopOnSignal)]
    if history.last_step != trainer.global_step and not any(stop.stopped for stop in stops):
        trainer.validate(model, datamodule=data, verbose=False)
    run = EndedRun(cfg, model, data, trainer, history, time.monotonic() - started)
    publish(summarize(run), cfg.paths.output_dir, trainer)
    finish_runs(trainer.loggers)
    show(summary_panel(run))
    # Only rank 0: launchers kill the other ranks once one has failed, while rank 0 still closes its loggers.
    if any(stop.preempted for stop in stops) and trainer.is_global_zero:
        sys.exit(PREEMPTED)
    return history.last.get(cfg.task.monitor)


def _begin(cfg: DictConfig, model: EncoderTask, trainer: L.Trainer) -> None:
    """Logs the settings of the run and begins its folder."""
    for logger in trainer.loggers:
        logger.log_hyperparams({**model.config, **model.latency.as_dict()})
    run_folder.begin(cfg, Path(cfg.paths.output_dir))


def _set_up_libraries(cfg: DictConfig) -> None:
    """Sets seed, precision and threads, and hides warnings of libraries that concern neither the user nor this code."""
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    keep_freed_memory()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    for message in (
        ".*LeafSpec.*",  # a deprecated torch class that Lightning uses
        ".*FSDP2-wrapped module.*returned a view.*",  # nothing writes into the outputs of a layer
        "Checkpoint directory .* exists and is not empty.*",  # as in each run that continues
        "The dirpath has changed from.*",
        "This DataLoader will create.*",  # `preflight` warns of too many workers
        "The number of training batches .* is smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message=message)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
def job(cfg: DictConfig) -> float | None:
    """Runs a job in its own folder; a user error is printed and ends it with status 2, and a sweep continues."""
    exit_on_signals_before_training()
    try:
        with run_folder.claimed(Path(cfg.paths.output_dir)):
            return train(cfg)
    except Exception as error:
        if isinstance(error, UserError):
            log.error("%s", error)
        if is_sweep():
            _release_memory(error)
        elif isinstance(error, UserError):
            sys.exit(2)
        raise


def _release_memory(error: BaseException | None) -> None:
    """Clears the variables of functions that an error has ended, because Hydra keeps the error until a sweep ends."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _let_lightning_start_ranks() -> None:
    """Makes Lightning start the other ranks with this module: it would repeat `streamnest train` without `train`."""
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("streamnest.commands.train")


@without_trace
def main() -> int:
    """Runs the command line, which Hydra parses."""
    set_root()
    _let_lightning_start_ranks()
    try:
        check_command_line(config_folder())
        job()
    finally:
        run_folder.remove_refused_sweep()
    return 0


if __name__ == "__main__":
    sys.exit(main())

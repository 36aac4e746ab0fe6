"""Pretrains a streaming speech encoder, or trains a task on one: `python train.py task=ctc ...`; see `--help`."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from streamnest.build import build_all, build_data, build_model
from streamnest.callbacks import StopOnSignal, ValHistory
from streamnest.callbacks.interrupt import PREEMPTED, exit_on_signals_before_training
from streamnest.checkpoint.inherit_encoder import load_encoder, with_encoder_of
from streamnest.checkpoint.loading import check_architecture, check_training_state, stored_labels
from streamnest.checkpoint.resume import checkpoint_to_continue, restoring
from streamnest.checkpoint.transfer import transfer
from streamnest.console.entry_point import without_trace
from streamnest.corpus_statistics import fit_statistics
from streamnest.distributed.cluster import trainer_plugins
from streamnest.errors import UserError
from streamnest.latency import require_no_leak
from streamnest.locations import config_folder, set_root
from streamnest.loggers.wandb import finish_runs
from streamnest.reporting import panels as report
from streamnest.reporting.summary import EndedRun, publish, summarise
from streamnest.streaming.receptive_field import require_causal
from streamnest.training import run_folder
from streamnest.training.launching import check_command_line, is_sweep, refuse
from streamnest.training.preflight import is_finished, last_value, warn

log = logging.getLogger("train")


def train(cfg: DictConfig) -> float | None:
    """Runs one job; returns what its task monitors at the last validation, None without one, for searches."""
    started = time.monotonic()
    refuse(cfg)
    # Lightning's own use of a deprecated torch class, of no concern to who trains.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Of full sharding: outputs of blocks may be views, which nothing here writes into.
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*returned a view.*")
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)

    checkpoint = checkpoint_to_continue(cfg)
    cfg = with_encoder_of(cfg, checkpoint)
    data = build_data(cfg)
    model = build_model(cfg, data, labels=stored_labels(checkpoint, cfg.task.name))
    for number, _ in enumerate(model.encoder.each_context()):
        require_no_leak(model.encoder, model.latency)
        require_causal(model, brief=number > 0)
    transferred = None
    if checkpoint:
        stored = check_architecture(checkpoint, model.config)
        check_training_state(checkpoint, stored, model)
        if is_finished(stored, cfg):
            return last_value(stored, cfg.task.monitor)
    elif cfg.encoder_from:
        transferred = load_encoder(model, cfg.encoder_from)
    elif cfg.init_from:
        transferred = transfer(model, cfg.init_from)
    data.setup("fit")

    history = ValHistory()
    callbacks, loggers = [history, *build_all(cfg.callbacks)], build_all(cfg.logger)
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, plugins=trainer_plugins())
    report.show(report.start_panel(cfg, model, data, trainer))
    warn(cfg, trainer)
    if transferred:
        report.show(report.transfer_panel(transferred))
    if not checkpoint:
        fit_statistics(model, data.statistics_batches(), cfg.statistics.hours)
        trainer.validate(model, datamodule=data, verbose=False)
    for logger in trainer.loggers:
        logger.log_hyperparams({**model.config, **model.latency.as_dict()})

    run_folder.begin(cfg, Path(cfg.paths.output_dir))
    with restoring(checkpoint):
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    stops = [callback for callback in callbacks if isinstance(callback, StopOnSignal)]
    if history.last_step != trainer.global_step and not any(stop.stopped for stop in stops):
        trainer.validate(model, datamodule=data, verbose=False)
    run = EndedRun(cfg, model, data, trainer, history, time.monotonic() - started)
    publish(summarise(run), cfg.paths.output_dir, trainer)
    finish_runs(trainer.loggers)
    report.show(report.summary_panel(run))
    # One rank says so: launchers kill the others when one ends with anything but 0, while rank 0 closes its loggers.
    if any(stop.preempted for stop in stops) and trainer.is_global_zero:
        sys.exit(PREEMPTED)
    return history.last.get(cfg.task.monitor)


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="train")
def job(cfg: DictConfig) -> float | None:
    """Runs a job in a folder of its own; a mistake is a message and status 2, after which a sweep goes on."""
    exit_on_signals_before_training()
    try:
        with run_folder.claimed(Path(cfg.paths.output_dir)):
            return train(cfg)
    except UserError as error:
        log.error("%s", error)
        if is_sweep():
            raise
        sys.exit(2)


@without_trace
def main() -> int:
    """Runs the command line, which Hydra parses."""
    set_root()
    try:
        check_command_line(config_folder())
        job()
    finally:
        run_folder.remove_refused_sweep()
    return 0

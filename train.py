"""Pretrains a streaming speech encoder, or trains a task on one: `python train.py task=ctc ...`; see `--help`."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("STREAMNEST_ROOT", os.path.relpath(Path(__file__).resolve().parent))

import hydra
import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from streamnest import config, report
from streamnest.build import build_all, build_data, build_model
from streamnest.callbacks import StopOnSignal, ValHistory
from streamnest.callbacks.interrupt import PREEMPTED, exit_if_preempted_before_training
from streamnest.checkpoint import check_architecture, stored_labels
from streamnest.cluster import trainer_plugins
from streamnest.downstream.adoption import load_encoder, with_encoder_of
from streamnest.errors import UserError
from streamnest.latency import require_no_leak
from streamnest.resume import checkpoint_to_continue
from streamnest.statistics import fit_statistics
from streamnest.streaming.probing import require_causal
from streamnest.summary import EndedRun, publish, summarise
from streamnest.tracking import finish_runs
from streamnest.transfer import transfer

log = logging.getLogger("train")


def train(cfg: DictConfig) -> float | None:
    """Runs one job; returns what its task monitors at the last validation, None without one, for searches."""
    started = time.monotonic()
    # Lightning's own use of a deprecated torch class, of no concern to who trains.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Of full sharding: outputs of blocks may be views, which nothing here writes into.
    warnings.filterwarnings("ignore", message=".*FSDP2-wrapped module.*returned a view.*")
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)

    if cfg.init_from and cfg.ckpt_path:
        raise UserError("init_from begins a new run and ckpt_path continues one: give one of the two")
    checkpoint = checkpoint_to_continue(cfg)
    cfg = with_encoder_of(cfg, checkpoint)
    data = build_data(cfg)
    model = build_model(cfg, data, labels=stored_labels(checkpoint))
    for number, _ in enumerate(model.encoder.each_context()):
        require_no_leak(model.encoder, model.latency)
        require_causal(model, brief=number > 0)
    transferred = None
    if checkpoint:
        check_architecture(checkpoint, model.config)
    elif cfg.encoder_from:
        transferred = load_encoder(model, cfg.encoder_from)
    elif cfg.init_from:
        transferred = transfer(model, cfg.init_from)
    data.setup("fit")

    history = ValHistory()
    callbacks, loggers = [history, *build_all(cfg.callbacks)], build_all(cfg.logger)
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, plugins=trainer_plugins())
    report.show(report.start_panel(cfg, model, data, trainer))
    if transferred:
        report.show(report.transfer_panel(transferred))
    if not checkpoint:
        fit_statistics(model, data.statistics_batches(), cfg.statistics.hours)
        trainer.validate(model, datamodule=data, verbose=False)
    for logger in trainer.loggers:
        logger.log_hyperparams({**model.config, **model.latency.as_dict()})

    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if history.last_step != trainer.global_step:
        trainer.validate(model, datamodule=data, verbose=False)
    run = EndedRun(cfg, model, data, trainer, history, time.monotonic() - started)
    publish(summarise(run), cfg.paths.output_dir, trainer)
    finish_runs(trainer.loggers)
    report.show(report.summary_panel(run))
    # One rank says so: launchers kill the others when one ends with anything but 0, while rank 0 closes its loggers.
    preempted = any(isinstance(callback, StopOnSignal) and callback.preempted for callback in callbacks)
    if preempted and trainer.is_global_zero:
        sys.exit(PREEMPTED)
    return history.last.get(cfg.task.monitor)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Turns a user's mistake into a message and status 2."""
    try:
        return train(cfg)
    except UserError as error:
        log.error("%s", error)
        sys.exit(2)


if __name__ == "__main__":
    exit_if_preempted_before_training()
    config.register()
    main()

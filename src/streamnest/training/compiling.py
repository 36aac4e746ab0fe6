"""Compilation of a model for training, `compile=true`: what it needs, and its start."""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import shutil
import sys

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig
from torch import nn

from streamnest.encoder import FastConformer
from streamnest.encoder.compilation import use_compiler
from streamnest.errors import UserError

log = logging.getLogger(__name__)


def compile_for_training(model: nn.Module, cfg: DictConfig, trainer: L.Trainer) -> None:
    """Compiles encoder layers and cross entropy if `compile=true`, each at its first call in training.

    Raises:
        UserError: for a strategy that compilation has not been tested with, for re-encoded right context, and as
            `require_compiler`.
    """
    if not cfg.compile:
        return
    if any(isinstance(part, FastConformer) and part.default_context.style == "buffered" for part in model.modules()):
        # The compiler reasons for minutes about the sizes of windows, and again for other shapes.
        raise UserError("compile=true does not support encoder.style=buffered: set compile=false")
    strategy = trainer.strategy
    # Not subclasses: DeepSpeed's strategy derives from that of DDP.
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        raise UserError(
            f"compile=true works on one device and with DDP, not with trainer.strategy={type(strategy).__name__}: "
            "choose trainer=ddp, or set compile=false"
        )
    require_compiler(strategy.root_device)
    if trainer.is_global_zero:
        log.info("compile=true: the first steps compile the model, which takes minutes on a busy CPU")
    use_compiler(model)


def require_compiler(device: torch.device) -> None:
    """Checks that PyTorch can compile for a device.

    Raises:
        UserError: for a device other than a CPU and an NVIDIA GPU, and without the compiler that the device needs.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UserError("compile=true needs the package triton on a GPU: pip install triton, or set compile=false")
        return
    if device.type != "cpu":
        raise UserError(
            f"compile=true works on CPUs and NVIDIA GPUs, not on {device.type}: choose trainer=cpu or compile=false"
        )
    command = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(shlex.split(command)[0]) is None:
        raise UserError(
            f"compile=true needs a C++ compiler on a CPU, and {command} is not installed: install g++, give another "
            "one by the environment variable CXX (such as CXX=clang++), or set compile=false"
        )

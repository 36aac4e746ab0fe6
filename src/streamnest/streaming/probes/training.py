"""Training and validation step of a model without a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.pretraining import Pretraining
from streamnest.randomness import hash_id


def make_batch(audio: Tensor, lengths: Tensor, step: int, keys: Tensor | None = None, noisy: bool = False) -> Batch:
    """Builds a batch of audio `(B, N)`; `noisy` gives the targets other audio than the encoder, as added noise does."""
    ids = [f"row {row}" for row in range(len(audio))]
    keys = torch.tensor([hash_id(name) for name in ids], device=audio.device) if keys is None else keys
    seconds = float(lengths.sum()) / 16000
    return Batch(0.5 * audio if noisy else audio, audio, lengths, keys, step, ids, seconds)


def attach(model: EncoderTask) -> None:
    """Attaches a minimal trainer to a copy of a model, and replaces losses that need labels."""
    trainer = SimpleNamespace(
        world_size=1, global_rank=0, local_rank=0, global_step=0, current_epoch=0, is_global_zero=True,
        training=True, validating=False, sanity_checking=False, testing=False, predicting=False, max_steps=-1,
    )  # fmt: skip
    parts: dict[str, Any] = {"_trainer": trainer, "optimizers": lambda **_: SimpleNamespace(param_groups=[{"lr": 0.0}])}
    parts["log"] = parts["log_dict"] = lambda *_args, **_kwargs: None
    if hasattr(model, "loss_of"):  # a task whose loss needs labels
        parts["loss_of"] = lambda encoded, *_: (encoded.sum(), torch.ones((), device=encoded.device))
    if hasattr(model, "loss_terms"):
        parts["loss_terms"] = lambda encoded, *_: ({"loss": (1.0, encoded.sum())}, encoded.new_ones(()))
    for name, part in parts.items():
        setattr(model, name, part)


def training_step(model: EncoderTask, batch: Batch) -> None:
    """Runs the hooks and the training step of `Trainer` for a batch, in the current context of a dynamic encoder.

    A task without a training step encodes the batch.
    """
    context, batch = model.encoder.context, _transferred(model, batch)
    model.on_train_batch_start(batch, 0)
    if model.encoder.choices.by_name:
        model.encoder.context = context
    if type(model).training_step is L.LightningModule.training_step:
        model(batch.noisy, batch.lengths)
    else:
        model.training_step(batch, batch.step)


def _transferred(model: EncoderTask, batch: Batch) -> Batch:
    """Runs the hooks of a model around the transfer of a batch to the device."""
    changed: Batch = model.on_after_batch_transfer(model.on_before_batch_transfer(batch, 0), 0)
    return changed


def validation_step(model: EncoderTask, batch: Batch) -> None:
    """Runs the validation step for a batch; a task whose validation needs labels encodes the batch."""
    batch = _transferred(model, batch)
    encode: Any = getattr(model, "encode", None)
    if isinstance(model, Pretraining):
        model.validation_step(batch, 0)
    elif encode:
        encode(batch, 0)
    else:
        model(batch.noisy, batch.lengths)


@contextmanager
def without_masking(model: Any) -> Iterator[None]:
    """Disables masking and SpecAugment, since masked frames would hide a leak."""
    replaced: list[tuple[Any, str, Any]] = []
    if hasattr(model, "masking"):
        replaced.append((model.masking, "sample", _no_mask))
    if hasattr(model, "spec_augment"):
        replaced.append((model.spec_augment, "forward", lambda features, *_: features))
    before = [vars(part).get(name) for part, name, _ in replaced]
    for part, name, function in replaced:
        setattr(part, name, function)
    try:
        yield
    finally:
        for (part, name, _), own in zip(replaced, before, strict=True):
            delattr(part, name)
            if own is not None:
                setattr(part, name, own)


def _no_mask(lengths: Tensor, frames: int, *_args: Any, **_kwargs: Any) -> Tensor:
    return torch.zeros(len(lengths), frames, dtype=torch.bool, device=lengths.device)

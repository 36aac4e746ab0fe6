"""Recordings that are trained on in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from models import ready
from omegaconf import DictConfig
from torch import Tensor

from streamnest.build import build_data
from streamnest.data.batch import Batch
from streamnest.data.datamodule import SpeechDataModule
from streamnest.pretraining import Pretraining
from streamnest.training.piece_checks import check_pieces

# One recording ends inside a frame, one is shorter than a piece, and one ends with a piece.
SECONDS = (3.1234, 0.5, 5.04, 2.0)


def pieces(manifest: Path, piece_s: float, rows: int, *overrides: str) -> tuple[str, ...]:
    """Returns the overrides of training in pieces, without randomness in the audio."""
    return (
        *(f"data.train_manifest={manifest}", "data.val_manifest=null", "data.noise_manifest=null", "augment=none"),
        *(f"data.piece_s={piece_s}", f"data.batch_duration={rows * piece_s}", "frontend.dither=0", *overrides),
    )


def built(cfg: DictConfig) -> tuple[Pretraining, SpeechDataModule]:
    model, data = ready(cfg), build_data(cfg)
    check_pieces(cfg, model)
    data.config.num_batches = None
    data.setup("fit")
    return model, data


def batches(data: SpeechDataModule, steps: int) -> Iterator[Batch]:
    data.config.num_batches = steps
    return iter(data.train_dataloader())


def encoded(model: Pretraining, batch: Batch) -> tuple[Tensor, Tensor]:
    features, frames = model.compute_features(batch.clean, batch)
    return model.encode_batch(model.normalize_batch(features, frames, batch), frames, batch)


def whole_outputs(model: Pretraining, data: SpeechDataModule, name: str, first: int) -> Tensor:
    """Encodes a recording from one of its pieces to its end, in one forward pass."""
    cut = next(cut for cut in data._cuts["train"] if cut.id == name)
    audio = torch.from_numpy(cut.load_audio())[:, first:].to(model.frontend.window.dtype)
    outputs, frames = model(audio, torch.tensor([audio.shape[1]]))
    return outputs[0, : int(frames)]


PRESETS = {
    "limited": ("encoder=limited3200", "encoder.left_context_ms=400"),
    "lookahead": ("encoder=lookahead40", "encoder.normalize=online"),
    "8x": ("encoder=lookahead80", "encoder.subsampling_factor=8", "encoder.right_context_ms=80"),
    "sherpa": ("encoder=causal", "frontend.kind=sherpa"),
}

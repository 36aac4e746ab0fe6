"""Checks that a run can train in pieces of recordings, `data.piece_s`."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from streamnest.data.piece_dataset import MARGIN
from streamnest.data.sampling.sources import parse_sources
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.pieces.features import margins
from streamnest.pretraining import Pretraining

# The longest past of a stream, an hour, as of `FastConformer.left_frames`.
_LONGEST_LEFT_S = 3600.0


def check_pieces(cfg: DictConfig, model: EncoderTask) -> None:
    """Refuses a run in pieces that would not equal training on whole recordings.

    Args:
        cfg: composed config; without `data.piece_s` nothing is checked.
        model: task of the run.

    Raises:
        UserError: with the key, the value and the remedy.
    """
    if cfg.data.get("piece_s") is None:
        return
    for reason in _reasons(cfg, model):
        raise UserError(f"data.piece_s={cfg.data.piece_s:g} trains in pieces of recordings: {reason}")


def _reasons(cfg: DictConfig, model: EncoderTask) -> Iterator[str]:
    encoder = model.encoder
    if not isinstance(model, Pretraining):
        yield f"task={cfg.task.name} learns from whole utterances; choose task=pretrain, or data.piece_s=null"
    elif model.dual_weights:
        yield "task.dual_mode encodes whole utterances; set its weights to 0"
    if encoder.choices.by_name:
        yield (
            "the contexts of a dynamic encoder change from step to step, and the state of a stream belongs to one; "
            "choose an encoder with one context, such as encoder=lookahead80"
        )
    try:
        chunk = encoder.chunk
    except UserError as error:
        yield str(error)
        return
    if not model.input_norm.causal:
        yield f"encoder.normalize={encoder.normalize} needs whole utterances; choose global or online"
    if encoder.warmup or encoder.target_shift:
        yield (
            "outputs must not be later than their targets; choose encoder.style=chunked and "
            "encoder.subsampling_padding=aligned"
        )
    yield from _wrong_lengths(cfg, model, chunk)
    if max(margins(model.frontend)) > MARGIN:
        yield f"frontend.window_ms={cfg.frontend.window_ms:g} must be at most 100"
    for key, prob in (("speed", cfg.augment.speed.prob), ("reverb", cfg.augment.reverb.prob)):
        if prob:
            yield f"augment.{key}.prob={prob:g} would differ between the pieces of a recording; set it to 0"
    weighted = any(source.weight is not None for source in parse_sources(cfg.data.train_manifest))
    if weighted or cfg.data.get("temperature") is not None:
        yield "weights of sources and data.temperature are for utterances; leave them out"
    if "FullySharded" in str(cfg.trainer.get("strategy")):
        yield "full sharding does not support streaming steps; choose trainer=ddp"


def _wrong_lengths(cfg: DictConfig, model: EncoderTask, chunk: int) -> Iterator[str]:
    data, rate = cfg.data, model.sample_rate
    unit = chunk * model.encoder.subsampling.factor * model.frontend.hop
    samples, seconds = round(data.piece_s * rate), unit / rate
    if samples % unit or not samples:
        legal = [f"{low / rate:g}" for low in (samples // unit * unit, samples // unit * unit + unit) if low]
        yield f"it must be a multiple of {seconds:g} (the encoder's chunk); the nearest are {' and '.join(legal)}"
    if not seconds <= data.piece_left_s <= _LONGEST_LEFT_S:
        yield f"data.piece_left_s={data.piece_left_s:g} must be from {seconds:g} (one chunk) to {_LONGEST_LEFT_S:g}"
    if data.batch_duration < data.piece_s:
        yield f"data.batch_duration={data.batch_duration:g} must be at least one piece"

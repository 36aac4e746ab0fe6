"""The upstream: waveforms in, the hidden states of all layers out, with the lengths that S3PRL expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.checkpoint.loading import load_model
from streamnest.encoder.layer_outputs import layer_outputs
from streamnest.errors import UserError

SAMPLE_RATE = 16000  # of all audio in S3PRL
SHORT_STRIDE = 320  # samples: the 20 ms frames that some tasks of SUPERB require


class UpstreamExpert(nn.Module):
    """The layers of an encoder as S3PRL's hidden states: the output of the subsampling, then that of each layer.

    Masks, normalization and context are those of the checkpoint, so that a hidden state looks ahead no further than
    the certificate allows; with shifted subsampling, hidden state t is output t + 1, which looks one frame further.

    Each waveform is followed by silence up to a whole frame, because S3PRL expects `ceil(samples / stride)` frames.
    Frame t covers samples `[stride * t, stride * (t + 1))`. Other rows of the batch have no effect.

    Args:
        ckpt: checkpoint of any task, model folder, or `hf:ORG/NAME`.
        model_config: name of a context of a dynamic encoder, such as `causal`; None is the default one.
        stride: samples per hidden state, a divisor of the encoder's stride; frames are repeated. None is the
            encoder's stride.

    Raises:
        UserError: as `load_model`; without a checkpoint; for an encoder of another sample rate; for a stride that does
            not divide the encoder's stride.
    """

    def __init__(self, ckpt: str | None = None, model_config: str | None = None, stride: int | None = None) -> None:
        super().__init__()
        if not ckpt:
            raise UserError("the upstream needs a checkpoint: give -k CKPT, or ckpt= in Python")
        model = load_model(ckpt, model_config)
        # Quantizer and heads are left out, so that S3PRL trains no unused weights with -f.
        self.frontend, self.input_norm, self.encoder = model.frontend, model.input_norm, model.encoder
        if model.sample_rate != SAMPLE_RATE:
            raise UserError(f"{ckpt} takes audio at {model.sample_rate} Hz, but S3PRL has {SAMPLE_RATE} Hz")
        self.frame = model.frontend.hop * model.encoder.subsampling.factor
        self.stride = self.frame if stride is None else stride
        if self.stride < 1 or self.frame % self.stride:
            raise UserError(f"stride={stride} must divide the {self.frame} samples of a frame of {ckpt}")

    def get_downsample_rates(self, _key: str) -> int:
        """Returns the samples per hidden state, the same for all layers."""
        return self.stride

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Computes the hidden states.

        Args:
            wavs: waveforms `(N,)` of any lengths.

        Returns:
            `hidden_states`, one `(B, T, d)` per layer with `T = ceil(longest / stride)`, zero past each row's end; and
            `last_hidden_state`.
        """
        # At least one frame, because S3PRL repeats the last one of a short row.
        counts = [max(1, math.ceil(len(wav) / self.frame)) for wav in wavs]
        audio = wavs[0].new_zeros(len(wavs), max(counts) * self.frame)
        for row, wav in zip(audio, wavs, strict=True):
            row[: len(wav)] = wav
        frames = torch.tensor(counts, device=audio.device)
        features, lengths = self.frontend(audio, frames * self.frame)
        features = self.input_norm(features, lengths)
        outputs = layer_outputs(self.encoder, features, lengths, range(len(self.encoder.layers) + 1))
        inside = (torch.arange(max(counts), device=audio.device) < frames[:, None])[..., None]
        wanted = max(1, math.ceil(max(map(len, wavs)) / self.stride))
        repeats = self.frame // self.stride
        hidden = [(x[:, : max(counts)] * inside).repeat_interleave(repeats, dim=1)[:, :wanted] for x in outputs]
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}


def streamnest(ckpt: str | None = None, model_config: str | None = None, **_options: Any) -> UpstreamExpert:
    """Entry of S3PRL's hub: hidden states at the stride of the encoder (`-u streamnest`)."""
    return UpstreamExpert(ckpt, model_config)


def streamnest_20ms(ckpt: str | None = None, model_config: str | None = None, **_options: Any) -> UpstreamExpert:
    """Entry of S3PRL's hub: each frame is repeated to 20 ms frames, for tasks that require them."""
    return UpstreamExpert(ckpt, model_config, stride=SHORT_STRIDE)

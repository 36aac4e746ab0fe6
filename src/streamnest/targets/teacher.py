"""A frozen encoder whose layer outputs become targets, and their alignment with the frames of a student."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from streamnest.encoder import FastConformer
from streamnest.encoder.layer_outputs import layer_outputs
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.normalization import Normalizer


class Teacher:
    """Layer outputs of a frozen encoder for clean audio, without dither and dropout, in float32.

    It is not a module and copies of it are the same object, so that no model registers, saves or averages its weights.
    It moves to the device of the audio when it is used. Layers above the last one that is needed are dropped.

    Args:
        frontend: front end of the encoder.
        norm: input normalization of the encoder.
        encoder: encoder in the context to use; changed in place.
        layers: layers in ascending order; 0 is the output of the subsampling, n that of Conformer layer n.
    """

    def __init__(self, frontend: LogMel, norm: Normalizer, encoder: FastConformer, layers: Sequence[int]) -> None:
        self.layers, self.width = tuple(layers), encoder.d_model
        # The first layer has sizes that the encoder reads.
        encoder.layers = encoder.layers[: max(1, *layers)]
        self._modules = [part.eval().requires_grad_(False) for part in (frontend, norm, encoder)]
        self.frontend, self.norm, self.encoder = frontend, norm, encoder

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio."""
        return self.frontend.sample_rate

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return self.frontend.hop * self.encoder.subsampling.factor

    def require_alignment(self, sample_rate: int, stride: int) -> None:
        """Refuses a student whose frames cannot be aligned with those of this teacher.

        Args:
            sample_rate: sample rate of the student.
            stride: samples per frame of the student.

        Raises:
            UserError: for another sample rate, and for strides of which neither is a multiple of the other.
        """
        if self.sample_rate != sample_rate:
            raise UserError(
                f"the teacher takes audio at {self.sample_rate} Hz, this run has frontend.sample_rate={sample_rate}: "
                "choose a teacher of the same sample rate"
            )
        if stride % self.stride and self.stride % stride:
            own, wanted = (1000 * samples / sample_rate for samples in (self.stride, stride))
            raise UserError(
                f"the frames of the teacher ({own:g} ms) and of this run ({wanted:g} ms) cannot be aligned: one must "
                "be a multiple of the other; change encoder.subsampling_factor or frontend.hop_ms"
            )

    @torch.no_grad()
    def frames(self, audio: Tensor, lengths: Tensor, stride: int) -> Tensor:
        """Computes layer outputs at the frame rate of a student.

        A frame of the student is the mean of the teacher's frames within it, or the teacher's frame that contains it.
        The frames do not depend on padding and on the other rows, except for rounding errors.

        Args:
            audio: `(B, N)` clean samples.
            lengths: `(B,)` valid samples.
            stride: samples per frame of the student, a multiple or a divisor of `stride`.

        Returns:
            `(B, N // stride, layers, d)` float32; frames past a row's last whole frame are undefined.
        """
        for module in self._modules:
            module.to(audio.device)
        with torch.autocast(audio.device.type, enabled=False):
            features, count = self.frontend(audio.float(), lengths)
            wanted = audio.shape[1] // stride
            if not features.shape[-1] or not wanted:
                return features.new_zeros(len(audio), wanted, len(self.layers), self.width)
            outputs = layer_outputs(self.encoder, self.norm(features, count), count, self.layers)
            valid = self.encoder.subsampling.num_frames(count) - self.encoder.target_shift
            return torch.stack([self._aligned(x, valid, stride, wanted) for x in outputs], dim=2)

    def _aligned(self, x: Tensor, valid: Tensor, stride: int, wanted: int) -> Tensor:
        """Converts `(B, T, d)` of `valid` `(B,)` frames to `(B, wanted, d)` at the stride of the student."""
        if stride >= self.stride:
            together = stride // self.stride
            return x[:, : wanted * together].unflatten(1, (wanted, together)).mean(2)
        # The last frame of the student may lie in an incomplete frame of the teacher, which may have no output.
        index = torch.arange(wanted, device=x.device) * stride // self.stride
        index = torch.minimum(index, (valid[:, None] - 1).clamp_min(0)).clamp_max(x.shape[1] - 1)
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))

    def fingerprint(self) -> bytes:
        """Returns 32 bytes that identify the function: front end, statistics, context, weights up to the last layer."""
        f, e = self.frontend, self.encoder
        settings: dict[str, list[Any]] = {
            "front end": [f.sample_rate, f.num_mels, len(f.window), f.hop, f.n_fft, f.preemphasis],
            "normalization": [self.norm.kind, self.norm.prior_frames],
            "subsampling": [e.subsampling.factor, e.subsampling.scheme, e.scale],
            "context": [e.context.left, e.context.right, e.context.style],
            "layers": [[x.attention.num_heads, x.convolution.past, x.convolution.lookahead] for x in e.layers],
            "outputs": list(self.layers),
        }
        if e.context.style == "buffered":
            settings["context"].append(e.context.chunk)
        if f.kind != "nest":  # older caches have no kind
            settings["front end"].append(f.kind)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for module in (self.norm, e):
            for name, value in sorted(module.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.digest()

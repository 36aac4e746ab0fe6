"""Codes of a teacher: nearest k-means centers of its layer outputs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.errors import UserError
from streamnest.quantizer import RandomProjectionQuantizer, principal_directions
from streamnest.targets.cache import CodeCache
from streamnest.targets.config import TeacherConfig, check_sizes, checked_layers
from streamnest.targets.kmeans import kmeans, nearest
from streamnest.targets.teacher import Teacher

log = logging.getLogger(__name__)

_EPSILON = 1e-5


class TeacherQuantizer(nn.Module):
    """Codes of clean audio: nearest k-means center of the outputs of a layer of a frozen encoder.

    The targets of HuBERT (Hsu et al. 2021) and its later iterations. Statistics and centers are fitted once before
    training and saved. The teacher itself is attached for training and never saved.

    Args:
        stack: feature frames of the student per code, equal to its subsampling factor.
        num_classes: codes per codebook.
        num_codebooks: number of codebooks, a multiple of the number of layers.
        seed: seed of the clustering; codebook i uses `seed + i`.
        checkpoint: path of the teacher, for messages.
        layer: layer, or list of layers, of the teacher.
        width: width of the teacher; None for a model without training.
        context: context of a dynamic teacher, for messages.
        code_dim: number of principal directions that are clustered; None is all dimensions.
        standardize: divide each dimension by its standard deviation first.
        cache: folder of cached codes; "auto" is a folder in the cache of streamnest, None turns it off.

    Raises:
        UserError: for values out of range.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    centers: Tensor
    fitted: Tensor
    fingerprint: Tensor

    def __init__(
        self,
        stack: int = TeacherConfig.stack,
        num_classes: int = TeacherConfig.num_classes,
        num_codebooks: int = TeacherConfig.num_codebooks,
        seed: int = TeacherConfig.seed,
        checkpoint: str | None = None,
        layer: Any = TeacherConfig.layer,
        width: int | None = None,
        context: str | None = None,
        code_dim: int | None = None,
        standardize: bool = TeacherConfig.standardize,
        cache: str | None = "auto",
    ) -> None:
        super().__init__()
        self.layers = checked_layers(layer)
        self.stack, self.num_classes, self.num_codebooks = stack, num_classes, num_codebooks
        self.seed, self.standardize, self.cache_folder = seed, standardize, cache
        self.checkpoint, self.context = checkpoint, context
        self.width = width or code_dim or 1
        check_sizes(stack, num_classes, num_codebooks, len(self.layers), self.width, code_dim)
        self.register_buffer("mean", torch.zeros(len(self.layers), self.width))
        self.register_buffer("scale", torch.ones(len(self.layers), self.width))
        if code_dim is not None:
            self.register_buffer("directions", torch.zeros(len(self.layers), code_dim, self.width))
        self.projected, self.code_dim = code_dim is not None, code_dim or self.width
        self.register_buffer("centers", torch.zeros(num_codebooks, num_classes, self.code_dim))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("fingerprint", torch.zeros(32, dtype=torch.uint8))
        self._teacher: Teacher | None = None
        self._stride = 0
        self.cache: CodeCache | None = None

    def attach(self, teacher: Teacher, sample_rate: int, stride: int) -> None:
        """Attaches the teacher of a training run.

        Args:
            teacher: teacher, reduced to the layers of this quantizer.
            sample_rate: sample rate of the student.
            stride: samples per frame of the student.

        Raises:
            UserError: if its frames cannot be aligned with those of the student.
        """
        teacher.require_alignment(sample_rate, stride)
        self.fingerprint.copy_(torch.frombuffer(bytearray(teacher.fingerprint()), dtype=torch.uint8))
        self._teacher, self._stride = teacher, stride

    @property
    def teacher(self) -> Teacher:
        """The attached teacher.

        Raises:
            UserError: if there is none.
        """
        if self._teacher is None:
            raise UserError(
                f"the targets of this model are codes of a teacher (quantizer.checkpoint={self.checkpoint}), which "
                "only `streamnest train`, and `benchmarks/positions.py --teacher CHECKPOINT`, load: without it, the "
                "model computes representations but no targets"
            )
        return self._teacher

    @property
    def to_be_fitted(self) -> bool:
        """True if the centers are not fitted yet."""
        return not bool(self.fitted)

    def in_words(self) -> str:
        """Describes path, layers and context of the teacher for a panel."""
        layers = f"layer {self.layers[0]}" if len(self.layers) == 1 else f"layers {', '.join(map(str, self.layers))}"
        return f"{self.checkpoint}, {layers}" + (f", context {self.context}" if self.context else "")

    def frames(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Computes the teacher's outputs at the frame rate of the student, see `Teacher.frames`."""
        return self.teacher.frames(audio, lengths, self._stride)

    def quantize(self, frames: Tensor) -> Tensor:
        """Computes codes `(..., num_codebooks)` int64 of frames `(..., layers, width)`."""
        flat = frames.reshape(-1, len(self.layers), self.width).float()
        with torch.autocast(flat.device.type, enabled=False):
            points = [self._points(flat[:, layer], layer) for layer in range(len(self.layers))]
            codes = [nearest(points[n % len(points)], centers) for n, centers in enumerate(self.centers)]
        return torch.stack(codes, -1).view(*frames.shape[:-2], self.num_codebooks)

    @torch.no_grad()
    def codes(self, audio: Tensor, lengths: Tensor, hashes: Sequence[bytes] = ()) -> Tensor:
        """Computes codes of clean audio; rows with cached codes skip the teacher.

        Args:
            audio: `(B, N)` clean samples.
            lengths: `(B,)` valid samples.
            hashes: hash of the samples of each row; empty if unknown, so that the cache is not used.

        Returns:
            `(B, N // stride, num_codebooks)` int64; 0 past a row's last whole frame.

        Raises:
            UserError: if no teacher is attached.
        """
        _ = self.teacher
        codes = torch.zeros(len(audio), audio.shape[1] // self._stride, self.num_codebooks, dtype=torch.long)
        cache = self.cache if hashes else None
        known = cache.read(hashes) if cache else {}
        missing = [row for row in range(len(audio)) if not known or hashes[row] not in known]
        computed = dict(zip(missing, self._computed(audio, lengths, missing), strict=True))
        for row in range(len(audio)):
            one = computed[row] if row in computed else torch.from_numpy(known[hashes[row]])
            codes[row, : len(one)] = one
        if cache:
            cache.write({hashes[row]: one.numpy() for row, one in computed.items()})
        return codes.to(audio.device, non_blocking=True)

    def _computed(self, audio: Tensor, lengths: Tensor, rows: list[int]) -> list[Tensor]:
        """Computes the codes `(T, num_codebooks)` of the whole frames of some rows, on the CPU."""
        # On a CPU, rows one by one cost no more than a batch, and their codes depend on nothing else in any bit.
        batches = [[row] for row in rows] if audio.device.type == "cpu" else [rows] if rows else []
        codes: list[Tensor] = []
        for batch in batches:
            samples = lengths[batch].tolist()
            frames = self.frames(audio[batch, : max(samples)], lengths[batch])
            together = self.quantize(frames).cpu()
            codes += [one[: count // self._stride] for one, count in zip(together, samples, strict=True)]
        return codes

    @torch.no_grad()
    def fit(self, frames: Tensor) -> None:
        """Fits statistics and centers to frames `(N, layers, width)` of clean speech, once.

        Centers from a checkpoint are kept, because heads may have been trained with them.

        Raises:
            UserError: if there are fewer frames than centers.
        """
        if not self.to_be_fitted:
            return
        self._require_frames(len(frames))
        for layer in range(len(self.layers)):
            x = frames[:, layer].float()
            self.mean[layer] = x.mean(0)
            self.scale[layer] = x.std(0).clamp_min(_EPSILON) if self.standardize else 1.0
            if self.projected:
                standardized = (x - self.mean[layer]) / self.scale[layer]
                self.directions[layer] = principal_directions(standardized, self.code_dim)[0]
            points = self._points(x, layer)
            for codebook in range(layer, self.num_codebooks, len(self.layers)):
                self.centers[codebook] = kmeans(points, self.num_classes, self.seed + codebook)
        self.fitted.fill_(True)

    def open_cache(self) -> None:
        """Opens the cache that belongs to the current teacher and centers; does nothing without a teacher or cache."""
        if self._teacher is None or self.cache_folder is None or self.to_be_fitted:
            return
        identity = self._identity()
        if self.cache is None or self.cache.identity != identity:
            self.cache = CodeCache(self.cache_folder, identity, self.num_classes, self.num_codebooks)

    def stand_in(self, feat_in: int) -> RandomProjectionQuantizer:
        """Returns a quantizer of the same sizes that computes codes from features of `feat_in` bands alone."""
        return RandomProjectionQuantizer(feat_in, self.stack, self.num_classes, self.num_codebooks)

    def _points(self, x: Tensor, layer: int) -> Tensor:
        """Converts frames `(N, width)` of a layer to the space of the centers `(N, code_dim)`."""
        standardized = (x - self.mean[layer]) / self.scale[layer]
        return standardized @ self.directions[layer].t() if self.projected else standardized

    def _require_frames(self, count: int) -> None:
        if count < self.num_classes:
            raise UserError(
                f"quantizer.num_classes={self.num_classes} centers cannot be fitted to {count} frames of speech: raise "
                "statistics.hours, or lower quantizer.num_classes"
            )
        if count < 10 * self.num_classes:
            log.warning(
                "%d codes are fitted to only %d frames: raise statistics.hours, or lower quantizer.num_classes",
                self.num_classes,
                count,
            )

    def _identity(self) -> str:
        """Returns a hash of everything that determines the codes of given samples."""
        digest = hashlib.blake2b(f"1 {self._stride} {self.teacher.stride}".encode(), digest_size=16)
        for value in self.state_dict().values():
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

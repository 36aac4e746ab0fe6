"""The random-projection quantizer of BEST-RQ (Chiu et al. 2022): clean features to codes."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.errors import UserError

log = logging.getLogger(__name__)

CODES = ("random", "pca", "kmeans")
_KMEANS_ROUNDS = 20
# Most (frame, code) scores held at a time, 16 MB of float32, independent of batch and codebook size.
_MAX_SCORES = 1 << 22


@dataclass
class TargetConfig:
    """Fields that the schemas of the `quantizer` group share; each kind adds its own."""

    _target_: str = "streamnest.quantizer.RandomProjectionQuantizer"
    stack: int = 4
    num_classes: int = 8192
    num_codebooks: int = 1
    seed: int = 0


@dataclass
class QuantizerConfig(TargetConfig):
    """Schema of codes of features; `normalize` is the normalization of the quantizer's input, see `Normalizer`."""

    feat_in: int = 80
    code_dim: int = 16
    codes: str = "random"
    normalize: str = "utterance"


class RandomProjectionQuantizer(nn.Module):
    """Frozen random projection and nearest code, `(B, D, T)` -> `(B, T // stack, num_codebooks)` int64.

    `stack` consecutive frames (frame-major, then band) are projected; the nearest of the unit-norm codes is the one
    with the largest dot product. Always float32. Frames after the last whole stack are dropped.

    Args:
        feat_in: number of bands D, which must be normalized, or the codes collapse (NEST).
        stack: feature frames per code, equal to the encoder's subsampling factor.
        num_classes: codes per codebook.
        num_codebooks: number of independent codebooks, each with its own projection.
        code_dim: width of a code.
        seed: seed of projection and codes, separate so that all ranks, runs and resumed runs have the same targets.
        codes: "random" is BEST-RQ. "pca" uses the principal directions of speech, scaled to equal variance, with
            random codes. "kmeans" uses these directions unscaled, with spherical k-means centers as codes. Both are
            fitted once before training (`fit`) and then frozen like random codes.

    Raises:
        UserError: for sizes below 1, unknown codes, or features of another size.
    """

    projection: Tensor
    codebooks: Tensor
    fitted: Tensor

    def __init__(
        self,
        feat_in: int = QuantizerConfig.feat_in,
        stack: int = QuantizerConfig.stack,
        num_classes: int = QuantizerConfig.num_classes,
        num_codebooks: int = QuantizerConfig.num_codebooks,
        code_dim: int = QuantizerConfig.code_dim,
        seed: int = QuantizerConfig.seed,
        codes: str = QuantizerConfig.codes,
    ) -> None:
        super().__init__()
        if codes not in CODES:
            raise UserError(f"quantizer.codes={codes!r} is unknown: choose one of {', '.join(CODES)}")
        if codes != "random" and code_dim > stack * feat_in:
            raise UserError(
                f"quantizer.code_dim={code_dim} is more than the {stack * feat_in} feature values per code: lower it"
            )
        sizes = {"feat_in": feat_in, "stack": stack, "num_codebooks": num_codebooks, "code_dim": code_dim}
        for name, value in {**sizes, "num_classes - 1": num_classes - 1}.items():
            if value < 1:
                raise UserError(f"quantizer.{name}={value} must be at least 1")
        self.feat_in, self.stack, self.num_classes, self.num_codebooks = feat_in, stack, num_classes, num_codebooks
        self.codes, self.code_dim, self.seed = codes, code_dim, seed
        generator = torch.Generator().manual_seed(seed)
        projection = torch.empty(num_codebooks * code_dim, stack * feat_in)
        nn.init.xavier_normal_(projection, generator=generator)
        codebooks = torch.randn(num_codebooks, num_classes, code_dim, generator=generator)
        self.register_buffer("projection", projection)
        self.register_buffer("codebooks", F.normalize(codebooks, dim=-1))
        if codes != "random":
            self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @property
    def to_be_fitted(self) -> bool:
        """True if codes are not fitted yet."""
        return self.codes != "random" and not bool(self.fitted)

    @torch.no_grad()
    def forward(self, feats: Tensor) -> Tensor:
        """Computes codes of features `(B, D, T)`."""
        if feats.ndim != 3 or feats.shape[1] != self.feat_in:
            raise UserError(f"the quantizer takes (B, {self.feat_in}, T) features, got {tuple(feats.shape)}")
        with torch.autocast(feats.device.type, enabled=False):
            stacked = self.stacked(feats)
            projected = (stacked.flatten(0, 1) @ self.projection.t()).view(-1, self.num_codebooks, self.code_dim)
            return self._nearest(projected).view(*stacked.shape[:2], self.num_codebooks)

    def stacked(self, feats: Tensor) -> Tensor:
        """Stacks the features of each code: `(B, D, T)` -> `(B, T // stack, stack * D)` float32."""
        frames = feats.shape[-1] // self.stack
        return feats[..., : frames * self.stack].float().transpose(1, 2).reshape(len(feats), frames, -1)

    @torch.no_grad()
    def fit(self, stacked: Tensor) -> None:
        """Fits projection and codes to normalized, stacked features `(N, stack * D)` of clean speech, once.

        Codes from a checkpoint are kept, because heads may have been trained with them.

        Raises:
            UserError: if there are fewer rows than dimensions of a code.
        """
        if not self.to_be_fitted:
            return
        if len(stacked) < self.code_dim:
            raise UserError(
                f"quantizer.codes={self.codes} cannot be fitted to {len(stacked)} frames of speech, fewer than "
                f"quantizer.code_dim={self.code_dim}: raise statistics.hours, or choose quantizer=random"
            )
        if len(stacked) < 10 * self.num_classes:
            log.warning(
                "%d codes are fitted to only %d frames: raise statistics.hours, or lower quantizer.num_classes",
                self.num_classes,
                len(stacked),
            )
        directions, spread = principal_directions(stacked, self.code_dim)
        if self.codes == "pca":
            directions = directions / spread[:, None]
        self.projection.copy_(directions.repeat(self.num_codebooks, 1))
        if self.codes == "kmeans":
            projected = stacked @ directions.t()
            for index, codebook in enumerate(self.codebooks):
                codebook.copy_(spherical_kmeans(projected, self.num_classes, self.seed + index))
        self.fitted.fill_(True)

    def _nearest(self, projected: Tensor) -> Tensor:
        """`(N, codebooks, dim)` -> `(N, codebooks)`; the norm of a projection does not change the nearest code."""
        rows = max(1, _MAX_SCORES // self.num_classes)
        codes = torch.empty(projected.shape[:2], dtype=torch.long, device=projected.device)
        for start in range(0, len(projected), rows):
            for index, codebook in enumerate(self.codebooks):
                piece = projected[start : start + rows, index]
                codes[start : start + rows, index] = (piece @ codebook.t()).argmax(-1)
        return codes


def principal_directions(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Computes principal directions `(count, D)` of `(N, D)`, and the deviation along each, largest first.

    The largest component determines the sign, so that the same data give the same directions.
    """
    values, vectors = torch.linalg.eigh(x.double().t().cov())
    directions = vectors.t().flip(0)[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).to(x.dtype), values.flip(0)[:count].clamp_min(1e-12).sqrt().to(x.dtype)


def spherical_kmeans(x: Tensor, clusters: int, seed: int) -> Tensor:
    """Computes unit-norm cluster centers `(clusters, D)` of `(N, D)` (Dhillon and Modha 2001), from random points."""
    points = F.normalize(x, dim=-1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    # If there are fewer points than centers, the remaining centers stay random directions that no point is near.
    centers = F.normalize(torch.randn(clusters, x.shape[1], generator=torch.Generator().manual_seed(seed)), dim=-1).to(
        x
    )
    centers[: len(points)] = points[order[:clusters].to(x.device)]
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cat([(piece @ centers.t()).argmax(-1) for piece in points.split(_MAX_SCORES // clusters)])
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        centers = torch.where(sums.norm(dim=-1, keepdim=True) > 0, F.normalize(sums, dim=-1), centers)
    return centers


def count_codes(codes: Tensor, num_classes: int) -> Tensor:
    """Counts each code: `(..., codebooks)` -> `(codebooks, num_classes)` float32."""
    flat = codes.reshape(-1, codes.shape[-1])
    counts = torch.zeros(flat.shape[1], num_classes, device=codes.device)
    return counts.scatter_add_(1, flat.t(), torch.ones_like(flat.t(), dtype=counts.dtype))

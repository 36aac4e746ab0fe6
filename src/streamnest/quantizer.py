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
# Scores of so many (frame, code) pairs are held at a time, whatever the batch and the codebook: 16 MB of float32.
_MAX_SCORES = 1 << 22


@dataclass
class QuantizerConfig:
    """Schema of the `quantizer` group; `normalize` is how its input is normalised, see `Normalizer`."""

    _target_: str = "streamnest.quantizer.RandomProjectionQuantizer"
    feat_in: int = 80
    stack: int = 4
    num_classes: int = 8192
    num_codebooks: int = 1
    code_dim: int = 16
    seed: int = 0
    codes: str = "random"
    normalize: str = "utterance"


class RandomProjectionQuantizer(nn.Module):
    """Frozen random projection and nearest code, `(B, D, T)` -> `(B, T // stack, num_codebooks)` int64.

    `stack` consecutive frames (frame-major, then band) are projected; the nearest of the unit-norm codes is the one
    with the largest dot product. Always float32. Frames beyond the last whole stack are dropped.

    Args:
        feat_in: bands D; they must be normalised, or the codes collapse (NEST).
        stack: frames per code, the subsampling factor of the encoder.
        num_classes: codes per book.
        num_codebooks: independent codebooks with projections of their own.
        code_dim: width of a code.
        seed: of projection and codes; its own, so that every rank, run and resume has the same targets.
        codes: "random" is BEST-RQ. "pca" takes the directions in which speech varies most, scaled to the same spread,
            with random codes; "kmeans" takes these directions unscaled and codes in the middle of the groups that
            speech forms in them. Both are fitted once, before training (`fit`), and frozen like the random ones.

    Raises:
        UserError: for sizes below 1, unknown codes, or features of another size.
    """

    projection: Tensor
    codebooks: Tensor
    fitted: Tensor

    def __init__(
        self,
        feat_in: int = 80,
        stack: int = 8,
        num_classes: int = 8192,
        num_codebooks: int = 1,
        code_dim: int = 16,
        seed: int = 0,
        codes: str = "random",
    ) -> None:
        super().__init__()
        if codes not in CODES:
            raise UserError(f"quantizer.codes={codes!r} is unknown: choose one of {', '.join(CODES)}")
        if codes != "random" and code_dim > stack * feat_in:
            raise UserError(f"quantizer.code_dim={code_dim} is more than the {stack * feat_in} values of a block")
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
        """Whether codes still wait for `fit`."""
        return self.codes != "random" and not bool(self.fitted)

    @torch.no_grad()
    def forward(self, feats: Tensor) -> Tensor:
        """Codes of features `(B, D, T)`."""
        if feats.ndim != 3 or feats.shape[1] != self.feat_in:
            raise UserError(f"the quantizer takes (B, {self.feat_in}, T) features, got {tuple(feats.shape)}")
        with torch.autocast(feats.device.type, enabled=False):
            blocks = self.blocks(feats)
            projected = (blocks.flatten(0, 1) @ self.projection.t()).view(-1, self.num_codebooks, self.code_dim)
            return self._nearest(projected).view(*blocks.shape[:2], self.num_codebooks)

    def blocks(self, feats: Tensor) -> Tensor:
        """What one code stands for: features `(B, D, T)` -> `(B, T // stack, stack * D)` float32."""
        frames = feats.shape[-1] // self.stack
        return feats[..., : frames * self.stack].float().transpose(1, 2).reshape(len(feats), frames, -1)

    @torch.no_grad()
    def fit(self, blocks: Tensor) -> None:
        """Fits projection and codes to normalised blocks `(N, stack * D)` of clean speech, where they are to be fitted.

        Codes that came with a checkpoint stay: heads may have learned what they mean.

        Raises:
            UserError: for fewer blocks than a code is wide.
        """
        if not self.to_be_fitted:
            return
        if len(blocks) < self.code_dim:
            raise UserError(
                f"quantizer.codes={self.codes}: {len(blocks)} blocks of speech are too few to fit anything to: raise "
                "statistics.hours, or take quantizer=random"
            )
        if len(blocks) < 10 * self.num_classes:
            log.warning(
                "%d codes are fitted to %d blocks of speech only: raise statistics.hours, or take fewer codes",
                self.num_classes,
                len(blocks),
            )
        directions, spread = principal_directions(blocks, self.code_dim)
        if self.codes == "pca":
            directions = directions / spread[:, None]
        self.projection.copy_(directions.repeat(self.num_codebooks, 1))
        if self.codes == "kmeans":
            projected = blocks @ directions.t()
            for book, entries in enumerate(self.codebooks):
                entries.copy_(spherical_kmeans(projected, self.num_classes, self.seed + book))
        self.fitted.fill_(True)

    def _nearest(self, projected: Tensor) -> Tensor:
        """`(N, books, dim)` -> `(N, books)`; the norm of a projection does not change which code is nearest."""
        rows = max(1, _MAX_SCORES // self.num_classes)
        codes = torch.empty(projected.shape[:2], dtype=torch.long, device=projected.device)
        for start in range(0, len(projected), rows):
            for book, entries in enumerate(self.codebooks):
                piece = projected[start : start + rows, book]
                codes[start : start + rows, book] = (piece @ entries.t()).argmax(-1)
        return codes


def principal_directions(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Unit directions `(count, D)` in which `(N, D)` varies most, and the deviation along each, largest first.

    Signs are fixed by the largest component, so that the same data give the same directions.
    """
    values, vectors = torch.linalg.eigh(x.double().t().cov())
    directions = vectors.t().flip(0)[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).to(x.dtype), values.flip(0)[:count].clamp_min(1e-12).sqrt().to(x.dtype)


def spherical_kmeans(x: Tensor, clusters: int, seed: int) -> Tensor:
    """Unit-norm centres `(clusters, D)` of the directions of `(N, D)` (Dhillon and Modha 2001), from random points."""
    points = F.normalize(x, dim=-1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    # Where there are fewer points than centres, the rest stay random directions that nothing is near to.
    centres = F.normalize(torch.randn(clusters, x.shape[1], generator=torch.Generator().manual_seed(seed)), dim=-1).to(
        x
    )
    centres[: len(points)] = points[order[:clusters].to(x.device)]
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cat([(piece @ centres.t()).argmax(-1) for piece in points.split(_MAX_SCORES // clusters)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(sums.norm(dim=-1, keepdim=True) > 0, F.normalize(sums, dim=-1), centres)
    return centres


def count_codes(codes: Tensor, num_classes: int) -> Tensor:
    """How often each code occurs: `(..., books)` -> `(books, num_classes)` float32."""
    flat = codes.reshape(-1, codes.shape[-1])
    counts = torch.zeros(flat.shape[1], num_classes, device=codes.device)
    return counts.scatter_add_(1, flat.t(), torch.ones_like(flat.t(), dtype=counts.dtype))


@dataclass(frozen=True)
class CodeStatistics:
    """Health of codes, means over books: share of codes used, entropy in nats, and its exponential."""

    coverage: float
    entropy: float
    perplexity: float


def code_statistics(counts: Tensor) -> CodeStatistics:
    """Coverage, entropy and perplexity of counts `(books, classes)`."""
    share = counts.double() / counts.double().sum(-1, keepdim=True).clamp_min(1.0)
    entropy = -torch.special.xlogy(share, share).sum(-1)
    coverage = (counts > 0).double().mean()
    return CodeStatistics(float(coverage), float(entropy.mean()), float(entropy.exp().mean()))

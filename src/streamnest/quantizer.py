"""The random-projection quantizer of BEST-RQ (Chiu et al. 2022): clean features to codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.errors import UserError

# Scores of so many (frame, code) pairs are held at a time, whatever the batch and the codebook: 16 MB of float32.
_MAX_SCORES = 1 << 22


@dataclass
class QuantizerConfig:
    """Schema of the `quantizer` group; `normalize` is how its input is normalised, see `Normalizer`."""

    _target_: str = "streamnest.quantizer.RandomProjectionQuantizer"
    feat_in: int = 80
    stack: int = 4
    num_classes: int = 8192
    num_books: int = 1
    code_dim: int = 16
    seed: int = 0
    normalize: str = "utterance"


class RandomProjectionQuantizer(nn.Module):
    """Frozen random projection and nearest code, `(B, D, T)` -> `(B, T // stack, num_books)` int64.

    `stack` consecutive frames (frame-major, then band) are projected; the nearest of the unit-norm codes is the one
    with the largest dot product. Always float32. Frames beyond the last whole stack are dropped.

    Args:
        feat_in: bands D; they must be normalised, or the codes collapse (NEST).
        stack: frames per code, the subsampling factor of the encoder.
        num_classes: codes per book.
        num_books: independent codebooks with projections of their own.
        code_dim: width of a code.
        seed: of projection and codes; its own, so that every rank, run and resume has the same targets.

    Raises:
        UserError: for sizes below 1, or features of another size.
    """

    projection: Tensor
    codebooks: Tensor

    def __init__(
        self,
        feat_in: int = 80,
        stack: int = 8,
        num_classes: int = 8192,
        num_books: int = 1,
        code_dim: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"feat_in": feat_in, "stack": stack, "num_books": num_books, "code_dim": code_dim}
        for name, value in {**sizes, "num_classes - 1": num_classes - 1}.items():
            if value < 1:
                raise UserError(f"quantizer.{name}={value} must be at least 1")
        self.feat_in, self.stack, self.num_classes, self.num_books = feat_in, stack, num_classes, num_books
        generator = torch.Generator().manual_seed(seed)
        projection = torch.empty(num_books * code_dim, stack * feat_in)
        nn.init.xavier_normal_(projection, generator=generator)
        codebooks = torch.randn(num_books, num_classes, code_dim, generator=generator)
        self.register_buffer("projection", projection)
        self.register_buffer("codebooks", F.normalize(codebooks, dim=-1))

    @torch.no_grad()
    def forward(self, feats: Tensor) -> Tensor:
        """Codes of features `(B, D, T)`."""
        if feats.ndim != 3 or feats.shape[1] != self.feat_in:
            raise UserError(f"the quantizer takes (B, {self.feat_in}, T) features, got {tuple(feats.shape)}")
        with torch.autocast(feats.device.type, enabled=False):
            batch, frames = len(feats), feats.shape[-1] // self.stack
            stacked = feats[..., : frames * self.stack].float().transpose(1, 2).reshape(batch * frames, -1)
            projected = (stacked @ self.projection.t()).view(batch * frames, self.num_books, -1)
            return self._nearest(projected).view(batch, frames, self.num_books)

    def _nearest(self, projected: Tensor) -> Tensor:
        """`(N, books, dim)` -> `(N, books)`; the norm of a projection does not change which code is nearest."""
        rows = max(1, _MAX_SCORES // self.num_classes)
        codes = torch.empty(projected.shape[:2], dtype=torch.long, device=projected.device)
        for start in range(0, len(projected), rows):
            for book, entries in enumerate(self.codebooks):
                piece = projected[start : start + rows, book]
                codes[start : start + rows, book] = (piece @ entries.t()).argmax(-1)
        return codes


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

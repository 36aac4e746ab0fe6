"""k-means of layer outputs."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 30
# Most (frame, center) scores held at a time, 16 MB of float32.
_MAX_SCORES = 1 << 22


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """Returns the index `(N,)` of the nearest center `(K, D)` of each row of `(N, D)`, by Euclidean distance."""
    return torch.cat([_distances(piece, centers).argmin(-1) for piece in _pieces(x, len(centers))])


def kmeans(x: Tensor, clusters: int, seed: int) -> Tensor:
    """Computes cluster centers `(clusters, D)` of `(N, D)`: k-means++ (Arthur and Vassilvitskii 2007), then Lloyd.

    A center without rows moves to the row that is farthest from its own center.
    """
    centers = _spread_rows(x, clusters, torch.Generator().manual_seed(seed))
    for _ in range(_ROUNDS):
        index = nearest(x, centers)
        counts = index.bincount(minlength=clusters)
        sums = torch.zeros_like(centers).index_add_(0, index, x)
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
        if empty := int((counts == 0).sum()):
            distances = (x - moved[index]).square().sum(-1)
            moved[counts == 0] = x[distances.topk(empty).indices]
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers


def _spread_rows(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples rows one after the other with a probability proportional to the squared distance to the closest one."""
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    closest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for _ in range(count - 1):
        closest = torch.minimum(closest, (x - x[chosen[-1]]).square().sum(-1).double())
        sums = closest.cumsum(0)
        at = torch.rand((), generator=generator, dtype=torch.float64).to(x.device) * sums[-1]
        chosen.append(int(torch.searchsorted(sums, at, right=True).clamp_max(len(x) - 1)))
    return x[chosen].clone()


def _distances(x: Tensor, centers: Tensor) -> Tensor:
    """Computes squared distances without the norm of `x`, which does not change the nearest center."""
    return torch.addmm(centers.square().sum(-1), x, centers.t(), alpha=-2)


def _pieces(x: Tensor, width: int) -> tuple[Tensor, ...]:
    return x.split(max(1, _MAX_SCORES // width))

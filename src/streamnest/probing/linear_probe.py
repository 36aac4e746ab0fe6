"""Linear probes on frozen layers, and figures that need no labels.

A probe is a softmax regression on frames (or on the mean and standard deviation of utterances) that are standardized
with the training set. Its accuracy measures which information a layer holds in linear form; the encoder is not trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamnest.code_usage import effective_rank

# Lines of a table of layers that are not a layer of the encoder: its input, and one probe on all of its outputs.
INPUT, MIXED = "log-mel", "weighted sum"


@dataclass
class Examples:
    """Frames or utterances with their labels.

    Attributes:
        x: `(N, d)` for each layer; widths may differ.
        y: `(N,)` int64 classes.
    """

    x: list[Tensor]
    y: Tensor

    def standardized(self, train: Examples) -> Examples:
        """Normalizes each channel by its mean and standard deviation in a training set."""
        scales = [torch.std_mean(layer, dim=0) for layer in train.x]
        return Examples([(x - mean) / (std + 1e-5) for x, (std, mean) in zip(self.x, scales, strict=True)], self.y)


def probe_layers(train: Examples, test: Examples, classes: int, l2: float = 1e-3) -> list[float]:
    """Returns the test accuracy of one softmax regression for each layer.

    Args:
        train: training examples.
        test: test examples.
        classes: number of classes.
        l2: weight of the squared weights in the loss.
    """
    train, test = train.standardized(train), test.standardized(train)
    pairs = zip(train.x, test.x, strict=True)
    return [_accuracy(x[:, None], train.y, x_test[:, None], test.y, classes, l2) for x, x_test in pairs]


def probe_mix(train: Examples, test: Examples, classes: int, l2: float = 1e-3) -> float:
    """Returns the test accuracy of one softmax regression on a learned weighted sum of layers of equal width.

    The arguments are those of `probe_layers`.
    """
    train, test = train.standardized(train), test.standardized(train)
    return _accuracy(torch.stack(train.x, 1), train.y, torch.stack(test.x, 1), test.y, classes, l2)


def _accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int, l2: float) -> float:
    mix, weight, bias = fit_softmax(x, y, classes, l2)
    scores = torch.einsum("nld,l->nd", x_test, mix.softmax(0)) @ weight + bias
    return float((scores.argmax(-1) == y_test).float().mean())


def fit_softmax(x: Tensor, y: Tensor, classes: int, l2: float, iterations: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Fits a softmax regression on a weighted sum of layers by L-BFGS from zeros, which is deterministic.

    Args:
        x: `(N, layers, d)` standardized.
        y: `(N,)`.
        classes: number of classes.
        l2: weight of the squared weights.
        iterations: largest number of L-BFGS iterations.

    Returns:
        Logits of the layer weights `(layers,)`, weights `(d, classes)` and biases `(classes,)`.
    """
    mix = torch.zeros(x.shape[1], requires_grad=x.shape[1] > 1)
    weight = torch.zeros(x.shape[2], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    parameters = [p for p in (mix, weight, bias) if p.requires_grad]
    optimizer = torch.optim.LBFGS(parameters, max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        mixed = x[:, 0] if len(mix) == 1 else torch.einsum("nld,l->nd", x, mix.softmax(0))
        loss = F.cross_entropy(mixed @ weight + bias, y) + l2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return mix.detach(), weight.detach(), bias.detach()


@dataclass
class Clustering:
    """Quality of k-means clusters of the frames of a layer.

    Attributes:
        silhouette: mean silhouette, -1 to 1 (Rousseeuw 1987).
        phone_information: mutual information of clusters and phones over the entropy of the phones (PNMI of HuBERT,
            Hsu et al. 2021, section IV-C); None without phones.
    """

    silhouette: float
    phone_information: float | None


def cluster(x: Tensor, y: Tensor | None, clusters: int, seed: int = 0, frames: int = 20_000) -> Clustering:
    """Runs k-means on evenly spaced frames of a layer.

    Args:
        x: `(N, d)`.
        y: `(N,)` phones, or None.
        clusters: largest number of clusters.
        seed: seed of the initialization.
        frames: largest number of frames.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import silhouette_score

    step = -(-len(x) // frames)
    std, mean = torch.std_mean(x[::step], dim=0)
    points = ((x[::step] - mean) / (std + 1e-5)).numpy()
    codes = MiniBatchKMeans(min(clusters, len(points)), random_state=seed, n_init=1).fit_predict(points)
    silhouette = silhouette_score(points, codes, sample_size=min(2000, len(points)), random_state=seed)
    shared = None if y is None else shared_information(torch.from_numpy(codes).long(), y[::step])
    return Clustering(float(silhouette), shared)


def rank(x: Tensor) -> float:
    """Returns the effective rank of evenly spaced frames of a layer `(N, d)`."""
    return effective_rank(spaced(x))


def spaced(x: Tensor, frames: int = 4096) -> Tensor:
    """Returns at most `frames` evenly spaced frames of a layer `(N, d)`."""
    return x[:: -(-len(x) // frames)]


def similarity(layers: list[Tensor]) -> Tensor:
    """Returns the linear CKA of each pair of layers `(N, d)`, 0 to 1 (Kornblith et al. 2019): `(layers, layers)`.

    It is 1 for layers that are equal up to rotation and scale, and 0 for layers without linear correlation.
    """
    centered = [(x - x.mean(0)).double() for x in layers]
    shared = torch.stack([torch.stack([(x.t() @ y).square().sum() for y in centered]) for x in centered])
    norms = shared.diagonal().sqrt()
    return shared / (norms[:, None] * norms).clamp_min(1e-12)


def shared_information(codes: Tensor, labels: Tensor) -> float:
    """Returns the mutual information of codes and labels `(N,)` over the entropy of the labels."""
    joint = torch.zeros(int(codes.max()) + 1, int(labels.max()) + 1, dtype=torch.float64)
    joint.index_put_((codes, labels), torch.ones(len(codes), dtype=torch.float64), accumulate=True)
    joint /= joint.sum()
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    information = torch.where(joint > 0, joint * (joint / independent.clamp_min(1e-300)).log(), 0.0).sum()
    share = joint.sum(0)
    entropy = -(share * share.clamp_min(1e-300).log()).sum()
    return float(information / entropy.clamp_min(1e-12))

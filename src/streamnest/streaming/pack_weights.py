"""Memory layout of weights for streaming steps, which are bound by memory bandwidth."""

from __future__ import annotations

import copy
from threading import Lock
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)
# Packed copies of the parameters and buffers of each model, in the order of `_tensors`.
_COPIES: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()
_LOCK = Lock()


def packed_copy(model: ModelT) -> ModelT:
    """Copies a model for streaming, in evaluation mode and with packed weights; the model itself stays as it is.

    The copies of one model share one set of weights, so that each further copy takes no memory for them. A model whose
    values have changed since the last call gets a new set, and earlier copies keep the old one.
    """
    originals = _tensors(model)
    with _LOCK:
        shared = _COPIES.get(model)
        if shared is None or not _same_values(originals, shared):
            replica = copy.deepcopy(model)
            lay_out_for_steps(replica)
            shared = _COPIES[model] = _tensors(replica)
    return copy.deepcopy(model, {id(x): y for x, y in zip(originals, shared, strict=True)}).eval()


def lay_out_for_steps(model: nn.Module) -> None:
    """Packs the weights of linear layers into one contiguous buffer, those of widening layers by columns, in place.

    A step multiplies weights with one or two frames, which takes as long as reading the weights, and memory is read
    fastest sequentially. PyTorch stores a weight `(out, in)` by rows; if there are more outputs than inputs, its
    columns are longer. Values stay the same. Weights on other devices than the CPU and packed weights are left alone.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.device.type == "cpu"]
    weights = list({id(layer.weight): layer.weight for layer in layers}.values())
    if not any(_by_rows(weight) for weight in weights if _widens(weight)):
        return
    with torch.no_grad():
        for dtype in {weight.dtype for weight in weights}:
            _join([weight for weight in weights if weight.dtype == dtype])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _same_values(originals: list[Tensor], copies: list[Tensor]) -> bool:
    """True if tensors agree in number, type, shape, device and values; NaN never agrees."""
    return len(originals) == len(copies) and all(
        a.dtype == b.dtype and a.device == b.device and a.requires_grad == b.requires_grad and torch.equal(a, b)
        for a, b in zip(originals, copies, strict=True)
    )


def _join(weights: list[Tensor]) -> None:
    sizes = [weight.numel() for weight in weights]
    parts = torch.empty(sum(sizes), dtype=weights[0].dtype).split(sizes)
    for weight, part in zip(weights, parts, strict=True):
        view: Tensor = part.view(weight.shape[::-1]).t() if _widens(weight) else part.view(weight.shape)
        weight.data = view.copy_(weight)


def _widens(weight: Tensor) -> bool:
    return weight.shape[0] > weight.shape[1]


def _by_rows(weight: Tensor) -> bool:
    return weight.is_contiguous() and not weight.t().is_contiguous()

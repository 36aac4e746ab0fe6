"""How weights lie in memory while a model streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lay_out_for_steps(model: nn.Module) -> None:
    """Puts the weights of linear layers one behind the other, those of widening layers by columns; values stay.

    A step multiplies weights with one or two frames, which takes as long as reading them, and memory is read fastest in
    long runs. PyTorch keeps the rows of a weight `(out, in)` together; where there are more outputs than inputs, its
    columns are longer. Weights that are not on the CPU, or lie so already, are left alone.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.device.type == "cpu"]
    weights = list({id(layer.weight): layer.weight for layer in layers}.values())
    if not any(_by_rows(weight) for weight in weights if _widens(weight)):
        return
    with torch.no_grad():
        for kind in {weight.dtype for weight in weights}:
            _put_together([weight for weight in weights if weight.dtype == kind])


def _put_together(weights: list[Tensor]) -> None:
    places = torch.empty(sum(w.numel() for w in weights), dtype=weights[0].dtype).split([w.numel() for w in weights])
    for weight, place in zip(weights, places, strict=True):
        laid: Tensor = place.view(weight.shape[::-1]).t() if _widens(weight) else place.view(weight.shape)
        weight.data = laid.copy_(weight)


def _widens(weight: Tensor) -> bool:
    return weight.shape[0] > weight.shape[1]


def _by_rows(weight: Tensor) -> bool:
    return weight.is_contiguous() and not weight.t().is_contiguous()

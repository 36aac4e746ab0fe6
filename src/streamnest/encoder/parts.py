"""The parts that a module computes with, as they are or at hand.

A module looks up each weight and each part of its own by name and asks for hooks whenever it is called. A streaming
step makes some 25 such calls a block between products of one or two frames, and the weights of those drive the code
of a call out of the cache of the processor. Parts at hand are functions that know their weights; what they save is a
row of `benchmarks/reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Part = Callable[..., Any]


def as_it_is(module: nn.Module) -> Part:
    """The module itself."""
    return module


def at_hand(module: nn.Module) -> Part:
    """A function that computes what the module does, from the same tensors, as long as nobody replaces them.

    Linear layers and layer norms have one, and classes that define `at_hand` themselves: one that is inherited may not
    be what a subclass computes. Every other module, and one with hooks, is returned as it is.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        return module
    if type(module) is nn.Linear:
        return _linear(module)
    if type(module) is nn.LayerNorm:
        return _layer_norm(module)
    define = vars(type(module)).get("at_hand")
    return module if define is None else define(module)


def _linear(layer: nn.Linear) -> Part:
    weight, bias, linear = layer.weight, layer.bias, F.linear
    return lambda x: linear(x, weight, bias)


def _layer_norm(layer: nn.LayerNorm) -> Part:
    shape, weight, bias, eps, layer_norm = layer.normalized_shape, layer.weight, layer.bias, layer.eps, torch.layer_norm
    return lambda x: layer_norm(x, shape, weight, bias, eps)


class KeepsParts(nn.Module):
    """A module that keeps parts at hand until weights may be replaced: it is trained, evaluated, moved or loaded.

    Copies have none: theirs would compute with the weights of the original.
    """

    _at_hand: Any = None

    def train(self, mode: bool = True) -> KeepsParts:
        """Forgets what is at hand too."""
        self._at_hand = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> KeepsParts:
        self._at_hand = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._at_hand = None
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_at_hand": None}

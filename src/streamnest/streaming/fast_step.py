"""The encoder's streaming step in PyTorch with less call overhead."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from streamnest.encoder import EncoderState, FastConformer


class FastStep:
    """`FastConformer.step` on shallow copies of the modules: the same code and tensors, the same results bit for bit.

    A call of an `nn.Module` checks for hooks, and looks up each weight and submodule in dictionaries that the cached
    weights of a step of one or two frames have displaced from the processor's caches. In the copies, weights and
    submodules are plain attributes, and a call goes straight to `forward`. A step of one stream on a CPU takes about a
    tenth less time; a row of `benchmarks/reference.py` measures it.

    Modules with hooks at the time of binding are called as they are. Weights that are replaced later, as by
    `load_state_dict(assign=True)`, are detected before the next step.

    Args:
        encoder: encoder in evaluation mode; it is not modified.
    """

    def __init__(self, encoder: FastConformer) -> None:
        self.encoder = encoder
        self._sources: list[tuple[dict[str, Any], str, Any]] = []
        self._copy = self._bind(encoder)

    def __call__(
        self, features: Tensor, state: EncoderState, lengths: Tensor | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Runs `FastConformer.step`."""
        if any(entries.get(name) is not tensor for entries, name, tensor in self._sources):
            self._sources.clear()
            self._copy = self._bind(self.encoder)
        self._copy.context = self.encoder.context
        out: tuple[Tensor, EncoderState] = self._copy.step(features, state, lengths)
        return out

    def _bind(self, module: nn.Module) -> Any:
        for entries in (module._parameters, module._buffers):
            self._sources += [(entries, name, tensor) for name, tensor in entries.items()]
        if module._forward_hooks or module._forward_pre_hooks:
            return module
        children = {name: None if child is None else self._bind(child) for name, child in module._modules.items()}
        kind: Any = type(module)
        copy = object.__new__(_direct(kind))
        vars(copy).update(vars(module) | module._parameters | module._buffers | children, _modules=children)
        return copy


@functools.cache
def _direct(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose instances are called without the checks of `nn.Module.__call__`."""
    return type(kind.__name__, (kind,), {"__call__": kind.forward})

"""Regional compilation: parts of a model that `torch.compile` compiles for training, one graph per kind of part."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import nn

# Backend of `torch.compile`: its name, or a function.
Backend: TypeAlias = "str | Callable[..., Any]"
_MethodT = TypeVar("_MethodT", bound=Callable[..., Any])
# Graphs per part: with and without masks, for batches of one row, for each context of a dynamic encoder, and so on.
_MAX_GRAPHS = 64


def compilable(method: _MethodT) -> _MethodT:
    """Makes a method of a module compilable: `use_compiler` then compiles it for training.

    All modules of a class share the graphs. In evaluation, and with gradients disabled, the method runs as written.
    Neither state-dict keys nor copies of a module change.
    """

    @functools.cache
    def compiled(backend: Backend) -> Callable[..., Any]:
        limits: dict[str, Any] = {"recompile_limit": _MAX_GRAPHS, "isolate_recompiles": True}
        settings: dict[str, Any] = {"fullgraph": True, "dynamic": True, "backend": backend}
        if backend == "inductor":
            # Random numbers of PyTorch's generators: dropout is then the same with and without compilation.
            settings["options"] = {"fallback_random": True}
        # PyTorch before 2.14 may lack an argument.
        known = inspect.signature(torch.compile).parameters
        return torch.compile(method, **settings, **{name: limits[name] for name in limits if name in known})

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        backend = vars(self).get("compiler")
        if backend is None or not self.training or not torch.is_grad_enabled():
            return method(self, *args, **kwargs)
        return compiled(backend)(self, *args, **kwargs)

    return cast("_MethodT", run)


def use_compiler(model: nn.Module, backend: Backend | None = "inductor") -> None:
    """Compiles the compilable parts of a model for training, each when it is first called.

    Args:
        model: model to train.
        backend: backend of `torch.compile`; None stops compiling.
    """
    for module in model.modules():
        vars(module)["compiler"] = backend

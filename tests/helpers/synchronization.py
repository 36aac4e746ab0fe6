"""A watch for operators that make the host wait for the device."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose result the host reads, or whose shape depends on values.
_READING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount"),
    *("unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2"),
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_COPYING = {"_to_copy", "copy_"}
_META = torch.device("meta")


class SynchronizationWatch(TorchDispatchMode):
    """Records operators that make the host wait for the device, each with the lines of the package that run it.

    The meta device stands for any accelerator: the code takes the branches of one, and operators have shapes but no
    values. Values that the host reads are replaced by invented ones, so that a step continues and all places are found.

    Attributes:
        found: operator and place, in the order in which they were first seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._constructors = _Constructors(self)

    def __enter__(self) -> SynchronizationWatch:
        """Starts to watch."""
        self._constructors.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends the watch."""
        super().__exit__(*error)
        self._constructors.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator; invents the result of one that reads values of the device."""
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name.startswith("_fused_adam"):  # has no implementation for the meta device, and reads nothing
            return None
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_device = any(x.device == _META for x in tensors)
        if on_device and name in _READING:
            return self._reading(name, tensors[0])
        if on_device and name in _INDEXING and any(_is_mask(x) for x in args[1]):
            self.record(f"{name} with a boolean mask")
            args = (args[0], [torch.zeros(1, dtype=torch.long) if _is_mask(x) else x for x in args[1]], *args[2:])
        if name in _COPYING and self._waits(args, kwargs, tensors):
            self.record("a copy between host and device")
            if name == "_to_copy" and on_device:
                return torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype)
        return func(*args, **kwargs)

    def _reading(self, name: str, x: Tensor) -> Any:
        self.record(name)
        if name == "_local_scalar_dense":
            return torch.ones((), dtype=x.dtype).item()
        if name == "nonzero":
            return torch.zeros(1, x.ndim, dtype=torch.long, device=_META)
        raise AssertionError("\n".join(self.found))

    def record(self, what: str) -> None:
        stack = [f for f in traceback.extract_stack() if "/src/streamnest/" in f.filename]
        lines = [f"{f.filename.split('/streamnest/')[-1]}:{f.lineno} `{f.line}`" for f in reversed(stack[-3:])]
        found = f"{what} at {' < '.join(lines)}"
        self.found += [] if found in self.found else [found]

    @staticmethod
    def _waits(args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        source, target = tensors[-1].device, kwargs.get("device") or tensors[0].device
        free = source == target or ((kwargs.get("non_blocking") or args[2:3] == (True,)) and target == _META)
        return not free


class _Constructors(TorchFunctionMode):
    """Records tensors made from numbers or lists of the host, which are copied below the level of operators."""

    def __init__(self, watch: SynchronizationWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and result.device == _META
        if made and not isinstance(args[func is Tensor.new_tensor], Tensor):
            self._watch.record(f"a copy of numbers by {func.__name__}")
        return result


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)

"""Values computed from tensors that seldom change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

ValueT = TypeVar("ValueT")


class CachedValue(Generic[ValueT]):
    """Value computed from a tensor, and computed again only after the tensor was replaced or modified in place.

    Args:
        compute: function of the tensor. If it reads the tensor, the host waits for the device.
    """

    def __init__(self, compute: Callable[[Tensor], ValueT]) -> None:
        self._compute = compute
        self._known: tuple[Tensor, int, ValueT] | None = None

    def __call__(self, tensor: Tensor) -> ValueT:
        """Returns the value for the present content of a tensor."""
        if self._known is None or not self.is_current(tensor):
            self.set(tensor, self._compute(tensor))
        assert self._known is not None
        return self._known[2]

    def is_current(self, tensor: Tensor) -> bool:
        """True if the value of the tensor is known."""
        return self._known is not None and self._known[0] is tensor and self._known[1] == tensor._version

    def set(self, tensor: Tensor, value: ValueT) -> None:
        """Sets the value for the present content of a tensor."""
        self._known = (tensor, tensor._version, value)

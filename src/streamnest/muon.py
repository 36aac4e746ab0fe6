"""Muon: AdamW in which the matrices of the encoder layers are updated by orthogonalized momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients and number of Newton-Schulz iterations of Jordan et al. 2024, "Muon: an optimizer for hidden layers".
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# Gives the update the mean square of AdamW's, so that both take the same learning rate (Liu et al. 2025, section 2.2).
_RMS_OF_ADAMW = 0.2


class Muon(torch.optim.AdamW):
    """AdamW, and orthogonalized momentum for the groups with `orthogonal=True` (Jordan et al. 2024).

    The momentum of such a matrix is replaced by the nearest matrix with equal singular values, scaled as in Liu et al.
    2025 (arXiv 2502.16982). Weight decay is decoupled, as in AdamW. A group may have `parts=n`: its matrices consist of
    n matrices below each other, such as query, key and value, which are orthogonalized separately.

    Args:
        params: groups of parameters; those with `orthogonal=True` have two dimensions.
        momentum: share of the earlier momentum; the update looks one step ahead (Nesterov).
        options: arguments of `AdamW`.
    """

    def __init__(self, params: Iterable[dict[str, Any]], momentum: float = 0.95, **options: Any) -> None:
        groups = [{"orthogonal": False, "parts": 1, "momentum": momentum, **group} for group in params]
        super().__init__(groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Updates all parameters that have a gradient; returns the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group["orthogonal"]:
                self._update(group)
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # AdamW expects a step count in the state of each parameter when it loads a checkpoint.
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))
            state["step"] += 1
            average = state["momentum"]
            average.lerp_(parameter.grad, 1 - group["momentum"])
            ahead = parameter.grad.lerp(average, group["momentum"])
            update = torch.cat([_scaled(part) for part in ahead.chunk(group["parts"])])
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-float(group["lr"]))


def _scaled(matrix: Tensor) -> Tensor:
    return orthogonalized(matrix) * (_RMS_OF_ADAMW * max(matrix.shape) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Replaces the singular values of a matrix by values near 1 (0.6 to 1.3), by Newton-Schulz iterations.

    They run in bfloat16, as by Jordan et al., if the hardware multiplies in it. Singular values far below the largest
    (a thousandth and less) stay below 1.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.t()).to(_product_type(matrix.device.type))
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        products = x @ x.t()
        x = torch.addmm(x, torch.addmm(products, products, products, beta=_B, alpha=_C), x, beta=_A)
    return (x if wide else x.t()).to(matrix.dtype)


@cache
def _product_type(device: str) -> torch.dtype:
    """Returns bfloat16 unless the products of a CPU would be emulated, which is far slower than float32."""
    fast = device != "cpu" or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True for weight matrices of encoder layers; AdamW is better for input and output layers."""
    return name.startswith("encoder.layers.") and name.endswith(".weight") and parameter.ndim == 2


def stacked_matrices(name: str) -> int:
    """Returns how many matrices a parameter consists of: three for a joint projection of query, key and value."""
    return 3 if name.endswith("attention.qkv.weight") else 1

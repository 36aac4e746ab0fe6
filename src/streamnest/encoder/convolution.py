"""The convolution module of the Conformer, causal or symmetric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.encoder.copies import Copies
from streamnest.errors import UserError

PADDINGS = ("causal", "symmetric")
# For so few frames, as in a streaming step, setting up a convolution kernel takes longer than the products.
_FEW_FRAMES = 4


@contextmanager
def depthwise_precision(x: Tensor) -> Iterator[Tensor]:
    """Computes in float32 where autocast would select bfloat16 on a CPU: its gradients are four times slower there."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        yield x
        return
    with torch.autocast("cpu", enabled=False):
        yield x.float()


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics, `(B, T, d)` -> `(B, T, d)`: an affine map of each frame on its own.

    The affine weights are trained, the statistics are not. With `init_from` the statistics are those of the batch norm
    in the checkpoint, so that its evaluation output is kept exactly; from scratch they are means of 0 and variances
    of 1. Stride 1; look-ahead 0, also in training.

    Args:
        width: number of channels d.
        eps: added to the variances.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the affine map."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale + (self.bias - self.running_mean * scale)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer_norm": nn.LayerNorm,
    "batch_norm": nn.BatchNorm1d,
    "frozen_batch_norm": FrozenBatchNorm,
}


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, depthwise, norm, SiLU, pointwise (Gulati et al. 2020, section 2.2): `(B, T, d)` -> `(B, T, d)`.

    Stride 1. Look-ahead: 0 frames (`causal`) or `(kernel_size - 1) / 2` (`symmetric`). In training `batch_norm`
    uses statistics over time, which leak the future; `layer_norm` and `frozen_batch_norm` use one frame.

    Args:
        d_model: width.
        kernel_size: taps of the depthwise convolution, in encoder frames.
        padding: "causal" or "symmetric".
        norm: "layer_norm", "batch_norm" or "frozen_batch_norm".
        bias: use biases in the convolutions.

    Raises:
        UserError: if the padding or norm is unknown, or for an even kernel with symmetric padding.
    """

    def __init__(
        self, d_model: int, kernel_size: int = 9, padding: str = "causal", norm: str = "layer_norm", bias: bool = True
    ) -> None:
        super().__init__()
        if padding not in PADDINGS:
            raise UserError(f"encoder.conv_padding={padding!r} is unknown: choose one of {', '.join(PADDINGS)}")
        if norm not in _NORMS:
            raise UserError(f"encoder.conv_norm={norm!r} is unknown: choose one of {', '.join(_NORMS)}")
        if padding == "symmetric" and kernel_size % 2 == 0:
            raise UserError(f"encoder.conv_kernel_size={kernel_size} is even: symmetric padding needs an odd number")
        self.lookahead = (kernel_size - 1) // 2 if padding == "symmetric" else 0
        self.past = kernel_size - 1 - self.lookahead
        self.pointwise_in = nn.Linear(d_model, 2 * d_model, bias=bias)
        self.depthwise = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model, bias=bias)
        self.norm = _NORMS[norm](d_model)
        self.pointwise_out = nn.Linear(d_model, d_model, bias=bias)

    @property
    def norm_is_framewise(self) -> bool:
        """True if the norm depends on one frame only, also in training."""
        return isinstance(self.norm, (nn.LayerNorm, FrozenBatchNorm))

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None,
        state: Tensor | None = None,
        copies: Copies | None = None,
        norm: nn.Module | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Convolves over time.

        Args:
            x: `(B, T, d)`.
            valid: `(B, T, 1)`, False on padding, which must not enter the kernel; None if all frames are valid.
            state: the `(B, past, d)` frames before x; None for zeros.
            copies: layout of x if the right context of each chunk is encoded again.
            norm: norm to use instead of that of the module, of the same kind.

        Returns:
            `(B, T, d)` and the state for the frames after x, or after its last chunk.
        """
        x = F.glu(self.pointwise_in(x), dim=-1)
        if valid is not None:
            x = x * valid
        before = x.new_zeros(len(x), self.past, x.shape[-1]) if state is None else state.to(x.dtype)
        x = torch.cat([before, x], dim=1)
        end = x.shape[1] - (copies.num_windows * copies.right if copies else 0)
        after = x.narrow(1, end - self.past, self.past)
        if copies is not None and copies.num_windows > 1 and self.past:
            x = self._convolve_copies(x, copies)
        else:
            x = self._convolve(F.pad(x, (0, 0, 0, self.lookahead)) if self.lookahead else x)
        norm = self.norm if norm is None else norm
        x = norm(x) if self.norm_is_framewise else norm(x.transpose(1, 2)).transpose(1, 2)
        return self.pointwise_out(F.silu(x)), after

    def _convolve_copies(self, x: Tensor, copies: Copies) -> Tensor:
        """Convolves chunks after the chunks before them, and copies after their own chunk."""
        chunks, right = copies.split(x)
        past = chunks.narrow(1, copies.chunk, copies.frames - copies.chunk + self.past)
        past = past.unfold(1, self.past, copies.chunk).movedim(-1, 2)
        windows = self._convolve(torch.cat([past, right], dim=2).flatten(0, 1))
        return torch.cat([self._convolve(chunks), windows.unflatten(0, (len(x), -1)).flatten(1, 2)], dim=1)

    def _convolve(self, x: Tensor) -> Tensor:
        few = x.shape[1] - self.past - self.lookahead <= _FEW_FRAMES and not torch.compiler.is_compiling()
        if few and not torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export():
            # Taps before channels: products and sums then run over adjacent memory.
            taps = x.unfold(1, self.past + self.lookahead + 1, 1).transpose(2, 3)
            y = (taps * self.depthwise.weight.squeeze(1).t()).sum(2)
            return y if self.depthwise.bias is None else y + self.depthwise.bias
        if self.training and torch.compiler.is_compiling():
            return self._summed_taps(x)
        with depthwise_precision(x) as inputs:
            convolved: Tensor = self.depthwise(inputs.transpose(1, 2)).transpose(1, 2)
        return convolved

    def _summed_taps(self, x: Tensor) -> Tensor:
        """Convolves by a sum over taps, which is compiled into one kernel with the operations around it.

        PyTorch compiles the gradient of `conv1d` for one length only: every new length would compile the layer again.
        """
        frames, weight = x.shape[1] - self.past - self.lookahead, self.depthwise.weight.squeeze(1)
        y = x.narrow(1, 0, frames) * weight[:, 0]
        for tap in range(1, weight.shape[1]):
            y = y + x.narrow(1, tap, frames) * weight[:, tap]
        return (y if self.depthwise.bias is None else y + self.depthwise.bias).to(x.dtype)

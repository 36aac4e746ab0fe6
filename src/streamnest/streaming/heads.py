"""Interface of task heads in exported graphs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ExportedHead(nn.Module):
    """Maps the encoder frames of a step to outputs of a task.

    Attributes:
        kind: name of the head in the metadata of the file.
        output: name of the output of the graph.
        size: output size per frame.
        memory_size: size of the recurrent state of a stream; 0 without one.
    """

    kind: str
    output: str
    size: int
    memory_size: int = 0

    def forward(self, encoded: Tensor, valid: Tensor | None, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Computes one step.

        Args:
            encoded: `(B, k, d)`.
            valid: boolean `(B, k)`, False for warm-up frames, which must not change the memory; None if all are valid.
            memory: `(B, memory_size)` from the previous step; None without one.

        Returns:
            Output `(B, k, size)`, and the memory for the next step.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Returns the metadata that a program needs to read the output, as plain containers."""
        return {"kind": self.kind, "output": self.output, "size": self.size}

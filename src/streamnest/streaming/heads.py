"""Heads of tasks in exported graphs: what a task computes from encoder frames while they stream."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ExportedHead(nn.Module):
    """Encoder frames of a step to outputs of a task.

    Attributes:
        kind: name of the head in the metadata of the file.
        output: name of the output of the graph.
        size: numbers for each frame.
        memory_size: numbers that a stream remembers for it.
    """

    kind: str
    output: str
    size: int
    memory_size: int = 0

    def forward(self, encoded: Tensor, valid: Tensor | None, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One step.

        Args:
            encoded: `(B, k, d)`.
            valid: boolean `(B, k)`, False for frames before the stream, which must leave no trace in the memory; None
                is all valid.
            memory: `(B, memory_size)` of the step before; None without one.

        Returns:
            `(B, k, size)`, and the memory for the next step.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Metadata that a program needs to read the output, as plain containers."""
        return {"kind": self.kind, "output": self.output, "size": self.size}

"""Full sharding over all processes, on Lightning's own strategy."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """Shards parameters, gradients and optimizer state over all processes; see `Pretraining.configure_model`.

    Unlike Lightning's `FSDPStrategy` it also runs on CPUs. Unlike its base class it needs no sizes: the base
    class would shard within a node and replicate over nodes.

    A checkpoint is one file, gathered on rank 0, that all commands can read.
    """

    def __init__(self) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Sets the size of the mesh, as the number of processes is only known now."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads as the base class, which maps the file into memory; what has been read of it is released before."""
        stored = getattr(self.checkpoint_io, "stored", None)
        if stored:
            stored.take()
        return super().load_checkpoint(checkpoint_path, weights_only)

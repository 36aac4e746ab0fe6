"""Full sharding over all processes, on Lightning's own strategy."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """Shards parameters, gradients and optimiser state over every process of the run; `Pretraining.configure_model`.

    Unlike Lightning's `FSDPStrategy` it runs on processors too, and unlike the strategy it extends it needs no sizes:
    left to itself that one would share parameters inside a node and take each node for a copy of the data.

    Checkpoints are one file, gathered on rank 0, which everything here can read.
    """

    def __init__(self) -> None:
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Knows how many processes there are only now."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

"""A loader whose position in the data does not depend on the number of its worker processes."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from torch.utils.data import DataLoader

from streamnest.data.batch import Batch
from streamnest.data.dataset import SpeechDataset
from streamnest.data.sampling.piece_sampler import PieceSampler
from streamnest.data.sampling.samplers import BucketBatchSampler, OnePassSampler

TrainingSampler: TypeAlias = BucketBatchSampler | PieceSampler
# More would only help with slow storage.
_MOST_WORKERS = 4
# Batches that a thread loads ahead at most.
_MOST_AHEAD = 64


class ResumableLoader(DataLoader[Batch]):
    """Loads the batches of a sampler; its state is that of the sampler after the batches that were returned.

    A batch is a function of its index alone, so that the state of the workers, which prefetch, is not needed.
    """

    sampler: TrainingSampler | OnePassSampler
    _num_returned = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._num_returned = 0
        for batch in super().__iter__():
            self._num_returned += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the data; empty for validation, whose sampler has no state."""
        return {} if isinstance(self.sampler, OnePassSampler) else self.sampler.state_dict(self._num_returned)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iterator continue at a position; also reads states of torchdata's `StatefulDataLoader`."""
        if not isinstance(self.sampler, OnePassSampler):
            self._num_returned = 0
            self.sampler.load_state_dict(_sampler_state(state, self.sampler.world_size))


def make_loader(
    dataset: SpeechDataset, sampler: TrainingSampler | OnePassSampler, num_workers: int, pin_memory: bool
) -> ResumableLoader:
    """Makes the loader of a dataset, which returns whole batches.

    Args:
        dataset: source of the batches.
        sampler: order of the batches.
        num_workers: number of worker processes; 0 loads in this process.
        pin_memory: copy batches to page-locked memory.
    """
    return ResumableLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )


class Prefetched:
    """Iterates over batches that a thread loads ahead, from now on; `close` stops it and releases them.

    Args:
        batches: batches to load; an exception is raised by the iterator.
        most: largest number of batches in memory.
    """

    def __init__(self, batches: Iterator[Batch], most: int = _MOST_AHEAD) -> None:
        self._stopped, self._lock = False, threading.Lock()
        self._loaded: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(most)
        threading.Thread(target=self._load, args=(batches,), name="prefetch", daemon=True).start()

    def __iter__(self) -> Iterator[Batch]:
        while (item := self._loaded.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._free.release()
            yield item

    def close(self) -> None:
        """Stops the thread after the batch that it is loading, and releases the batches that were not taken."""
        with self._lock:
            self._stopped = True
            with suppress(queue.Empty):
                while True:
                    self._loaded.get_nowait()
            self._loaded.put(None)  # an iterator that is still open ends
        self._free.release()

    def _load(self, batches: Iterator[Batch]) -> None:
        last: BaseException | None = None
        try:
            for batch in batches:
                self._free.acquire()
                with self._lock:
                    if self._stopped:
                        return
                    self._loaded.put(batch)
        except BaseException as error:
            last = error
        self._loaded.put(last)


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(processes: int = 1) -> int:
    """Returns the number of loading processes if none is set: one for each core, at most 4.

    Args:
        processes: processes of the run on this machine, which share the cores.
    """
    return min(_MOST_WORKERS, max(1, available_cores() // processes))


def _ignore_signals(_: int) -> None:
    """Makes a worker ignore signals that SLURM, terminals and torchrun send to all processes of a job.

    The main process still needs its workers to finish the current step. They exit with it, however it ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _sampler_state(state: dict[str, Any], world_size: int) -> dict[str, Any]:
    """Extracts the sampler's state; checkpoints older than `ResumableLoader` hold it inside a state of torchdata."""
    if "step" in state:
        return state
    # With workers, the state is in a snapshot that was taken before some of the batches.
    since = state.get("_steps_since_snapshot", 0)
    main = state["_snapshot"]["_main_snapshot"] if "_snapshot" in state else state
    position = {**main["_index_sampler_state"], **(main["_sampler_iter_state"] or {})}
    return {**position, "step": position["step"] + since, "batch": position["batch"] + since * world_size}

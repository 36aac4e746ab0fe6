"""Batches that a thread loads ahead."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from omegaconf import DictConfig
from processes import eventually

from streamnest.commands import train as command
from streamnest.data.datamodule import SpeechDataModule
from streamnest.data.loading import Prefetched
from streamnest.errors import UserError


def _numbers(count: int, fails: bool = False) -> Iterator[Any]:
    yield from range(count)
    if fails:
        raise OSError("no such file")


def test_prefetched_batches_are_those_of_the_iterator() -> None:
    """The order is the same, also with fewer batches in memory than there are."""
    assert list(Prefetched(_numbers(20), most=2)) == list(range(20))


def test_error_of_loading_is_raised_after_earlier_batches() -> None:
    """A file that cannot be read ends the command, not only the thread."""
    batches = iter(Prefetched(_numbers(2, fails=True)))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="no such file"):
        next(batches)


class Loaded:
    """A batch that can be referenced weakly."""


def _counted(references: list[weakref.ref[Loaded]]) -> Iterator[Any]:
    for _ in range(1000):
        batch = Loaded()
        references.append(weakref.ref(batch))
        yield batch


def _ended() -> bool:
    return not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_prefetching_is_bounded_and_releases_batches_when_closed() -> None:
    """The thread waits for the consumer, and ends without one."""
    loaded: list[weakref.ref[Loaded]] = []
    prefetched = Prefetched(_counted(loaded), most=3)
    assert eventually(lambda: len(loaded) == 4, pause=0.01)  # one waits for a place
    prefetched.close()
    assert eventually(_ended, pause=0.01)
    assert len(loaded) == 4 and list(prefetched) == []
    gc.collect()
    assert not any(batch() for batch in loaded)


def test_a_refused_job_of_a_sweep_leaves_nothing_in_memory(
    run_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra keeps the error with its traceback until all jobs have run."""
    loaded: list[weakref.ref[Loaded]] = []
    models: list[weakref.ref[Any]] = []

    def refuse(model: Any) -> None:
        models.append(weakref.ref(model))
        assert eventually(lambda: len(loaded) > 10, pause=0.01)
        raise UserError("it looks ahead")

    monkeypatch.setattr(SpeechDataModule, "statistics_batches", lambda _: _counted(loaded))
    monkeypatch.setattr(command, "_require_causal", refuse)
    monkeypatch.setattr(command, "is_sweep", lambda: True)
    monkeypatch.setattr(command, "exit_on_signals_before_training", lambda: None)
    monkeypatch.setattr(command.run_folder, "claimed", lambda _: nullcontext())
    with pytest.raises(UserError, match="it looks ahead") as caught:
        command.job.__wrapped__(run_config("size.num_layers=1"))
    assert eventually(_ended, pause=0.01)
    gc.collect()
    assert caught.tb and not any(kept() for kept in [*loaded, *models])

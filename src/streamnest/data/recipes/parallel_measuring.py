"""Measurement of many audio files in several processes, each file once.

Results are appended to a journal, so that an interrupted or repeated run decodes only files that are new or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

from streamnest.data.recipes.journal import Journal
from streamnest.data.recipes.measuring import Measurement, measure
from streamnest.data.recipes.segmentation import SegmentLimits
from streamnest.errors import UserError

_CHUNK = 16


def measure_files(
    paths: list[str], journal: Journal, jobs: int = 1, tick: Callable[[int], None] = lambda count: None
) -> tuple[dict[str, Measurement], int]:
    """Returns the measurements of every file, and the number of files that the journal already had.

    Args:
        paths: distinct paths.
        journal: stored measurements; new ones are added.
        jobs: number of processes; 1 measures in this process.
        tick: callback that receives the number of newly finished files.

    Raises:
        UserError: if a worker crashes, as C decoders can on damaged files.
    """
    known = {path: measurement for path in paths if (measurement := journal.look_up(path)) is not None}
    tick(len(known))
    unknown = iter([path for path in paths if path not in known])
    result = dict(known)
    chunks = iter(lambda: list(islice(unknown, _CHUNK)), [])
    for measured in _in_processes(chunks, journal.limits, jobs):
        journal.add(measured)
        result.update((measurement.path, measurement) for measurement in measured)
        tick(len(measured))
    return result, len(known)


def _measure_all(paths: list[str], limits: SegmentLimits | None) -> list[Measurement]:
    return [measure(path, limits) for path in paths]


def _in_processes(chunks: Iterator[list[str]], limits: SegmentLimits | None, jobs: int) -> Iterator[list[Measurement]]:
    if jobs <= 1:
        yield from (_measure_all(chunk, limits) for chunk in chunks)
        return
    waiting: dict[Future[list[Measurement]], list[str]] = {}
    # Spawned, because forking a process that has the threads of torch can deadlock.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from _through(pool, chunks, limits, waiting, 4 * jobs)
        except BrokenProcessPool:
            paths = sorted(path for chunk in waiting.values() for path in chunk)
            raise UserError(
                f"a process crashed or ran out of memory while it decoded one of {len(paths)} files from {paths[0]} to "
                f"{paths[-1]}: move the damaged file away or lower --jobs, then run the command again"
            ) from None
        finally:
            # A stopped run does not wait for work that has not begun.
            pool.shutdown(wait=False, cancel_futures=True)


def _through(
    pool: ProcessPoolExecutor,
    chunks: Iterator[list[str]],
    limits: SegmentLimits | None,
    waiting: dict[Future[list[Measurement]], list[str]],
    ahead: int,
) -> Iterator[list[Measurement]]:
    """Yields measurements in order of completion; `waiting` holds at most `ahead` chunks in progress."""
    for chunk in islice(chunks, ahead):
        waiting[pool.submit(_measure_all, chunk, limits)] = chunk
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            measured = future.result()
            del waiting[future]
            yield measured
            for chunk in islice(chunks, 1):
                waiting[pool.submit(_measure_all, chunk, limits)] = chunk

"""Measures many files in several processes, and none of them twice.

What was found is appended to a journal, so that a run that was interrupted, or is repeated after files were added,
decodes only what is new or has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context

from streamnest.data.recipes.journal import Journal
from streamnest.data.recipes.measuring import Facts, measure
from streamnest.data.recipes.segmentation import Limits
from streamnest.errors import UserError

_CHUNK = 16


def check_files(
    paths: list[str], journal: Journal, jobs: int = 1, tick: Callable[[int], None] = lambda count: None
) -> tuple[dict[str, Facts], int]:
    """Facts of every file, and how many of them the journal knew.

    Args:
        paths: each once.
        journal: answers first, and learns the rest.
        jobs: processes; 1 stays in this one.
        tick: is told how many more files are done.

    Raises:
        UserError: a worker died, as decoders written in C can on damaged files.
    """
    known = {path: facts for path in paths if (facts := journal.look_up(path)) is not None}
    tick(len(known))
    unknown = iter([path for path in paths if path not in known])
    result = dict(known)
    chunks = iter(lambda: list(islice(unknown, _CHUNK)), [])
    for found in _measured(chunks, journal.limits, jobs):
        journal.add(found)
        result.update((facts.path, facts) for facts in found)
        tick(len(found))
    return result, len(known)


def _measure_all(paths: list[str], limits: Limits | None) -> list[Facts]:
    return [measure(path, limits) for path in paths]


def _measured(chunks: Iterator[list[str]], limits: Limits | None, jobs: int) -> Iterator[list[Facts]]:
    if jobs <= 1:
        yield from (_measure_all(chunk, limits) for chunk in chunks)
        return
    waiting: dict[Future[list[Facts]], list[str]] = {}
    # A fresh interpreter each: forking a process that has torch's threads can hang.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            yield from _through(pool, chunks, limits, waiting, 4 * jobs)
        except BrokenProcessPool:
            paths = sorted(path for chunk in waiting.values() for path in chunk)
            raise UserError(
                f"a process died while it decoded one of {len(paths)} files from {paths[0]} to {paths[-1]}, or memory "
                "ran out; move the damaged file away or lower --jobs, then run the command again"
            ) from None
        finally:
            # What is not begun need not be waited for when the run is stopped.
            pool.shutdown(wait=False, cancel_futures=True)


def _through(
    pool: ProcessPoolExecutor,
    chunks: Iterator[list[str]],
    limits: Limits | None,
    waiting: dict[Future[list[Facts]], list[str]],
    ahead: int,
) -> Iterator[list[Facts]]:
    """Facts as they come; `waiting` holds what is out, `ahead` chunks at most."""
    for chunk in islice(chunks, ahead):
        waiting[pool.submit(_measure_all, chunk, limits)] = chunk
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            found = future.result()
            del waiting[future]
            yield found
            for chunk in islice(chunks, 1):
                waiting[pool.submit(_measure_all, chunk, limits)] = chunk

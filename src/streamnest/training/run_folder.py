"""The folder of a run: one process at a time writes to it, and a command that is refused leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from streamnest.console.entry_point import PREEMPTED
from streamnest.console.mistakes import as_user_errors
from streamnest.errors import UserError

log = logging.getLogger(__name__)

_LOCK = ".lock"
# Folders that were not there before Hydra made them for this process, the outermost of each path.
_made: set[Path] = set()
# Descriptors of the locks that this process holds.
_held: set[int] = set()


class NoteFolders(Callback):
    """Notes, before Hydra makes the folder of a run or sweep, which part of its path is not there yet."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the folder of a run."""
        _note(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Notes the folder of a sweep."""
        _note(config, "hydra.sweep.dir")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds the folder of a run for this process; removes what it made there when the run does not begin.

    The processes of one run share it: rank 0 holds it for all. The lock is the operating system's, so that it ends
    with the process, however that ends.

    Raises:
        UserError: if another process writes to the folder.
    """
    if getattr(rank_zero_only, "rank", 0):
        with as_user_errors():
            yield
        return
    lock = _lock(folder)
    was_empty = all(path.name == _LOCK for path in folder.iterdir())
    defect = True
    try:
        with as_user_errors():
            yield
        defect = False
    except (UserError, KeyboardInterrupt, SystemExit) as end:
        # The same command will be started again and continues with the content of the folder.
        defect = getattr(end, "code", None) == PREEMPTED
        raise
    finally:
        if was_empty and not defect and not (folder / ".hydra").exists():
            _remove(folder)
        _release(lock)


@rank_zero_only
def begin(cfg: DictConfig, folder: Path) -> None:
    """Writes what the run is made with, as it begins to train: from now on the folder stays.

    Raises:
        UserError: if the folder cannot be written to.
    """
    if not HydraConfig.initialized():
        return
    own = HydraConfig.get()
    files = {"config": cfg, "hydra": OmegaConf.create({"hydra": own}), "overrides": own.overrides.task}
    try:
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        for name, node in files.items():
            OmegaConf.save(node, folder / ".hydra" / f"{name}.yaml")
        (folder / f"{own.job.name}.log").touch()
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): free space, or give paths.log_dir"
        ) from None


def remove_refused_sweep() -> None:
    """Removes the folders of sweeps that this process made and of which no job began."""
    for made in _made:
        for path in sorted(made.rglob("multirun.yaml")):
            if not any(other.is_dir() for other in path.parent.iterdir()):
                path.unlink()
                _remove_empty(path.parent)


def _note(config: DictConfig, key: str) -> None:
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(config)  # the folder may be named by choices, which are found there
    try:
        folder = Path(OmegaConf.select(config, key))
    except OmegaConfBaseException:
        return  # Hydra reports it
    finally:
        hydra.cfg = before
        OmegaConf.set_readonly(config.hydra, False)  # as it was
    missing = [path.absolute() for path in (folder, *folder.parents) if not path.exists()]
    _made.update(missing[-1:])


def _lock(folder: Path) -> int | None:
    """A file descriptor that holds the lock; None where the file system has no locks."""
    place = folder / _LOCK
    with as_user_errors():
        folder.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise UserError(f"{place} is a link, a folder or a device and not the lock of a run: remove it")
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            os.close(lock)
            log.warning("%s cannot be locked (%s): start no second run there", folder, error.strerror)
            return None
        holder = os.read(lock, 200).decode(errors="replace").strip() or "another process"
        os.close(lock)
        raise UserError(f"{folder} is in use by {holder}: wait for it, stop it, or give another run_id") from None
    _held.add(lock)
    os.ftruncate(lock, 0)
    started = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}, started {started}\n".encode())
    return lock


def _release(lock: int | None) -> None:
    if lock is not None:
        _held.discard(lock)
        os.close(lock)


def _release_in_child() -> None:
    """Closes the locks in a process that was forked: a worker must not hold one after this process has ended."""
    for lock in list(_held):
        _release(lock)


os.register_at_fork(after_in_child=_release_in_child)


def _remove(folder: Path) -> None:
    """Removes what a run that did not begin has put into a folder that was empty, and folders made for it."""
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Removes a folder and those around it, as long as they are empty and this process made them."""
    for path in (folder.absolute(), *folder.absolute().parents):
        if not any(path == made or made in path.parents for made in _made):
            return
        try:
            path.rmdir()
        except OSError:
            return

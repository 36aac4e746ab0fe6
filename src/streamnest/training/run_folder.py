"""The folder of a run: one process at a time writes to it, and a refused command leaves no folder."""

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
from streamnest.console.user_errors import as_user_errors
from streamnest.errors import UserError

log = logging.getLogger(__name__)

_LOCK = ".lock"
# Folders that Hydra creates for this process, the outermost of each path.
_made: set[Path] = set()
# Descriptors of the locks that this process holds.
_held: set[int] = set()


class NoteFolders(Callback):
    """Records which part of the path of a run or sweep does not exist before Hydra creates it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Records the folder of a run."""
        _note(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Records the folder of a sweep."""
        _note(config, "hydra.sweep.dir")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Locks the folder of a run for this process; removes its content if the run does not start.

    Rank 0 holds the lock for all processes of the run. It is a lock of the operating system, which is released when the
    process ends for any reason.

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
    """Writes the config at the start of training; from then on the folder is kept.

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
    """Removes the folders of sweeps of this process of which no job has started."""
    for made in _made:
        for path in sorted(made.rglob("multirun.yaml")):
            if not any(other.is_dir() for other in path.parent.iterdir()):
                path.unlink()
                _remove_empty(path.parent)


def _note(config: DictConfig, key: str) -> None:
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(config)  # the name of the folder may refer to choices, which are stored there
    try:
        folder = Path(OmegaConf.select(config, key))
    except OmegaConfBaseException:
        return  # Hydra will report it
    finally:
        hydra.cfg = before
        OmegaConf.set_readonly(config.hydra, False)  # as it was
    missing = [path.absolute() for path in (folder, *folder.parents) if not path.exists()]
    _made.update(missing[-1:])


def _lock(folder: Path) -> int | None:
    """Returns a file descriptor that holds the lock; None if the file system does not support locks."""
    place = folder / _LOCK
    with as_user_errors():
        folder.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or (place.exists() and not place.is_file()):
            raise UserError(f"{place} is a link, a folder or a device instead of the lock of a run: remove it")
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            os.close(lock)
            log.warning("%s cannot be locked (%s): do not start a second run in it", folder, error.strerror)
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
    """Closes the locks in a forked process, because a worker must not hold one after this process has ended."""
    for lock in list(_held):
        _release(lock)


os.register_at_fork(after_in_child=_release_in_child)


def _remove(folder: Path) -> None:
    """Removes the content that a run which did not start has written, and the folders created for it."""
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    """Removes a folder and its parents, as long as they are empty and were created for this process."""
    for path in (folder.absolute(), *folder.absolute().parents):
        if not any(path == made or made in path.parents for made in _made):
            return
        try:
            path.rmdir()
        except OSError:
            return

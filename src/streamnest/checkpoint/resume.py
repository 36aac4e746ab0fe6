"""Checkpoints that survive what happens to runs: writing them whole or not at all, and finding the newest good one."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.loops import fit_loop
from lightning.pytorch.trainer.connectors import checkpoint_connector
from omegaconf import DictConfig

from streamnest.checkpoint.loading import read_checkpoint
from streamnest.config.aliases import modernize
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.files.plain_data import first_line

log = logging.getLogger(__name__)

# In a row: a disk that was full for a moment is no reason to end a run of weeks, one that stays full is.
_MOST_FAILURES = 5
# Where Lightning restores a run, and how its functions for that begin.
_RESTORERS = {checkpoint_connector.__file__, fit_loop.__file__}
_RESTORES = ("restore", "resume", "load_combined_loader_states")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, then moves it there: a killed writer or full disk costs no other one.

    A checkpoint that cannot be written is reported and the run goes on. While that is so, no older one is removed.

    Raises:
        UserError: when several in a row could not be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Saves to a local path; to the address of an object store as Lightning does, where a write is whole anyway."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with whole(Path(path)) as part:
                _write(checkpoint, part)
            self.failures = 0
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError where a disk is full
            self._failed(path, error)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads as Lightning does; names of older versions are translated."""
        return modernize(super().load_checkpoint(*args, **kwargs))

    def remove_checkpoint(self, path: _PATH) -> None:
        """Removes one that a newer one replaces; not while newer ones cannot be written."""
        if self.failures:
            log.warning("%s is kept, as what should replace it could not be written", path)
            return
        super().remove_checkpoint(path)

    def _failed(self, path: _PATH, error: Exception) -> None:
        self.failures += 1
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"{path} could not be written ({reason}); earlier checkpoints are untouched"
        if self.failures >= _MOST_FAILURES:
            raise UserError(
                f"{message}; this was failure {self.failures} in a row: free space and start again"
            ) from None
        log.error("%s; training goes on", message)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that is whole; damaged ones and broken links are reported and passed over."""
    found = sorted(folder.glob("*.ckpt"), key=_changed, reverse=True)
    for path in found:
        try:
            read_checkpoint(path)
        except UserError as error:
            log.warning("passed over: %s", error)
        else:
            return path
    return None


def _changed(path: Path) -> float:
    """When a file was changed last; never, for a broken link and what was removed just now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def restoring(path: str | None) -> Iterator[None]:
    """Turns errors of Lightning that the state in a checkpoint causes, while it is restored, into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        calls = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        if path and any(c.co_filename in _RESTORERS and c.co_name.lstrip("_").startswith(_RESTORES) for c in calls):
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{path}: its state of a training is not valid ({cause}): use init_from instead") from error
        raise


def checkpoint_to_continue(cfg: DictConfig) -> str | None:
    """Where a run continues: at the newest checkpoint of its own folder if `run_id` names one, else at `ckpt_path`."""
    if cfg.run_id is not None:
        folder = Path(cfg.paths.output_dir) / "checkpoints"
        own = newest_checkpoint(folder)
        if own is None and any(folder.glob("*.ckpt")):
            log.warning("run %s has no checkpoint that can be read: it begins anew", cfg.run_id)
        if own is not None:
            log.info("run %s continues at %s", cfg.run_id, own)
            return str(own)
    return str(cfg.ckpt_path) if cfg.ckpt_path else None

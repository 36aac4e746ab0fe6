"""Writes checkpoints atomically, and finds the one that a run continues from."""

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

from streamnest.checkpoint.loading import StoredCheckpoint
from streamnest.config.aliases import modernize
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.files.plain_data import first_line

log = logging.getLogger(__name__)

# In a row: a disk that is full for a moment should not end a run of weeks, one that stays full should.
_MOST_FAILURES = 5
# Files in which Lightning restores a run, and prefixes of the functions that do it.
_RESTORERS = {checkpoint_connector.__file__, fit_loop.__file__}
_RESTORES = ("restore", "resume", "load_combined_loader_states")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it: a crash or a full disk never damages an existing one.

    A checkpoint that cannot be written is reported and the run continues. Until one is written again, no older one is
    removed.

    Args:
        stored: checkpoint to continue from, which has been read already.

    Raises:
        UserError: if several in a row could not be written.
    """

    def __init__(self, stored: StoredCheckpoint | None = None) -> None:
        super().__init__()
        self.stored, self.failures = stored, 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Saves to a local path atomically; to an object store as Lightning does, because writes there are atomic."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with whole(Path(path)) as part:
                _write(checkpoint, part)
            self.failures = 0
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError if a disk is full
            self._failed(path, error)

    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the checkpoint that has been read already; any other is loaded, with old names translated."""
        if self.stored and self.stored.content and Path(path) == self.stored.path:
            return self.stored.take()
        return modernize(super().load_checkpoint(path, *args, **kwargs))

    def remove_checkpoint(self, path: _PATH) -> None:
        """Removes a checkpoint that a newer one replaces, unless newer ones cannot be written."""
        if self.failures:
            log.warning("%s is kept, because the checkpoint that replaces it could not be written", path)
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
        log.error("%s; training continues", message)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def newest_checkpoint(folder: Path) -> StoredCheckpoint | None:
    """Reads the newest valid checkpoint of a folder; damaged ones and broken links are reported and skipped."""
    for path in sorted(folder.glob("*.ckpt"), key=_changed, reverse=True):
        try:
            return StoredCheckpoint.read(path)
        except UserError as error:
            log.warning("skipped: %s", error)
    return None


def _changed(path: Path) -> float:
    """Returns the time a file was last modified; 0 for a broken link and for a file removed meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Turns errors that Lightning raises while it restores the state in a checkpoint into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        calls = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        if path and any(c.co_filename in _RESTORERS and c.co_name.lstrip("_").startswith(_RESTORES) for c in calls):
            cause = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{path}: its training state is not valid ({cause}): use init_from instead") from error
        raise


def checkpoint_to_continue(cfg: DictConfig) -> StoredCheckpoint | None:
    """Reads the checkpoint that a run continues from: the newest of its own folder if it has `run_id`, or `ckpt_path`.

    Raises:
        UserError: as `read_checkpoint`, for `ckpt_path`.
    """
    if cfg.run_id is not None:
        folder = Path(cfg.paths.output_dir) / "checkpoints"
        newest = newest_checkpoint(folder)
        if newest is None and any(folder.glob("*.ckpt")):
            log.warning("run %s has no valid checkpoint: it starts from the beginning", cfg.run_id)
        if newest is not None:
            log.info("run %s continues at %s", cfg.run_id, newest.path)
            return newest
    return StoredCheckpoint.read(cfg.ckpt_path) if cfg.ckpt_path else None

"""Model folders in the layout of the Hugging Face hub: weights as safetensors, config as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from streamnest.config.aliases import FORMAT
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.files.plain_data import first_line

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
MAX_CONFIG_BYTES = 64 << 20


def write_folder(folder: str | Path, state: Mapping[str, Tensor], stored: Mapping[str, Any], card: str) -> None:
    """Writes weights, config and card, each file atomically; other files of the folder are kept.

    Args:
        folder: folder to write to, created if necessary.
        state: tensors by name.
        stored: config and labels, as in a checkpoint.
        card: model card, Markdown.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    config = {"model_type": "streamnest", "format": FORMAT, **stored}

    def write_config(part: Path) -> None:
        sums = {"sha256": {WEIGHTS: _checksum(folder / WEIGHTS)}}
        part.write_text(json.dumps(config | sums, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    writers: dict[str, Callable[[Path], Any]] = {
        CARD: lambda part: part.write_text(card, encoding="utf-8"),
        WEIGHTS: lambda part: save_file(tensors, part, {"format": "pt"}),
        CONFIG: write_config,
    }
    for name, write in writers.items():
        with whole(folder / name) as part:
            write(part)
            if name != CARD:  # safetensors creates files that only their owner can read
                part.chmod((folder / CARD).stat().st_mode)


def read_folder(folder: str | Path) -> dict[str, Any]:
    """Reads a folder written by `write_folder`; neither of its formats can contain code.

    Returns:
        `state_dict`, and config and labels under `streamnest`, as in a checkpoint.

    Raises:
        UserError: if a file is missing or damaged, or the folder is not of streamnest.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not the folder of a model: it has no {name}")
    config = _read_config(folder / CONFIG)
    stored = config.get("config") if isinstance(config, dict) else None
    if not isinstance(stored, dict) or not {"task", "frontend", "encoder"} <= set(stored):
        raise UserError(
            f"{folder / CONFIG} is not the config of a streamnest model: it must have task, frontend and encoder"
        )
    if config.get("format") not in range(1, FORMAT + 1):
        raise UserError(f"{folder / CONFIG} has format {config.get('format')!r}: this version reads 1 to {FORMAT}")
    kept = {"config": stored, "labels": config.get("labels"), "format": config["format"]}
    return {"state_dict": _read_weights(folder, config), "streamnest": kept}


def _read_config(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{path} is larger than {MAX_CONFIG_BYTES >> 20} MB: it is not a config")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged or not JSON ({first_line(error)})") from None


def _read_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Reads the tensors of a folder and compares them with their checksum; older folders have none."""
    path = folder / WEIGHTS
    sums = config.get("sha256", {})
    known = sums.get(WEIGHTS) if isinstance(sums, dict) else ""
    try:
        if known is not None and known != _checksum(path):
            raise UserError(f"{path} is damaged, or not the file that {CONFIG} describes: its SHA-256 differs")
        state: dict[str, Tensor] = load_file(path)
    except UserError:
        raise
    except Exception as error:  # safetensors raises errors of several libraries
        raise UserError(f"{path} is damaged or not a safetensors file ({first_line(error)})") from None
    return state


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

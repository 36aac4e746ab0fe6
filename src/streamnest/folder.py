"""A model as a folder, as the Hugging Face hub keeps one: weights as safetensors, config as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamnest.errors import UserError
from streamnest.files import whole

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_FORMAT = 1


def write_folder(folder: str | Path, state: Mapping[str, Tensor], own: Mapping[str, Any], card: str) -> None:
    """Writes weights, config and card, each file whole or not at all; other files of the folder stay.

    Args:
        folder: is made where there is none.
        state: tensors by name.
        own: config and labels, as in a checkpoint.
        card: of the model, Markdown.
    """
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    config = {"model_type": "streamnest", "format": _FORMAT, **own}
    writers: dict[str, Callable[[Path], Any]] = {
        CARD: lambda part: part.write_text(card, encoding="utf-8"),
        WEIGHTS: lambda part: save_file(tensors, part, {"format": "pt"}),
        CONFIG: lambda part: part.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"),
    }
    for name, write in writers.items():
        with whole(folder / name) as part:
            write(part)
            if name != CARD:  # safetensors makes files that only their owner can read
                part.chmod((folder / CARD).stat().st_mode)


def read_folder(folder: str | Path) -> dict[str, Any]:
    """Reads a folder as `write_folder` makes it; neither of its formats can hold anything that is executed.

    Returns:
        `state_dict`, and under `streamnest` config and labels, as a checkpoint has them.

    Raises:
        UserError: when a file is missing or damaged, or of something else.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no folder of a model: it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{folder} holds a damaged model ({str(error)[:160]})") from None
    own = config.get("config") if isinstance(config, dict) else None
    if not isinstance(own, dict) or not {"task", "frontend", "encoder"} <= set(own):
        raise UserError(f"{folder / CONFIG} is of no model of streamnest: it has no config of one")
    if config.get("format") != _FORMAT:
        raise UserError(f"{folder / CONFIG} has format {config.get('format')!r}: this version reads {_FORMAT}")
    return {"state_dict": state, "streamnest": {"config": own, "labels": config.get("labels")}}

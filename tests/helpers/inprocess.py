"""Runs commands in the process of the test, because starting Python takes longer than most of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str, folder: str | None = None) -> ModuleType:
    """Returns the module of a command, or of a script in a folder."""
    if folder is None:
        return importlib.import_module(f"streamnest.commands.{name}")
    spec = importlib.util.spec_from_file_location(f"command_{name}", ROOT / folder / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their annotations there
    spec.loader.exec_module(module)
    return module


def main(name: str, *words: Any) -> int:
    """Runs a command with arguments and returns its exit status."""
    module = load(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, words)])
        return int(module.main())

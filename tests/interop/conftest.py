"""Composing a config takes a second: tests of imports share what they compose."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
from omegaconf import DictConfig

from streamnest.interop.nemo import importing
from streamnest.resolve import compose_config


@functools.cache
def _composed(words: tuple[str, ...], config_dir: Path, name: str) -> DictConfig:
    return compose_config(list(words), config_dir, name)


@pytest.fixture(scope="session", autouse=True)
def _compose_once() -> None:
    def compose(words: list[str], config_dir: Path, name: str) -> DictConfig:
        return copy.deepcopy(_composed(tuple(words), config_dir, name))

    importing.compose_config = compose

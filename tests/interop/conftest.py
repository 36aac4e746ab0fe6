"""Caches composed configs, since composing one takes most of a second."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import CONFIGS
from models import TINY
from omegaconf import DictConfig

from streamnest.config.compose import compose_config
from streamnest.interop.nemo import importing


@functools.cache
def _composed(overrides: tuple[str, ...], config_dir: Path, name: str) -> DictConfig:
    return compose_config(list(overrides), config_dir, name)


@pytest.fixture(scope="session", autouse=True)
def _compose_once() -> Iterator[None]:
    def compose(overrides: list[str], config_dir: Path, name: str) -> DictConfig:
        return copy.deepcopy(_composed(tuple(overrides), config_dir, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "compose_config", compose)
        yield


@pytest.fixture
def run_config() -> Callable[..., DictConfig]:
    """The fixture of the other tests, with a cache of composed configs."""
    return lambda *overrides: copy.deepcopy(_composed((*TINY, "trainer=cpu", *overrides), CONFIGS, "t"))

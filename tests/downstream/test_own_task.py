"""Classes of the user for a task, its data and its augmentation, named by `_target_`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig
from recognizers import LABELS

import streamnest
from streamnest.build import build_data, build_model, build_stored_data
from streamnest.checkpoint.loading import load_model, write_checkpoint
from streamnest.config.stored import ALLOWED, task_settings
from streamnest.config.tasks import CTCConfig
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.config import AugmentConfig
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.encoder import FastConformer
from streamnest.errors import UserError


@dataclass
class OwnConfig(CTCConfig):
    """Schema of a task with one more setting."""

    extra: int = 0


class OwnTask(CTCRecognizer):
    """A task of the user's own package."""

    Settings = OwnConfig


class OwnData(SpeechDataModule):
    """A data module of the user's own package."""


@dataclass
class OwnAugmentConfig(AugmentConfig):
    """Schema of an augmentation with one more setting."""

    level: float = 0.0


class OwnAugmentation(Augmentation):
    """An augmentation of the user's own package."""

    Settings = OwnAugmentConfig

    def __init__(self, config: OwnAugmentConfig) -> None:
        super().__init__(config)
        self.level = config.level


Compose = Callable[..., DictConfig]


def test_an_own_task_trains_and_loads_once_allowed(
    run_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALLOWED, "task", dict(ALLOWED["task"]))
    cfg = run_config("task=ctc", f"task._target_={__name__}.OwnTask", "+task.extra=3")
    assert build_data(cfg).config.transcribed
    model = build_model(cfg, labels=LABELS)
    assert type(model) is OwnTask
    path = tmp_path / "own.ckpt"
    write_checkpoint(model, path)
    with pytest.raises(UserError, match=r"own\.ckpt: task\._target_='.*OwnTask' is refused.*allow_class\('task'"):
        load_model(path)
    streamnest.allow_class("task", OwnTask, OwnConfig)
    assert type(load_model(path)) is OwnTask


def test_own_data_and_augmentation_get_their_config(run_config: Compose, tmp_path: Path) -> None:
    own = [f"data._target_={__name__}.OwnData", f"augment._target_={__name__}.OwnAugmentation", "+augment.level=2"]
    cfg = run_config("augment=full", *own)
    data = build_data(cfg)
    assert type(data) is OwnData and data.config.batch_duration == cfg.data.batch_duration
    assert isinstance(data.augment, OwnAugmentation) and data.augment.level == 2
    assert data.augment.reverb.prob == cfg.augment.reverb.prob > 0
    write_checkpoint(build_model(cfg), tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=rf"data\._target_={__name__}.OwnData, whose settings are not stored"):
        build_stored_data(load_model(tmp_path / "own.ckpt").config)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f"{FastConformer.__module__}.FastConformer", "must derive from DownstreamTask or Pretraining"),
        ("nowhere.Task", "cannot be imported"),
    ],
)
def test_a_class_that_is_not_a_task_is_refused(run_config: Compose, value: str, problem: str) -> None:
    with pytest.raises(UserError, match=rf"task\._target_={value} {problem}"):
        build_model(run_config("task=ctc", f"task._target_={value}"), labels=LABELS)


def test_the_name_of_a_task_must_belong_to_its_class(run_config: Compose) -> None:
    with pytest.raises(UserError, match=r"task\.name='speaker' does not belong to .*CTCRecognizer: it must be ctc"):
        build_model(run_config("task=ctc", "task.name=speaker"), labels=LABELS)


@pytest.mark.parametrize("stored", ["cook", {"name": "cook"}])
def test_a_stored_name_without_class_must_be_known(stored: str | dict[str, str]) -> None:
    with pytest.raises(UserError, match="task 'cook' is unknown: choose pretrain, ctc"):
        task_settings(stored)


def test_the_schema_of_a_task_derives_from_task_config() -> None:
    with pytest.raises(UserError, match="must derive from"):
        streamnest.allow_class("task", OwnTask, dataclass(type("Other", (), {})))

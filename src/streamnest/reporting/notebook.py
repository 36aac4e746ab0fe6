"""Shared parts of the notebooks: repository, model and speech to analyze, published results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from streamnest.build import build_data, build_model
from streamnest.callbacks.plots import distance, nearest_row
from streamnest.checkpoint.loading import load_pretrained, read_checkpoint
from streamnest.config.compose import compose_config
from streamnest.config.stored import task_name
from streamnest.corpus_statistics import fit_statistics
from streamnest.data.batch import Batch
from streamnest.data.datamodule import SpeechDataModule
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing.phone_labels import ProbeUtterance, read_utterances

# Training audio for the normalization statistics of an untrained model.
_STATISTICS_HOURS = 0.1


@dataclass
class Subject:
    """The model that a notebook analyzes.

    Attributes:
        model: model in evaluation mode.
        checkpoint: its checkpoint; None for an untrained model.
        data: data module of the built-in corpus, set up.
    """

    model: Pretraining
    checkpoint: Path | None
    data: SpeechDataModule

    @property
    def name(self) -> str:
        """Name of the checkpoint's run, for titles."""
        if self.checkpoint is None:
            return "an untrained model"
        folder = self.checkpoint.resolve().parent
        return (folder.parent if folder.name == "checkpoints" else folder).name


def repository() -> Path:
    """Returns the root of the checkout: `STREAMNEST_ROOT`, or the nearest parent folder with the configs.

    Raises:
        UserError: if there is none.
    """
    here = Path(os.environ.get("STREAMNEST_ROOT") or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "configs/train.yaml").is_file():
            os.environ["STREAMNEST_ROOT"] = str(folder)  # the configs find the corpus from it
            return folder
    raise UserError(f"{here} is not in a checkout of streamnest: set STREAMNEST_ROOT to the folder of train.py")


def composed(root: Path, *overrides: str) -> DictConfig:
    """Composes the config of a run that writes nothing."""
    return compose_config(["data.cache_mb=0", *overrides], root / "configs", "notebook")


def newest(root: Path, name: str) -> list[Path]:
    """Returns the files of a name below `logs/`, newest first."""
    return sorted((root / "logs").rglob(name), key=lambda path: path.stat().st_mtime, reverse=True)


def find_checkpoint(root: Path) -> Path | None:
    """Returns `STREAMNEST_CKPT`, or the newest `last.ckpt` of pretraining below `logs/`; None without either."""
    if os.environ.get("STREAMNEST_CKPT"):
        return Path(os.environ["STREAMNEST_CKPT"])
    return next((path for path in newest(root, "last.ckpt") if _is_pretraining(path)), None)


def open_subject(root: Path) -> Subject:
    """Loads the model of `find_checkpoint`, or makes an untrained one with the statistics of the built-in corpus.

    Raises:
        UserError: for a checkpoint that cannot be read or is of another task.
    """
    cfg, checkpoint = composed(root), find_checkpoint(root)
    data = build_data(cfg)
    data.setup("fit")
    if checkpoint:
        return Subject(load_pretrained(checkpoint), checkpoint, data)
    torch.manual_seed(cfg.seed)
    model: Pretraining = build_model(cfg, training=False).eval()
    fit_statistics(model, data.statistics_batches(), hours=_STATISTICS_HOURS)
    return Subject(model, None, data)


def twin(model: Pretraining, encoder: Mapping[str, Any] | None = None, trained: bool = True) -> Pretraining:
    """Makes a model of the same config, in evaluation mode.

    Args:
        model: model to copy; it does not change.
        encoder: encoder settings to change; they must not affect the shapes of weights.
        trained: True copies all weights; False initializes new ones but keeps targets and normalization statistics.
    """
    config = {**model.config, "encoder": {**model.config["encoder"], **(encoder or {})}}
    torch.manual_seed(model.seed)
    other: Pretraining = build_model(config, training=False)
    if trained:
        other.load_state_dict(model.state_dict())
    for target, source in zip(_fitted(other), _fitted(model), strict=True):
        target.load_state_dict(source.state_dict())
    return other.eval()


def utterance_near(subject: Subject, seconds: float) -> Batch:
    """Returns a batch of one: the validation utterance closest to a duration, without added noise."""
    samples = seconds * subject.model.frontend.sample_rate
    rows = [nearest_row(batch, samples) for batch in subject.data.val_dataloader()]
    nearest = min(rows, key=lambda row: distance(row, samples))
    return replace(nearest, noisy=nearest.clean)


def labeled_speech(root: Path) -> list[ProbeUtterance]:
    """Reads utterances with speakers and phones from `STREAMNEST_MANIFEST` and `STREAMNEST_PHONES`, or the sample.

    In the built-in sample, one reader has phones. `read_utterances` describes the format.
    """
    sample = root / "data/sample16k"
    manifest = os.environ.get("STREAMNEST_MANIFEST")
    phones = os.environ.get("STREAMNEST_PHONES") or (None if manifest else sample / "phones.jsonl")
    return read_utterances(manifest or sample / "manifest.jsonl", phones)


def how_many(default: int) -> int:
    """Returns the number of utterances to analyze: `STREAMNEST_UTTERANCES`, or the default.

    Raises:
        UserError: if it is not a number above 0.
    """
    named = os.environ.get("STREAMNEST_UTTERANCES") or str(default)
    if not named.isdecimal() or int(named) == 0:
        raise UserError(f"STREAMNEST_UTTERANCES={named}: give a number above 0")
    return int(named)


def find_frontier(root: Path) -> Path:
    """Returns `STREAMNEST_FRONTIER`, or the newest `frontier.json` below `logs/`, or the published results."""
    named = os.environ.get("STREAMNEST_FRONTIER")
    files = [Path(named)] if named else [*newest(root, "frontier.json"), published(root, "frontier")]
    return files[0] / "frontier.json" if files[0].is_dir() else files[0]


def published(root: Path, name: str) -> Path:
    """Returns the path of the published results of docs/RESULTS.md: frontier, labels or variants."""
    return root / f"docs/data/{name}.json"


def _fitted(model: Pretraining) -> list[nn.Module]:
    """Returns the modules that are fitted to a corpus instead of trained."""
    return [*model.normalizers, model.quantizer]


def _is_pretraining(path: Path) -> bool:
    """Returns False for checkpoints of other tasks and for incomplete files."""
    try:
        return task_name(read_checkpoint(path)["streamnest"]["config"]) == "pretrain"
    except UserError:
        return False

"""What the notebooks have in common: where the repository is, the model they look at, and the speech it hears."""

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
from streamnest.callbacks.pictures import distance, nearest_row
from streamnest.checkpoint.loading import load_pretrained, read_checkpoint
from streamnest.config.compose import compose_config
from streamnest.config.stored import task_name
from streamnest.corpus_statistics import fit_statistics
from streamnest.data.batch import Batch
from streamnest.data.datamodule import SpeechDataModule
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing.phone_labels import ProbeUtterance, read_utterances

# Of training audio, for the normalisation of a model that was never trained.
_STATISTICS_HOURS = 0.1


@dataclass
class Subject:
    """The model that a notebook looks at.

    Attributes:
        model: in evaluation mode.
        checkpoint: where it comes from; None is an untrained model.
        data: the built-in corpus, ready to be read.
    """

    model: Pretraining
    checkpoint: Path | None
    data: SpeechDataModule

    @property
    def name(self) -> str:
        """For titles: the run that the checkpoint lies in, and its preset."""
        if self.checkpoint is None:
            return "an untrained model"
        folder = self.checkpoint.resolve().parent
        return (folder.parent if folder.name == "checkpoints" else folder).name


def repository() -> Path:
    """The root: `STREAMNEST_ROOT`, or the nearest folder from here upwards that has the configs.

    Raises:
        UserError: where there is none.
    """
    here = Path(os.environ.get("STREAMNEST_ROOT") or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "configs/train.yaml").is_file():
            os.environ["STREAMNEST_ROOT"] = str(folder)  # the configs find the corpus by it
            return folder
    raise UserError(f"{here} lies in no copy of streamnest: set STREAMNEST_ROOT to the folder of train.py")


def composed(root: Path, *overrides: str) -> DictConfig:
    """The config of a run that writes nothing."""
    return compose_config(["data.cache_mb=0", *overrides], root / "configs", "notebook")


def newest(root: Path, name: str) -> list[Path]:
    """Files of a name below `logs/`, the newest first."""
    return sorted((root / "logs").rglob(name), key=lambda path: path.stat().st_mtime, reverse=True)


def find_checkpoint(root: Path) -> Path | None:
    """`STREAMNEST_CKPT`, or the newest `last.ckpt` of pretraining below `logs/`; None where there is neither."""
    if os.environ.get("STREAMNEST_CKPT"):
        return Path(os.environ["STREAMNEST_CKPT"])
    return next((path for path in newest(root, "last.ckpt") if _is_pretraining(path)), None)


def open_subject(root: Path) -> Subject:
    """The model of `find_checkpoint`, or an untrained one with the statistics of the built-in corpus.

    Raises:
        UserError: for a checkpoint that cannot be read, or one of another task that was asked for.
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
    """A model of the same config, in evaluation mode.

    Args:
        model: is left alone.
        encoder: settings of the encoder that differ; they must leave the shapes of the weights as they are.
        trained: with the weights of the model. Otherwise new ones, with its targets and statistics of the corpus.
    """
    config = {**model.config, "encoder": {**model.config["encoder"], **(encoder or {})}}
    torch.manual_seed(model.seed)
    other: Pretraining = build_model(config, training=False)
    if trained:
        other.load_state_dict(model.state_dict())
    for mine, theirs in zip(_of_corpus(other), _of_corpus(model), strict=True):
        mine.load_state_dict(theirs.state_dict())
    return other.eval()


def utterance_near(subject: Subject, seconds: float) -> Batch:
    """A batch of one: the validation utterance whose duration is nearest to so many seconds, with nothing mixed in."""
    samples = seconds * subject.model.frontend.sample_rate
    rows = [nearest_row(batch, samples) for batch in subject.data.val_dataloader()]
    found = min(rows, key=lambda row: distance(row, samples))
    return replace(found, noisy=found.clean)


def labelled_speech(root: Path) -> list[ProbeUtterance]:
    """Utterances with speakers and phones: of `STREAMNEST_MANIFEST` and `STREAMNEST_PHONES`, or of the sample.

    Of the built-in sample one reader has phones. See `read_utterances` for the format.
    """
    sample = root / "data/sample16k"
    manifest = os.environ.get("STREAMNEST_MANIFEST")
    phones = os.environ.get("STREAMNEST_PHONES") or (None if manifest else sample / "phones.jsonl")
    return read_utterances(manifest or sample / "manifest.jsonl", phones)


def how_many(usual: int) -> int:
    """Utterances to listen to: `STREAMNEST_UTTERANCES`, or the usual number.

    Raises:
        UserError: for what is no number above 0.
    """
    named = os.environ.get("STREAMNEST_UTTERANCES") or str(usual)
    if not named.isdecimal() or int(named) == 0:
        raise UserError(f"STREAMNEST_UTTERANCES={named}: give a number above 0")
    return int(named)


def find_frontier(root: Path) -> tuple[Path, bool]:
    """`STREAMNEST_FRONTIER`, or the newest `frontier.json` below `logs/`; else an example.

    Returns:
        The file, and whether its numbers are made up.
    """
    named = os.environ.get("STREAMNEST_FRONTIER")
    found = [Path(named)] if named else newest(root, "frontier.json")
    if not found:
        return root / "tests/fixtures/frontier.json", True
    return (found[0] / "frontier.json" if found[0].is_dir() else found[0]), False


def _of_corpus(model: Pretraining) -> list[nn.Module]:
    """What is fitted to a corpus, not trained."""
    return [*model.normalizers, model.quantizer]


def _is_pretraining(path: Path) -> bool:
    """Runs of other tasks leave their checkpoints in the same place, and killed ones may leave half a file."""
    try:
        return task_name(read_checkpoint(path)["streamnest"]["config"]) == "pretrain"
    except UserError:
        return False

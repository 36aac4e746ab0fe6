"""Every choice of every group composes, is typed, and builds its class."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import ConfigCompositionException, HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from streamnest.checkpoint.target_teacher import with_teacher
from streamnest.config.compose import compose_config
from streamnest.config.stored import require_loadable
from streamnest.errors import UserError
from streamnest.formatting import masking_in_words

CONFIGS = Path(__file__).parents[2] / "configs"
FIXED = {"hydra", "paths", "local"}
CHOICES = sorted(
    (folder.name, path.stem)
    for folder in CONFIGS.iterdir()
    if folder.is_dir() and folder.name not in FIXED
    for path in folder.glob("*.yaml")
    if not path.stem.startswith("base")
)
SIZES = {"small": 14e6, "medium": 32e6, "large": 115e6, "xlarge": 600e6}

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_every_value_resolves(composed: Compose, group: str, choice: str) -> None:
    if choice == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[sweeps]'")
    needed = ["data.train_manifest=a.jsonl", "data.val_manifest=b.jsonl"] if choice in ("manifest", "shar") else []
    cfg = composed(f"{group}={choice}", "name=t", "preset=t", "paths.output_dir=out", *needed)
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True)
    assert plain["encoder"]["_target_"] == "streamnest.encoder.FastConformer.build"
    require_loadable({k: v for k, v in plain.items() if k not in ("logger", "callbacks", "paths")})


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_the_first_line_of_every_choice_describes_it(group: str, choice: str) -> None:
    lines = [x for x in (CONFIGS / group / f"{choice}.yaml").read_text().splitlines() if not x.startswith("# @package")]
    assert re.match(r"# [A-Z0-9].{15,}", lines[0]), lines[0]


@pytest.mark.parametrize(
    "group", sorted({group for group, _ in CHOICES} - {"logger", "callbacks", "experiment", "debug"})
)
def test_a_misspelled_key_is_refused_in_every_typed_group(composed: Compose, group: str) -> None:
    with pytest.raises(ConfigCompositionException, match="mispelt"):
        composed(f"{group}.mispelt=1")


def test_a_misspelled_key_in_a_yaml_file_is_refused(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    (tmp_path / "bad.yaml").write_text("defaults: [/train, _self_]\nmasking:\n  blok_size: 3\n")
    with (
        initialize_config_dir(str(tmp_path), version_base="1.3"),
        pytest.raises(ConfigCompositionException, match="blok_size"),
    ):
        compose("bad", [f"hydra.searchpath=[file://{CONFIGS}]"])


@pytest.mark.parametrize(
    ("override", "named"),
    [("encoder=lookahead41", "lookahead41"), ("maskin=causal", "maskin"), ("trainer.max_steps=many", "max_steps")],
)
def test_an_unknown_choice_group_or_type_is_refused(composed: Compose, override: str, named: str) -> None:
    with pytest.raises(HydraException, match=named):
        composed(override)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_have_about_the_stated_number_of_parameters(composed: Compose, size: str) -> None:
    cfg = composed(f"size={size}", "encoder.subsampling_factor=8", "encoder=causal", "quantizer=nest")
    with torch.device("meta"):
        parts = [instantiate(cfg.encoder), instantiate(cfg.objective)]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert count == pytest.approx(SIZES[size], rel=0.08)


@pytest.mark.parametrize("name", ["nest_large", "nest_bidirectional"])
def test_the_experiments_of_nest_compose_and_keep_the_published_objective(composed: Compose, name: str) -> None:
    cfg = composed(f"experiment={name}", "data=sample", "trainer=ddp", "name=t", "preset=t")
    # Composing needs no GPUs.
    assert cfg.trainer.strategy == "ddp"
    if name == "nest_large":
        assert cfg.encoder.subsampling_factor == cfg.quantizer.stack == 8
        assert "400 ms over about 33%" in masking_in_words(instantiate(cfg.masking), 10.0)
    assert (cfg.quantizer.codes, cfg.quantizer.num_classes, cfg.quantizer.num_codebooks) == ("random", 8192, 1)
    assert instantiate(cfg.objective).weights == {"masked": 1.0}


EXPERIMENTS = [choice for group, choice in CHOICES if group == "experiment"]


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.endswith("student")])
def test_experiments_of_students_require_a_teacher(composed: Compose, name: str) -> None:
    with pytest.raises(UserError, match=r"needs quantizer\.checkpoint=PATH"):
        with_teacher(composed(f"experiment={name}", "name=t", "preset=t", "paths.output_dir=out"), None)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if not name.endswith("student")])
def test_every_experiment_takes_a_step_at_a_small_size(train: Callable[..., Any], name: str) -> None:
    words = ["data=sample", "data.batch_duration=10", "data.num_workers=0", f"experiment={name}"]
    words += [f"data.{part}_manifest=${{paths.data_dir}}/sample16k/cuts_dev.jsonl" for part in ("train", "val")]
    words += ["task.vocab_size=64"] if name.endswith(("ctc", "rnnt")) else []
    model, trainer = train(*words, "trainer.devices=1", "trainer.num_nodes=1", steps=1)
    assert trainer.global_step == 1
    assert model.config["encoder"]["subsampling_factor"] == (8 if name == "nest_large" else 4)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_composing_a_config_does_not_disturb_another_caller(composed: Compose) -> None:
    assert composed("size=small").size.num_layers == 16
    assert compose_config(["size=large"], CONFIGS, "other").size.num_layers == 17
    assert composed("size=small").size.num_layers == 16


def test_overrides_take_precedence_for_untrained_models() -> None:
    cfg = compose_config(["logger=csv", "name=mine"], CONFIGS, "untrained")
    assert cfg.name == "mine" and cfg.preset == "untrained" and "csv" in str(cfg.logger).lower()


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (("task=ctc",), 0.6667),
        (("task=rnnt", "augment=noise"), 0.6667),
        (("task=ctc", "augment=none"), 0.0),
        (("task=ctc", "augment.speed.prob=0"), 0.0),
        (("task=speaker",), 0.0),
        (("task=pretrain",), 0.0),
        (("task=pretrain", "augment=full"), 0.6667),
    ],
)
def test_only_recognizers_change_the_speed_by_default(
    composed: Compose, overrides: tuple[str, ...], share: float
) -> None:
    speed = composed(*overrides).augment.speed
    assert speed.prob == share and speed.factors == [0.9, 1.1]


@pytest.mark.parametrize(
    ("overrides", "noise", "optimizer"),
    [
        ((), 0.5, "muon"),
        (("task=ctc",), 0.0, "muon"),
        (("task=ctc", "augment=noise", "optim=adamw_cosine"), 0.5, "adamw"),
        (("task=rnnt",), 0.0, "adamw"),
        (("task=diarization",), 0.5, "adamw"),
        (("trainer=fsdp_cpu",), 0.5, "adamw"),
        (("experiment=librispeech_960_ctc",), 0.0, "adamw"),
    ],
)
def test_tasks_and_trainers_select_augmentation_and_optimizer(
    composed: Compose, overrides: tuple[str, ...], noise: float, optimizer: str
) -> None:
    made = composed(*overrides)
    assert (made.augment.prob, made.optim.optimizer) == (noise, optimizer)

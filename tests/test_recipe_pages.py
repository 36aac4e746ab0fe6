"""The commands of the recipe pages are accepted: overrides compose, and arguments parse."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from test_docs import GROUPS, RECIPES, ROOT, text

from streamnest.config.limits import refuse_out_of_range

LAUNCHED = re.compile(r"scripts/launch/\w+\.sh (.*)")


def commands(page: Path) -> Iterator[list[str]]:
    """Yields the command of streamnest and its arguments, for each command in the indented blocks of a page."""
    for line in re.findall(r"^ {4}(\S(?:[^\n\\]|\\\n)*)", text(page), re.M):
        joined = line.replace("\\\n", " ")
        if launched := LAUNCHED.search(joined):
            yield ["train", *shlex.split(launched[1], comments=True)]
        elif joined.startswith("streamnest "):
            yield shlex.split(joined, comments=True)[1:]


def test_training_commands_compose_and_consume_the_stated_audio(composed: Callable[..., DictConfig]) -> None:
    configs: dict[tuple[str, ...], DictConfig] = {}
    parser = OverridesParser.create()
    trained = ((page, rest) for page in RECIPES for name, *rest in commands(page) if name == "train")
    for page, overrides in trained:
        # Composing takes longest, so the commands share what they share of experiments and groups.
        groups = tuple(one for one in overrides if one.partition("=")[0] in GROUPS)
        configs[groups] = configs.get(groups) or composed(*groups, "name=t", "preset=t", "paths.output_dir=out")
        cfg = configs[groups].copy()
        for one in set(overrides) - set(groups):
            override = parser.parse_override(one)
            OmegaConf.update(cfg, override.key_or_group, override.value())
        refuse_out_of_range(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
        hours = check_batches(cfg, next(one for one in overrides if one.startswith("experiment=")))
        shortened = any(one.startswith("trainer.max_steps=") for one in overrides)
        if f"experiment={page.stem}" in overrides and not shortened:
            stated = f"| audio consumed | {hours:,.0f} h in {cfg.trainer.max_steps:,} steps |"
            assert stated in text(page), overrides
    assert len(configs) >= 8


def check_batches(cfg: DictConfig, experiment: str) -> float:
    """Checks that a command keeps the audio per step of its experiment, in hours, and uses GPUs as it should.

    Returns:
        Hours of audio that the run consumes.
    """
    step = 0.8 if experiment.endswith(("ctc", "rnnt")) else 2.0 if "librispeech" in experiment else 4.267
    step = step / 4 if cfg.run_id == "ll_small" else step
    processes = cfg.trainer.devices * cfg.trainer.num_nodes * cfg.trainer.accumulate_grad_batches
    assert processes * cfg.data.batch_duration / 3600 == pytest.approx(step, abs=1e-3), experiment
    assert cfg.trainer.max_steps > cfg.optim.warmup_steps
    assert cfg.trainer.strategy == "ddp" and cfg.trainer.precision == "bf16-mixed"
    # A batch of the shortest utterances in use, about 2 s, is as long as all others.
    assert cfg.data.max_batch_size * 2 >= cfg.data.batch_duration
    return float(processes * cfg.data.batch_duration / 3600 * cfg.trainer.max_steps)


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_every_other_command_of_a_recipe_parses(page: Path) -> None:
    others = [words for words in commands(page) if words[0] != "train"]
    assert {"prepare", "shard", "frontier", "transcribe"} <= {name for name, *_ in others}
    for name, *arguments in others:
        module = importlib.import_module(f"streamnest.commands.arguments.{name.replace('-', '_')}")
        assert module.parse(arguments), name


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_recipes_state_plainly_what_was_not_run(page: Path) -> None:
    beginning = page.read_text(encoding="utf-8").split("\n## ")[0]
    assert "**Not run here.**" in beginning
    tests = re.findall(r"`(tests/[\w/]+\.py)`", beginning)
    assert len(tests) >= 3 and all((ROOT / path).is_file() for path in tests)

"""Plan of a frontier: stages, overrides, hashes and commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frontiers import fill
from omegaconf import DictConfig, OmegaConf

from streamnest.checkpoint import inherit_encoder as adoption
from streamnest.errors import UserError
from streamnest.frontier.command import main
from streamnest.frontier.configs import with_configs
from streamnest.frontier.options import FrontierOptions, merge
from streamnest.frontier.plan import Stage, make_plan
from streamnest.frontier.processes import Launcher
from streamnest.frontier.records import Records

ROOT = Path(__file__).parents[2]
# Hashes of fine-tuning stages before they inherited overrides of pretraining.
KEPT = {"043f946a45e0", "247489e32e0c", "5840a12723c5", "9b9c12853b9c"}
KEPT_SIZED = "e9db8fb35e83"


def keys(options: FrontierOptions, kind: str) -> set[str]:
    return {stage.key for stage in make_plan(options) if stage.kind == kind}


def only(options: FrontierOptions, **wanted: object) -> Stage:
    found = [s for s in make_plan(options) if all(getattr(s, name) == value for name, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_each_preset_is_pretrained_once_and_finetuned_twice() -> None:
    plan = make_plan(FrontierOptions(presets=("causal", "lookahead80"), seeds=(0, 1), hours=(0.5, None), probes=True))
    counts = {kind: sum(s.kind == kind for s in plan) for kind in ("pretrain", "probe", "finetune", "evaluate")}
    assert counts == {"pretrain": 4, "probe": 4, "finetune": 16, "evaluate": 16}
    places = {stage.key: number for number, stage in enumerate(plan)}
    assert all(places[s.needs.key] < places[s.key] for s in plan if s.needs)
    assert len(places) == len(plan) == len({stage.run for stage in plan})


def test_finetune_steps_do_not_change_pretraining_hashes() -> None:
    less, more = FrontierOptions(finetune_steps=100), FrontierOptions(finetune_steps=200)
    assert keys(less, "pretrain") == keys(more, "pretrain")
    assert not keys(less, "finetune") & keys(more, "finetune") and not keys(less, "evaluate") & keys(more, "evaluate")


def test_pretrain_steps_do_not_change_hashes_from_scratch() -> None:
    less, more = FrontierOptions(presets=("causal",)), FrontierOptions(presets=("causal",), pretrain_steps=999)
    for pretrained in (True, False):
        one, other = (only(o, kind="evaluate", pretrained=pretrained).key for o in (less, more))
        assert (one == other) is not pretrained


def test_hours_replace_steps_and_exclude_them(capsys: pytest.CaptureFixture[str]) -> None:
    options = FrontierOptions(presets=("causal",), pretrain_hours=50.0, finetune_hours=0.5)
    lengths = {
        s.kind: [o for o in s.overrides if "trainer.max" in o] for s in make_plan(options) if s.kind != "evaluate"
    }
    assert lengths == {"pretrain": ["trainer.max_audio_hours=50"], "finetune": ["trainer.max_audio_hours=0.5"]}
    assert not keys(options, "pretrain") & keys(FrontierOptions(presets=("causal",), pretrain_hours=60.0), "pretrain")
    assert main("", ROOT, ["--pretrain-hours", "0"]) == 2 and "above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main("", ROOT, ["--pretrain-steps", "10", "--pretrain-hours", "2"])


def test_logging_settings_and_override_order_change_no_hash() -> None:
    one = FrontierOptions(both=("size=small", "optim.lr=1e-3"))
    other = FrontierOptions(both=("optim.lr=1e-3", "size=small", "logger=wandb", "data.num_workers=4"))
    assert keys(one, "evaluate") == keys(other, "evaluate")
    assert not keys(one, "pretrain") & keys(FrontierOptions(both=("size=small",)), "pretrain")


def test_dynamic_checkpoint_is_evaluated_in_each_context() -> None:
    plan = make_plan(FrontierOptions(presets=("dynamic",), contexts=("causal", "full")))
    assert [s.context for s in plan if s.kind == "evaluate"] == ["causal", "full"] * 2
    assert sum(s.kind == "finetune" for s in plan) == 2 and sum(s.kind == "pretrain" for s in plan) == 1


def test_override_applies_only_to_its_preset_and_initialization() -> None:
    options = FrontierOptions(
        presets=("causal", "bidirectional"),
        pretrain=("causal:masking=multiscale",),
        pretrained=("freeze=20",),
        scratch=("optim.lr=2e-3",),
    )
    assert "masking=multiscale" in only(options, kind="pretrain", preset="causal").overrides
    assert "masking=random" in only(options, kind="pretrain", preset="bidirectional").overrides
    tuned = {flag: only(options, kind="finetune", preset="causal", pretrained=flag).overrides for flag in (True, False)}
    assert "freeze=20" in tuned[True] and "freeze=20" not in tuned[False]
    assert "optim.lr=2e-3" in tuned[False] and "optim.lr=2e-3" not in tuned[True]


def test_last_override_of_a_setting_wins() -> None:
    assert merge(["size=tiny", "+a.b=1", "~c", "size=small", "a.b=2"]) == ("size=small", "a.b=2", "~c")


@pytest.mark.parametrize(
    ("field", "override", "message"),
    [
        ("both", "seed=3", "--seeds"),
        ("pretrain", "trainer.max_steps=5", "--pretrain-steps"),
        ("both", "trainer.max_audio_hours=5", "--pretrain-hours"),
        ("finetune", "+data.max_hours=1", "--hours"),
        ("both", "causal:encoder=dynamic", "--presets"),
        ("scratch", "small", "overrides of `streamnest train`"),
    ],
)
def test_overrides_set_by_options_are_refused(field: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--{field} {override.replace('+', '.')}.*{message}"):
        FrontierOptions(**{field: (override,)})


def test_options_survive_json_round_trip() -> None:
    varied = FrontierOptions(variants=(("short", "masking.block_size=6"),))
    assert FrontierOptions.of(json.loads(json.dumps(varied.plain()))) == varied
    options = FrontierOptions(hours=(0.5, None), both=("size=small",), seeds=(1, 2))
    assert FrontierOptions.of(options.plain()) == options


def test_variant_is_pretrained_again_and_finetuned_as_the_baseline() -> None:
    variants = (("short", "masking.block_size=6"), ("as_it_is", "augment=noise_and_speakers"))
    options = FrontierOptions(presets=("causal",), pretrain=("augment=noise_and_speakers",), variants=variants)
    plain, short = (only(options, kind="pretrain", variant=name) for name in (None, "short"))
    assert set(short.overrides) - set(plain.overrides) == {"masking.block_size=6"}
    tuned = [only(options, kind="finetune", variant=name, pretrained=True) for name in (None, "short")]
    assert tuned[0].overrides == tuned[1].overrides and tuned[1].needs == short and tuned[0].key != tuned[1].key
    assert not [s for s in make_plan(options) if s.variant == "as_it_is"], (
        "a variant that equals the baseline is not run again"
    )
    assert keys(options, "pretrain") == keys(
        FrontierOptions(presets=("causal",), pretrain=options.pretrain), "pretrain"
    ) | {short.key}


def test_recorded_stages_keep_their_hashes() -> None:
    options = FrontierOptions(
        presets=("causal", "dynamic"),
        both=("size=tiny", "causal:encoder.normalize=running"),  # its name when these were recorded
        pretrain=("masking.block_size=6", "size.dropout=0.2"),
        pretrained=("dynamic:encoder.right_context_ms=80",),
        variants=(("quiet", "augment=none"),),
    )
    done = {s.key for s in make_plan(options) if s.kind == "finetune" and s.pretrained}
    assert done == KEPT, "recorded stages would be run again"
    sized = FrontierOptions(presets=("causal",), pretrain=("size=tiny",), scratch=("size=tiny",))
    assert only(sized, kind="finetune", pretrained=True).key == KEPT_SIZED


@pytest.mark.parametrize("name", ["pretrain", "variants"])
def test_finetuning_inherits_encoder_overrides_of_pretraining(name: str) -> None:
    override = "causal:encoder.normalize=online"
    given = (("online", override),) if name == "variants" else (override,)
    options = FrontierOptions(presets=("causal", "lookahead80"), both=("encoder.normalize=utterance",), **{name: given})
    tuned = [s for s in make_plan(options) if s.kind == "finetune"]
    online = [s for s in tuned if "encoder.normalize=online" in s.overrides]
    assert [(s.preset, s.pretrained, s.variant) for s in online] == [
        ("causal", True, "online" if name == "variants" else None)
    ]
    assert all("encoder.normalize=utterance" in s.overrides for s in tuned if s not in online)


def test_encoder_overrides_of_finetuning_take_precedence() -> None:
    pretrain = ("encoder.right_context_ms=80", "encoder.dropout=0.3")
    options = FrontierOptions(presets=("causal",), pretrain=pretrain, finetune=("encoder.right_context_ms=0",))
    overrides = only(options, kind="finetune", pretrained=True).overrides
    assert "encoder.right_context_ms=0" in overrides and "encoder.right_context_ms=80" not in overrides
    assert not any("dropout" in override for override in overrides), "dropout is the choice of each run"


def test_variant_for_one_preset_skips_the_others() -> None:
    variants = (("other", "causal:masking=multiscale", "causal:size=small"),)
    options = FrontierOptions(presets=("causal", "lookahead80"), both=("size=tiny",), variants=variants)
    assert {"masking=multiscale", "size=small"} < set(only(options, kind="pretrain", variant="other").overrides)
    assert "size=small" in only(options, kind="finetune", variant="other").overrides
    assert not any(":" in override for stage in make_plan(options) for override in stage.overrides)


def test_finetuning_of_a_variant_takes_its_encoder(
    composed: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = (("other", "encoder.normalize=online", "size.num_layers=1"),)
    options = FrontierOptions(presets=("causal",), both=("size=tiny",), variants=variants)
    overrides = list(only(options, kind="finetune", variant="other").overrides)
    cfg = composed(*overrides, "preset=causal", "encoder_from=last.ckpt")
    stored: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["encoder", "frontend", "size"]), resolve=True)
    stored["encoder"] |= {"normalize": "online", "num_layers": 1}
    monkeypatch.setattr(adoption, "read_checked", lambda path: {"streamnest": {"config": stored}})
    adopted = adoption.with_encoder_of(cfg, overrides=overrides).encoder
    assert (adopted.normalize, adopted.num_layers) == ("online", 1)


@pytest.mark.parametrize(
    "variants, message",
    [
        ((("short",),), "give a name, then overrides"),
        ((("size=small", "x=1"),), "give a name"),
        ((("one", "x=1"), ("one", "x=2")), "two variants have the same name"),
        ((("one", "seed=3"),), "use --seeds"),
    ],
)
def test_variants_without_name_or_overrides_are_refused(variants: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FrontierOptions(variants=variants)


def test_commands_pass_run_id_and_checkpoint_to_modules(tmp_path: Path) -> None:
    out = tmp_path / "a = b"
    launcher = Launcher(Records(out), threads=1)
    options = FrontierOptions(presets=("causal",), hours=(0.5,), eval_manifest="dev.jsonl")
    tuned = only(options, kind="finetune", pretrained=True)
    assert tuned.needs is not None
    command = launcher.command(tuned)
    assert command[1:4] == ["-m", "streamnest", "train"]
    assert f'encoder_from="{out}/runs/{tuned.needs.run}/checkpoints/last.ckpt"' in command
    assert {"threads=1", f"run_id={tuned.run}", "task=ctc", "data.max_hours=0.5"} < set(command)
    assert not any(override.startswith("encoder_from") for override in launcher.command(only(options, kind="pretrain")))
    assert launcher.environment()["STREAMNEST_LOGS"] == str(out)
    evaluation = launcher.command(only(options, kind="evaluate", pretrained=True))
    assert f"{out}/runs/{tuned.run}/checkpoints/last.ckpt" in evaluation
    assert evaluation[evaluation.index("--manifest") + 1] == "dev.jsonl" and "--context" not in evaluation


def test_dry_run_shows_finished_stages_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = with_configs(FrontierOptions(presets=("causal",)), ROOT / "configs")
    fill(options, Records(tmp_path))
    arguments = ["--out", str(tmp_path), "--presets", "causal", "bidirectional", "--dry_run"]
    assert main("", ROOT, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("# 10 stages, 5 of them done")
    assert lines[1] == "# [1/10] pretrain causal seed 0: done" and "encoder=causal" in lines[2]
    assert not (tmp_path / "runs").exists() and not (tmp_path / "plan.json").exists()


def test_unknown_preset_is_refused_with_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("", ROOT, ["--presets", "lookahead41"]) == 2
    assert "lookahead41: choose from bidirectional, buffered, causal" in capsys.readouterr().err


def test_training_overrides_compose(composed: Callable[..., DictConfig]) -> None:
    options = FrontierOptions(
        presets=("bidirectional", "dynamic"), hours=(0.5,), both=("size=small", "dynamic:optim.lr=2e-3")
    )
    for stage in make_plan(options):
        if stage.kind in ("pretrain", "finetune"):
            cfg = composed(*stage.overrides, f"run_id={stage.run}")
            assert cfg.task.name == {"pretrain": "pretrain", "finetune": "ctc"}[stage.kind]
            assert (cfg.size.num_layers, cfg.optim.lr) == (16, 3e-3 if stage.preset == "bidirectional" else 2e-3)
            assert cfg.data.max_hours == stage.hours
            assert cfg.trainer.max_steps == 150
            if stage.kind == "pretrain":
                assert cfg.masking.kind == {"bidirectional": "random", "dynamic": "causal"}[stage.preset]


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs") / "configs"
    shutil.copytree(ROOT / "configs", folder)
    return folder


def test_changed_config_value_changes_hashes_of_affected_stages_only(configs: Path) -> None:
    options = FrontierOptions(presets=("causal", "lookahead80"))
    before = {(s.kind, s.preset): s.key for s in make_plan(with_configs(options, configs)) if s.kind != "evaluate"}
    (configs / "masking/causal.yaml").write_text((ROOT / "configs/masking/causal.yaml").read_text() + "# a comment\n")
    data = configs / "data/sample.yaml"
    data.write_text(data.read_text().replace("num_workers: 0", "num_workers: 1"))
    encoder = configs / "encoder/lookahead80.yaml"
    encoder.write_text(encoder.read_text().replace("right_context_ms: 80", "right_context_ms: 160"))
    after = {(s.kind, s.preset): s.key for s in make_plan(with_configs(options, configs)) if s.kind != "evaluate"}
    changed = {place for place in before if before[place] != after[place]}
    assert changed == {("pretrain", "lookahead80"), ("finetune", "lookahead80")}


def test_stored_options_keep_config_digests(configs: Path) -> None:
    options = with_configs(FrontierOptions(presets=("causal",)), configs)
    again = FrontierOptions.of(json.loads(json.dumps(options.plain())))
    assert [stage.key for stage in make_plan(again)] == [stage.key for stage in make_plan(options)]
    assert all(stage.configs for stage in make_plan(again) if stage.kind in ("pretrain", "finetune"))


def test_override_without_config_file_is_refused_before_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("", ROOT, ["--out", str(tmp_path), "--presets", "causal", "--both", "size=huge"]) == 2
    error = capsys.readouterr().err
    assert "size=huge" in error and "medium" in error and not (tmp_path / "plan.json").exists()


def test_override_for_a_preset_not_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"--both lookahead80:optim\.lr=1: lookahead80 is not among --presets causal"):
        FrontierOptions(presets=("causal",), both=("lookahead80:optim.lr=1",))
    with pytest.raises(UserError, match="--variant lookahead40:size=tiny: lookahead40 is not among"):
        FrontierOptions(presets=("causal",), variants=(("one", "lookahead40:size=tiny"),))
    assert FrontierOptions(presets=("causal",), both=("causal:optim.lr=1", "data.text=a:b", "db@src:dst=x")).both

"""Errors of Hydra and Lightning become one sentence: the key, the legal values, the remedy."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from streamnest.config.compose import compose_config, config_loader
from streamnest.config.limits import _LIMITS, refuse_trainer
from streamnest.console.overrides import override, refuse_choices, refuse_overrides, with_paths_quoted
from streamnest.console.user_errors import explain
from streamnest.errors import UserError
from streamnest.training.launching import refuse

CONFIGS = Path(__file__).parents[2] / "configs"

USER_ERRORS = [
    ("experiment=nest_lrage", "did you mean nest_large"),
    ("experiment=[]", "one of librilight_60k, librilight_60k_dynamic"),
    ("encoder=[]", "one of bidirectional, buffered, causal"),
    ("debug=FAST", "did you mean fast"),
    ("experiment=", "one of librilight_60k, librilight_60k_dynamic"),
    ("+experiment=nest_lrage", "did you mean nest_large"),
    ("+experiment=nest_large", "without +"),
    ("experiment=nest_large,nest_lrage", "did you mean nest_large"),
    ("experiment=[nest_lrage]", "did you mean nest_large"),
    ("sweep=latncy", "did you mean latency"),
    ("debug=fats", "did you mean fast"),
    ("local=foo", "configs/local/foo.yaml"),
    ("encoder=lookahed40", "did you mean lookahead40"),
    ("size=base_size", "one of large, medium, small, tiny, xlarge"),
    ("encodr=causal", "did you mean encoder"),
    ("trainer.max_step=5", "did you mean max_steps"),
    ("max_steps=5", "trainer.max_steps"),
    ("optim.lr=abc", "could not be converted to Float"),
    ("task.dual_mode=1", "task.dual_mode has keys of its own: give task.dual_mode.KEY=VALUE"),
    ("encoder", "KEY=VALUE"),
    ("encoder==causal", "need quotes"),
    ("~encoder", "cannot be dropped"),
    ("~callbacks.pictres", "no such key to drop"),
    ("encoder=causal,lookahead40", "train.py -m"),
    ("logger=tensorbord", "did you mean tensorboard"),
    ("lr_find=true", "sweep=optuna searches optim.lr"),
    ("test=True", "no test stage"),
    ("hparams_search=optuna", "sweep=optuna"),
    ("seed=-1", "seed=-1 is out of range: give a number at least 0"),
    ("data.num_workers=1000000", "at least 0 and at most 1024"),
    ("threads=1000000", "at least 1 and at most 1024"),
    ("optim.betas=[0.9,1]", "optim.betas=1 is out of range"),
    ("optim.lr=nan", "optim.lr=nan is out of range: give a number above 0"),
    ("trainer.max_steps=-2", "at least 1, or -1"),
]


@pytest.mark.parametrize(("argument", "message"), USER_ERRORS, ids=[word for word, _ in USER_ERRORS])
def test_a_user_error_is_one_sentence(argument: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose_config([argument], CONFIGS, "t")
    text = str(refused.value)
    assert (
        message in text
        and "\n" not in text
        and "hydra.cc" not in text
        and "use +" not in text
        and "base_" not in text.replace(argument, "")
    )


def test_an_error_of_renaming_names_the_file_of_the_user() -> None:
    error = OSError(errno.EISDIR, "Is a directory", "/a/.b.0123.part", None, "/a/b")
    assert str(explain(error)).startswith("/a/b: Is a directory: free space, or choose another path")


def test_the_config_of_a_machine_may_be_missing() -> None:
    assert compose_config(["experiment=nest_large", "debug=fast"], CONFIGS, "t").encoder.subsampling_factor == 8
    with config_loader(CONFIGS) as loader:
        refuse_choices({"local": "default", "debug": None}, loader)
        with pytest.raises(UserError, match="latency"):
            refuse_choices({"sweep": "latncy"}, loader)


@pytest.mark.parametrize("word", ["run_id=", "run_id=.", "ckpt_path=", "init_from=' '", "encoder_from=''"])
def test_an_empty_run_or_file_name_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"{word.partition('=')[0]}=.* is empty: give a value"):
        refuse(compose_config([word], CONFIGS, "t"))
    refuse(compose_config(["init_from=.", "run_id=a/b"], CONFIGS, "t"))


def test_a_run_refuses_a_number_out_of_range() -> None:
    cfg = compose_config([], CONFIGS, "t")
    cfg.optim.lr = -1.0  # past `compose_config`, which has the same check
    with pytest.raises(UserError, match=r"optim\.lr=-1 is out of range: give a number above 0"):
        refuse(cfg)
    for words, message in (
        (["callbacks=ema", "callbacks.ema.decay=1"], r"callbacks\.ema\.decay=1 is out of range: .* below 1"),
        (["task=ctc", "task.spec_augment.time_frames=0"], r"task\.spec_augment\.time_frames=0 .* at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            compose_config(words, CONFIGS, "t")


def test_values_and_patterns_are_not_choices() -> None:
    with config_loader(CONFIGS) as loader:
        refuse_overrides(
            ["encoder=glob(look*)", "logger={}", "callbacks=[default]", "seed=choice(1,2)", "masking=causal"], loader
        )
        with pytest.raises(UserError, match="matches no choice"):
            refuse_overrides(["encoder=glob(zz*)"], loader)


def test_missing_hardware_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="finds no GPU: use trainer=cpu"):
        refuse_trainer(compose_config(["trainer=gpu"], CONFIGS, "t"))
    with pytest.raises(UserError, match="debug=fast"):
        refuse_trainer(compose_config(["+trainer.fast_dev_run=true"], CONFIGS, "t"))


@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
@pytest.mark.parametrize("begin", ["", "a/lr=0.1 #'\"\\${x}ä,"])
def test_hydra_reads_a_printed_path_as_the_path(begin: str, name: str) -> None:
    value = OverridesParser.create().parse_override(override("ckpt_path", begin + name)).value()
    assert OmegaConf.create({"ckpt_path": value}).ckpt_path == begin + name


def test_a_path_that_exists_needs_no_quotes(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1, it's #ä"
    folder.mkdir()
    words = with_paths_quoted([f"ckpt_path={folder}", "encoder=causal", "optim.lr=a=b"])
    assert words[1:] == ["encoder=causal", "optim.lr=a=b"]
    assert compose_config(words[:2], CONFIGS, "t").ckpt_path == str(folder)


def test_every_limit_names_an_existing_key() -> None:
    choices = ("quantizer=teacher", *(f"task={task}" for task in ("ctc", "rnnt", "diarization", "speaker")))
    tasks = [compose_config([choice], CONFIGS, "t") for choice in choices]

    def known(key: str) -> bool:
        parent, _, name = key.rpartition(".")
        nodes = [OmegaConf.select(cfg, parent) if parent else cfg for cfg in tasks]
        return any(node is not None and name in node for node in nodes)

    assert [key for key in _LIMITS if not key.startswith("callbacks.") and not known(key)] == []
    assert str(_LIMITS["size.dropout"]) == "at least 0 and below 1"

"""Settings with which training in pieces would not equal training on whole recordings are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from streamnest.build import build_model
from streamnest.commands import train as command
from streamnest.errors import UserError
from streamnest.training.launching import refuse
from streamnest.training.piece_checks import check_pieces


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=bidirectional"], "cannot stream: give encoder.right_context_ms"),
        (["encoder.conv_padding=symmetric"], "encoder.conv_padding=causal"),
        (["encoder.conv_norm=batch_norm"], "conv_norm=layer_norm or frozen_batch_norm"),
        (["encoder.normalize=utterance"], "normalize=utterance needs whole utterances; choose global or online"),
        (["encoder.style=regular"], "choose encoder.style=chunked and encoder.subsampling_padding=aligned"),
        (["encoder.style=delayed"], "choose encoder.style=chunked"),
        (["encoder.subsampling_padding=shifted"], "subsampling_padding=aligned"),
        (["task.dual_mode.offline_weight=1"], "dual_mode encodes whole utterances; set its weights to 0"),
        (["encoder=dynamic"], "choose an encoder with one context"),
        (["encoder=lookahead80"], "multiple of 0.12 .*the nearest are 7.92 and 8.04"),
        (["data.piece_s=0.00001"], "multiple of 0.08 .*the nearest are 0.08"),
        (["data.piece_left_s=0.04"], "data.piece_left_s=0.04 must be from 0.08 .one chunk. to 3600"),
        (["data.piece_left_s=3601"], "data.piece_left_s=3601 must be from 0.08"),
        (["data.batch_duration=5"], "data.batch_duration=5 must be at least one piece"),
        (["augment.speed.prob=0.5"], "augment.speed.prob=0.5 .*set it to 0"),
        (["augment.reverb.prob=0.5"], "augment.reverb.prob=0.5 .*set it to 0"),
        (["frontend.n_fft=4096", "frontend.window_ms=250"], "frontend.window_ms=250 must be at most 100"),
        (["data.train_manifest={a: {path: x.jsonl, weight: 2}}"], "weights of sources"),
        (["data.temperature=2"], "data.temperature are for utterances"),
        (["trainer=fsdp_cpu"], "choose trainer=ddp"),
        (["data.piece_s=0"], "data.piece_s=0 is out of range: give a number above 0"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_that_pieces_do_not_support_are_refused(
    run_config: Callable[..., DictConfig], overrides: list[str], message: str
) -> None:
    def start() -> None:
        cfg = run_config("data.piece_s=8", *overrides)
        refuse(cfg)
        check_pieces(cfg, build_model(cfg))

    with pytest.raises(UserError, match=f"(?s){message}"):
        start()


def test_the_command_checks_the_settings_of_pieces(run_config: Callable[..., DictConfig]) -> None:
    with pytest.raises(UserError, match=r"data.piece_s=8.01 trains in pieces of recordings: it must be a multiple"):
        command.train(run_config("data.piece_s=8.01", "data.num_workers=0"))


def test_other_tasks_are_refused(run_config: Callable[..., DictConfig]) -> None:
    cfg = run_config("data.piece_s=8", "task=diarization")
    with pytest.raises(UserError, match="task=diarization learns from whole utterances; choose task=pretrain"):
        check_pieces(cfg, build_model(cfg, labels={"speakers": 4}))

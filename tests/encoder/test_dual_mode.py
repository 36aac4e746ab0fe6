"""Dual mode of the encoder: an offline branch beside the streaming one, with norms of its own as an option."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from models import ready
from omegaconf import DictConfig
from recognizers import LABELS, recognizer

from streamnest.build import build_model, plain
from streamnest.checkpoint.compatibility import differences
from streamnest.encoder import FastConformer
from streamnest.encoder.context import Context
from streamnest.encoder.dual_mode import check_dual_mode
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.modes import mode_leaks
from streamnest.streaming.probes.subject import TRAINING, TRAINING_BFLOAT16, Subject
from streamnest.streaming.session import StreamingSession

Compose = Callable[..., DictConfig]
DUAL = ("task.dual_mode.offline_weight=1", "task.dual_mode.distillation_weight=0.5")
NORMS = "encoder.norms_per_mode=true"


def spoil(encoder: FastConformer, value: float) -> None:
    """Fills the norms of the offline mode."""
    for layer in encoder.layers:
        assert layer.offline_norms is not None
        for weight in layer.offline_norms.parameters():
            weight.data.fill_(value)


def test_separate_norms_change_neither_other_weights_nor_streams(run_config: Compose, speech_like: Any) -> None:
    shared, separate = (ready(run_config("encoder=lookahead40", *words)) for words in ((), (NORMS,)))
    added = [name for name in separate.state_dict() if ".offline_norms." in name]
    assert separate.state_dict().keys() - added == shared.state_dict().keys() and len(added) == 2 * 6 * 2
    assert all(torch.equal(value, separate.state_dict()[name]) for name, value in shared.state_dict().items())
    audio, lengths = speech_like(1, 24000), torch.tensor([24000])
    with torch.no_grad(), shared.encoder.offline(), separate.encoder.offline():
        outputs = shared(audio, lengths)[0]
        assert torch.equal(outputs, separate(audio, lengths)[0])
        for norm in separate.encoder.layers[0].offline_norms.children():
            norm.weight.mul_(2)
            before, outputs = outputs, separate(audio, lengths)[0]
            assert not torch.equal(outputs, before), "every norm is used"
    spoil(separate.encoder, float("nan"))
    with torch.no_grad():
        assert torch.equal(shared(audio, lengths)[0], separate(audio, lengths)[0])
        with separate.encoder.offline():
            assert separate(audio, lengths)[0].isnan().all()
    session = StreamingSession(separate)
    number = session.open()
    frames = torch.cat([session.push({number: audio[0]})[number], session.flush([number])[number]])
    assert frames.isfinite().all() and len(frames)
    assert separate.encoder.context == Context(None, 1) and not separate.encoder.is_offline


def test_the_offline_branch_sees_all_frames(run_config: Compose, speech_like: Any) -> None:
    model = ready(run_config("encoder=limited3200", "encoder.style=delayed", "encoder.right_context_ms=80"))
    audio, lengths = speech_like(1, 96000), torch.tensor([96000])
    other = torch.cat([audio[:, :48000], -audio[:, 48000:]], dim=1)
    with torch.no_grad(), model.encoder.offline():
        (one, frames), (two, _) = model(audio, lengths), model(other, lengths)
        assert (one[0, 0] != two[0, 0]).any()
    assert torch.equal(model(audio, lengths)[1], frames) and model.encoder.context.delay == 2


@pytest.mark.parametrize("task", ["pretrain", "ctc"])
def test_the_streaming_branch_depends_on_no_later_audio(
    run_config: Compose, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = run_config(f"task={task}", "encoder=lookahead40", "size.num_layers=1", "size.dropout=0.1", NORMS, *DUAL)
    model = ready(cfg) if task == "pretrain" else recognizer(cfg)
    subjects, forwards = [Subject(model), Subject(model, torch.float32)], []
    for subject in subjects:
        subject.model.encoder.register_forward_hook(lambda m, *_: forwards.append(m.is_offline))
    assert not list(mode_leaks(subjects, (TRAINING, TRAINING_BFLOAT16), futures=("loud",)))
    assert sum(forwards) == len(forwards) / 2, "both branches ran"

    @contextmanager
    def leaking(self: FastConformer) -> Iterator[None]:
        self.context = Context()  # and it stays, for the next streaming branch
        yield

    monkeypatch.setattr(FastConformer, "offline", leaking)
    assert list(mode_leaks(subjects[:1], (TRAINING,), futures=("loud",)))


def test_offline_norms_are_trained_in_dual_mode_only(run_config: Compose) -> None:
    def trained(*words: str) -> set[bool]:
        model: Pretraining = build_model(run_config("encoder=lookahead40", NORMS, *words))
        return {p.requires_grad for name, p in model.named_parameters() if ".offline_norms." in name}

    assert trained() == {False} and trained(*DUAL) == {True}


def test_configs_from_before_the_option_continue(run_config: Compose) -> None:
    now = plain(run_config("encoder=lookahead40"))
    before = {**now, "encoder": {k: v for k, v in now["encoder"].items() if k != "norms_per_mode"}}
    assert not differences(before, now)
    separate = {**now, "encoder": {**now["encoder"], "norms_per_mode": True}}
    assert differences(before, separate) == [("encoder.norms_per_mode", False, True)]


SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2, "subsampling_channels": 2}
CONTEXTS: Any = {"causal": {}, "full": {"right_context_ms": None}}
SEPARATE = {"right_context_ms": 0, "norms_per_mode": True}


@pytest.mark.parametrize(
    ("message", "weight", "delay", "settings"),
    [
        ("choose a streaming preset such as encoder=lookahead80", 1, 0, {}),
        ("offline_weight above 0, whose loss trains", 0, 0, SEPARATE),
        ("full.weight=0", 1, 0, {**SEPARATE, "contexts": CONTEXTS}),
        (r"delay_ms=50 is not .* nearest legal values are 40 and 80", 1, 50, {"right_context_ms": 0}),
    ],
)
def test_encoders_without_two_modes_are_refused(message: str, weight: int, delay: int, settings: Any) -> None:
    with pytest.raises(UserError, match=message):
        check_dual_mode(FastConformer.build(**SIZES, **settings), weight, delay)


def test_a_context_of_the_offline_mode_may_have_no_weight() -> None:
    contexts = {**CONTEXTS, "full": {"right_context_ms": None, "weight": 0}}
    assert check_dual_mode(FastConformer.build(**SIZES, **SEPARATE, contexts=contexts), 1.0, 80.0) == 2


@pytest.mark.parametrize(
    ("overrides", "labels", "message"),
    [
        (["task.dual_mode.delay_ms=80"], None, "delay_ms=80 is for task=ctc and rnnt"),
        (["objective=next_token"], None, "choose objective=masked or masked_next_token"),
        (["encoder=bidirectional"], None, "choose a streaming preset"),
        (["task=ctc", "encoder=bidirectional"], LABELS, "choose a streaming preset"),
        (["task=speaker"], {"speakers": ["a", "b"]}, "task.dual_mode is for task=pretrain, ctc and rnnt"),
        (["task=ctc", "freeze=encoder"], LABELS, "or set freeze=null"),
    ],
)
def test_tasks_without_two_modes_are_refused(
    run_config: Compose, overrides: list[str], labels: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_model(run_config("encoder=lookahead40", *DUAL, *overrides), labels=labels)

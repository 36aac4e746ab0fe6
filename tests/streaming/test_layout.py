"""Optimizations of streaming steps change neither outputs nor the model of the caller."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TINY, ready
from omegaconf import DictConfig

from streamnest import from_pretrained, save_pretrained
from streamnest.encoder.context import Context
from streamnest.streaming import StreamingSession
from streamnest.streaming.certificate import Certificate
from streamnest.streaming.pack_weights import lay_out_for_steps, packed_copy

Compose = Callable[..., DictConfig]


def test_widening_layers_are_stored_by_columns_and_keep_their_values(run_config: Compose) -> None:
    model = ready(run_config(*TINY))
    before = copy.deepcopy(model.state_dict())
    lay_out_for_steps(model)
    layer = model.encoder.layers[0]
    assert layer.feed_forward_in.expand.weight.t().is_contiguous() and layer.attention.qkv.weight.t().is_contiguous()
    assert layer.feed_forward_in.contract.weight.is_contiguous() and layer.attention.out.weight.is_contiguous()
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_sessions_share_packed_weights_without_changing_the_model(run_config: Compose) -> None:
    model = ready(run_config(*TINY)).train()
    before = {name: (x.data_ptr(), x.stride()) for name, x in model.state_dict().items()}
    first, second = (StreamingSession(model).model.encoder.layers[0] for _ in range(2))
    assert before == {name: (x.data_ptr(), x.stride()) for name, x in model.state_dict().items()} and model.training
    assert first.feed_forward_in.expand.weight.t().is_contiguous() and not first.training
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert pairs and all(x.data_ptr() == y.data_ptr() for x, y in pairs)
    model.encoder.layers[0].norm_out.bias.data.add_(1.0)
    third = packed_copy(model).encoder.layers[0]
    assert torch.equal(third.norm_out.bias, model.encoder.layers[0].norm_out.bias)
    assert not torch.equal(first.norm_out.bias, third.norm_out.bias), "earlier sessions keep their weights"


def test_a_session_calls_layers_without_module_overhead(run_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any) -> None:
        raise AssertionError("a layer norm was called as a module")

    session = StreamingSession(ready(run_config(*TINY)))
    monkeypatch.setattr(torch.nn.LayerNorm, "__call__", called)
    number = session.open()
    assert len(session.push({number: torch.randn(session.first_samples)})[number])


@pytest.mark.parametrize("limited", [True, False])
def test_masks_are_built_only_if_they_mask_something(
    run_config: Compose, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    past = "encoder.left_context_ms=160" if limited else "encoder.left_context_ms=null"
    session = StreamingSession(ready(run_config(*TINY, "encoder=lookahead40", past)), max_left_ms=160)
    built: list[int] = []
    visible = Context.visible

    def counting(context: Context, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        built.append(int(queries.max()))
        return visible(context, queries, keys)

    monkeypatch.setattr(Context, "visible", counting)
    number = session.open()
    session.push({number: torch.randn(session.first_samples)})
    for _ in range(5):
        session.push({number: torch.randn(session.chunk_samples)})
    # Chunks of two frames, four frames of left context: the cache is not full in the first two steps.
    assert built == [1, 3], "later steps use the whole cache"
    session.push({number: torch.randn(2 * session.chunk_samples)})
    assert built[2:] == [15], "the first of two chunks in a step must not depend on the second"
    session.push({number: torch.randn(session.chunk_samples // 2)})
    session.flush([number])
    assert len(built) == 4, "the end of the stream is masked"


def test_a_new_stream_is_masked_beside_an_older_one(run_config: Compose) -> None:
    model = ready(run_config(*TINY, "encoder=lookahead40", "encoder.left_context_ms=160"))
    session, alone = StreamingSession(model), StreamingSession(model)
    old, audio = session.open(), torch.randn(session.first_samples + 6 * session.chunk_samples)
    session.push({old: torch.randn(session.first_samples + 5 * session.chunk_samples)})
    young, single = session.open(), alone.open()
    pieces = [audio[: session.first_samples], *audio[session.first_samples :].split(session.chunk_samples)]
    for piece in pieces:
        noise = torch.randn(session.chunk_samples)
        together = session.push({old: noise, young: piece})[young]
        torch.testing.assert_close(together, alone.push({single: piece})[single], atol=1e-5, rtol=0)


def test_a_model_built_in_inference_mode_streams(run_config: Compose) -> None:
    with torch.inference_mode():
        session = StreamingSession(ready(run_config(*TINY)))
        number = session.open()
        frames = session.push({number: torch.randn(session.first_samples)})[number]
    assert torch.isfinite(frames).all()


def test_packed_weights_are_contiguous_and_packed_once(run_config: Compose) -> None:
    model = ready(run_config(*TINY))
    lay_out_for_steps(model)
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    starts = [weight.data_ptr() for weight in weights]
    sizes = [weight.numel() * weight.element_size() for weight in weights]
    assert starts == [starts[0] + sum(sizes[:n]) for n in range(len(sizes))]
    lay_out_for_steps(model)
    assert [weight.data_ptr() for weight in weights] == starts, "packing again moves nothing"


def test_a_streamed_model_can_be_saved_copied_and_trained(
    run_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamnest.checkpoint.hub.verify", lambda model: Certificate(model.latency))
    model = ready(run_config(*TINY))
    model = StreamingSession(model).model
    save_pretrained(model, tmp_path / "saved")
    again, copied = from_pretrained(tmp_path / "saved"), copy.deepcopy(model)
    audio, length = torch.randn(1, 16000), torch.tensor([16000])
    for other in (again, copied):
        assert torch.equal(other(audio, length)[0], model(audio, length)[0])
    copied.train()(audio, length)[0].square().mean().backward()
    torch.optim.SGD(copied.encoder.parameters(), lr=0.1).step()
    assert not torch.equal(copied(audio, length)[0], model(audio, length)[0])
    assert torch.equal(again(audio, length)[0], model(audio, length)[0])


def test_frames_and_saved_states_can_be_used_for_training(run_config: Compose) -> None:
    session = StreamingSession(ready(run_config(*TINY)))
    number = session.open()
    frames = session.push({number: torch.randn(session.first_samples)})[number]
    saved: list[Any] = [session.save(number)["state"]]
    weight = torch.ones(frames.shape[-1], requires_grad=True)
    (frames @ weight).sum().backward()
    while saved:
        part = saved.pop()
        saved += part if isinstance(part, list) else []
        assert isinstance(part, list) or not part.is_inference()
    assert weight.grad is not None and not frames.is_inference()

"""Gradients of training in pieces equal those of training on whole recordings, up to the cut at the seam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from recordings import PRESETS, batches, built, encoded, pieces, whole_outputs
from torch import Tensor, nn

from streamnest.encoder.state import map_state
from streamnest.pieces import carried
from streamnest.pretraining import Pretraining

Compose = Callable[..., DictConfig]
Gradients = dict[str, Tensor]


def gradients(model: Pretraining) -> Gradients:
    found = {name: x.grad.clone() for name, x in model.encoder.named_parameters() if x.grad is not None}
    model.zero_grad()
    return found


def score(outputs: Tensor, name: str, first: int) -> Tensor:
    """Returns a sum of the frames of a recording from frame `first` on, each with weights of its own."""
    weights = torch.randn(200, outputs.shape[-1], generator=torch.Generator().manual_seed(ord(name[1])))
    return (outputs * weights[first : first + len(outputs)]).sum()


def without_gradient(seam: float, module: Any, inputs: Any, outputs: Tensor) -> Tensor:
    """Detaches the outputs before a seam, a share of the frames."""
    past, rest = outputs.split([count := round(seam * outputs.shape[1]), outputs.shape[1] - count], dim=1)
    return torch.cat([past.detach(), rest], dim=1)


@contextmanager
def cut_at(model: Pretraining, seam: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cuts the gradient of whole recordings wherever frames before a seam enter later ones."""
    subsampling, first = model.encoder.subsampling, model.encoder.subsampling._first
    modules: list[nn.Module] = [*subsampling.pointwise]
    modules += [
        part for layer in model.encoder.layers for part in (layer.attention.qkv, layer.convolution.pointwise_in)
    ]
    with ExitStack() as hooks, monkeypatch.context() as patches:
        for module in modules:
            hooks.callback(module.register_forward_hook(partial(without_gradient, seam)).remove)

        def first_stage(*inputs: Any) -> tuple[Tensor, Tensor]:
            outputs, state = first(*inputs)
            return without_gradient(seam, None, None, outputs), state

        patches.setattr(subsampling, "_first", first_stage)
        yield


@pytest.mark.parametrize("preset", ["limited", "lookahead"])
@pytest.mark.parametrize("flows", [False, True])
def test_gradients_equal_those_of_whole_recordings(
    run_config: Compose, manifest: Path, preset: str, flows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at the seam, or through all pieces if the state keeps its graph; rows begin and end at different times."""
    model, data = built(run_config(*pieces(manifest, 0.8, 2, *PRESETS[preset], "size.dropout=0")))
    model.double().train()
    if flows:
        monkeypatch.setattr(carried, "_kept", lambda after, before: after)
    begun: dict[int, tuple[str, int]] = {}
    parts: list[tuple[str, int, int, int]] = []  # recording, piece in which its stream begins, this piece, its frames
    scores = []
    for batch in batches(data, 6):
        outputs, frames = encoded(model, batch)
        assert batch.seams is not None
        for row, (name, number) in enumerate(name.rsplit("/", 1) for name in batch.ids):
            if batch.seams.first[row]:
                begun[row] = (name, int(number))
            scores.append(score(outputs[row, : int(frames[row])], name, 20 * int(number)))
            parts.append((*begun[row], int(number), int(frames[row])))
    torch.stack(scores).sum().backward()
    assert max(last - first for _, first, last, _ in parts) >= 3 and any(first for _, first, *_ in parts)
    found = gradients(model)
    for name, first, number, frames_in_piece in parts:
        length = next(cut.num_samples for cut in data._cuts["train"] if cut.id == name) - 12800 * first
        with cut_at(model, 0 if flows else 12800 * (number - first) / length, monkeypatch):
            start = 20 * (number - first)
            outputs = whole_outputs(model, data, name, 12800 * first)[start : start + frames_in_piece]
            score(outputs, name, 20 * number).backward()
    expected = gradients(model)
    assert len(expected) > 40 and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-9 * float(gradient.abs().max()))


def test_gradients_of_pieces_equal_those_of_utterances(run_config: Compose, manifest: Path) -> None:
    """Recordings fit into one piece, so that no gradient is cut; padded ends contribute nothing."""
    model, data = built(run_config(*pieces(manifest, 5.6, 4, *PRESETS["limited"], "size.dropout=0")))
    model.train()
    batch = next(batches(data, 1))
    assert batch.seams is not None and bool(batch.seams.first.all())
    gradients = []
    for one in (batch, replace(batch, seams=None)):
        model.zero_grad()
        results, _ = model.predict(one, 0)
        sum(result.loss_sum for result in results.values()).backward()  # type: ignore[union-attr]
        assert all(result.count for result in results.values())
        gradients.append({name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None})
    for name, gradient in gradients[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[0][name], gradient, rtol=0, atol=1e-3 * scale + 1e-6)


def test_gradients_and_memory_end_at_the_seam(run_config: Compose, manifest: Path) -> None:
    model, data = built(run_config(*pieces(manifest, 0.8, 3, *PRESETS["limited"], "encoder.normalize=online")))
    model.train()

    def check(x: Tensor) -> Tensor:
        assert not x.requires_grad and x.untyped_storage().nbytes() == x.nbytes
        return x

    for batch in batches(data, 3):
        loss = sum(result.loss_sum for result in model.predict(batch, batch.step)[0].values())
        loss.backward()  # type: ignore[union-attr]
        map_state(check, model.carried)


def test_checkpointed_activations_give_the_same_gradients(run_config: Compose, manifest: Path) -> None:
    cfg = run_config(*pieces(manifest, 0.8, 3, *PRESETS["limited"], "size.dropout=0"))
    (plain, data), (checkpointed, _) = built(cfg), built(cfg)
    checkpointed.encoder.activation_checkpointing = True
    for batch in batches(data, 3):
        for model in (plain, checkpointed):
            model.train().zero_grad()
            encoded(model, batch)[0].square().mean().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)  # type: ignore[arg-type]

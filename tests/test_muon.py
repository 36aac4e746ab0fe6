from __future__ import annotations

import pytest
import torch
from torch import nn

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.errors import UserError
from streamnest.muon import Muon, orthogonalized
from streamnest.optim import Optimization, require_fitting


@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)])
def test_an_orthogonalized_matrix_has_singular_values_near_one(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.linspace(1, 4, shape[1])
    )
    result = orthogonalized(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6 and values.max() < 1.25
    # The directions stay: the product with the nearest orthogonal matrix is nearly the identity.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.linalg.matrix_norm(u.t() @ result @ v.t() - torch.diag(torch.diagonal(u.t() @ result @ v.t()))) < 0.2


def parameters(*shapes):
    made = [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1))) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return made


def test_other_groups_are_updated_as_by_adamw():
    (one,), (two,) = parameters((8, 4)), parameters((8, 4))
    settings = {"lr": 0.1, "betas": (0.9, 0.98), "weight_decay": 0.1, "fused": True}
    muon = Muon([{"params": [one]}, {"params": parameters((4, 4)), "orthogonal": True}], **settings)
    adamw = torch.optim.AdamW([two], **settings)
    for _ in range(3):
        muon.step()
        adamw.step()
    assert torch.equal(one, two)


def test_updates_have_the_size_of_adamw_whatever_the_gradients():
    (large,), (small,) = parameters((96, 48)), parameters((96, 48))
    small.grad *= 1e-4
    before = large.detach().clone()
    for parameter in (large, small):
        Muon([{"params": [parameter], "orthogonal": True}], lr=0.01, weight_decay=0.0).step()
    assert torch.allclose(large, small, atol=1e-3)
    assert float((large.detach() - before).square().mean().sqrt()) == pytest.approx(0.01 * 0.2, rel=0.25)


def test_momentum_looks_ahead_and_weights_decay_by_the_rate():
    (matrix,) = parameters((12, 8))
    expected, average = matrix.detach().clone(), torch.zeros(12, 8)
    optimizer = Muon([{"params": [matrix], "orthogonal": True}], lr=0.1, momentum=0.75, weight_decay=0.5)
    for step in range(3):
        matrix.grad = torch.randn(12, 8, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        average = 0.75 * average + 0.25 * matrix.grad
        update = 0.2 * 12**0.5 * orthogonalized(0.25 * matrix.grad + 0.75 * average)
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * update
        assert torch.allclose(matrix, expected, atol=1e-4), step


def test_joint_projections_are_orthogonalized_separately():
    (joint,) = parameters((12, 4))
    parts = [nn.Parameter(part.detach().clone()) for part in joint.chunk(3)]
    for part, gradient in zip(parts, joint.grad.chunk(3)):
        part.grad = gradient.clone()
    Muon([{"params": [joint], "orthogonal": True, "parts": 3}], lr=0.1).step()
    Muon([{"params": parts, "orthogonal": True}], lr=0.1).step()
    assert torch.allclose(joint, torch.cat(parts), atol=1e-6)
    assert not torch.allclose(joint, torch.cat([parts[0]] * 3), atol=1e-3)


def test_training_continues_from_a_saved_state_bit_for_bit():
    runs = []
    for interrupted in (False, True):
        matrix, vector = parameters((6, 4), (5,))
        groups = [{"params": [matrix], "orthogonal": True}, {"params": [vector]}]
        optimizer = Muon(groups, lr=0.1)
        optimizer.step()
        if interrupted:
            state = optimizer.state_dict()
            optimizer = Muon(groups, lr=0.1)
            optimizer.load_state_dict(state)
        optimizer.step()
        runs.append(torch.cat([matrix.flatten(), vector]).detach().clone())
    assert torch.equal(*runs)


def built(**settings):
    model = nn.Module()
    model.encoder = FastConformer(EncoderConfig(d_model=16, num_layers=2, num_heads=2, subsampling_channels=8))
    model.head = nn.Linear(16, 5)
    values = {"schedule": "constant", "lr": 1.0, "min_lr": 0.0, "warmup_steps": 1, "max_steps": 10, "d_model": 16}
    how = Optimization(**values, betas=[0.9, 0.98], weight_decay=0.1, optimizer="muon", **settings)
    return model, how.build(model)[0]


def test_each_parameter_is_updated_once_and_layer_matrices_by_muon():
    model, optimizer = built(layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [(group, [names[p] for p in group["params"]]) for group in optimizer.param_groups]
    assert sorted(name for _, chosen in groups for name in chosen) == sorted(names.values())
    orthogonal = {name for group, chosen in groups if group["orthogonal"] for name in chosen}
    assert "encoder.layers.1.feed_forward_in.expand.weight" in orthogonal
    assert not any(name.startswith(("head", "encoder.subsampling")) or name.endswith("bias") for name in orthogonal)
    parts = {name: group["parts"] for group, chosen in groups for name in chosen if group["parts"] > 1}
    assert set(parts.values()) == {3} and set(parts) == {f"encoder.layers.{at}.attention.qkv.weight" for at in (0, 1)}
    rates = {name: group["lr"] for group, chosen in groups for name in chosen}
    assert rates["encoder.layers.0.attention.qkv.weight"] == 0.5 * rates["encoder.layers.1.attention.qkv.weight"]


@pytest.mark.parametrize(
    "change", [{"orthogonal": True}, {"orthogonal": "yes"}, {"parts": 0}, {"momentum": 2.0}], ids=str
)
def test_a_stored_state_that_does_not_fit_is_refused(change):
    model, optimizer = built()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    require_fitting(optimizer, None, "a.ckpt")
    optimizer.param_groups[-1].update(change)
    with pytest.raises(UserError, match=r"a\.ckpt: the (state|settings) of its optimizer"):
        require_fitting(optimizer, None, "a.ckpt")

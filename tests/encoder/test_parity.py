"""Parity with outputs and gradients of another toolkit's encoder; tests/fixtures/README.md describes the fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.interop.nemo import encoder_state_from_nemo

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["bidirectional_8x", "chunked_4x_8_1", "causal_8x_8_1", "buffered_4x_8_4_3"]
STYLES = {"regular": "regular", "chunked_limited": "chunked", "chunked_limited_with_rc": "buffered"}


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return torch.load(FIXTURES / f"encoder_{request.param}.pt", weights_only=True)


def build(args: dict[str, Any]) -> FastConformer:
    # Left and right context, with the chunk between them if the right context is encoded again.
    left, *chunk, right = (None if frames < 0 else frames * 10.0 * args["factor"] for frames in args["att"])
    return FastConformer(
        EncoderConfig(
            subsampling_factor=args["factor"],
            subsampling_padding="shifted" if args["causal_down"] else "aligned",
            subsampling_channels=args["sub_ch"],
            d_model=args["d"],
            num_layers=args["layers"],
            num_heads=args["heads"],
            left_context_ms=left,
            right_context_ms=right,
            style=STYLES[args["style"]],
            chunk_ms=chunk[0] if chunk else None,
            conv_kernel_size=args["kernel"],
            conv_padding="causal" if args["conv"] == "causal" else "symmetric",
            conv_norm=args["norm"],
        )
    ).eval()


def test_outputs_equal_the_fixture_within_1e_4(case: dict[str, Any]) -> None:
    encoder, expected = build(case["args"]), case["encoder"]
    encoder.load_state_dict(encoder_state_from_nemo(expected["state"]))
    with torch.no_grad():
        output, lengths = encoder(expected["x"], expected["lengths"])
    assert lengths.tolist() == expected["y_len"].tolist()
    # Frames past the length are undefined, and copies of right context see other padding there.
    valid = (torch.arange(output.shape[1]) < lengths[:, None])[:, None]
    torch.testing.assert_close(output.transpose(1, 2) * valid, expected["y"] * valid, rtol=0, atol=1e-4)


def test_all_gradients_equal_the_fixture_within_1e_3(case: dict[str, Any]) -> None:
    encoder, expected = build(case["args"]), case["encoder"]
    encoder.load_state_dict(encoder_state_from_nemo(expected["state"]))
    features = expected["x"].clone().requires_grad_()
    output, _ = encoder(features, expected["lengths"])
    (output.transpose(1, 2) * expected["w"]).sum().backward()
    torch.testing.assert_close(features.grad, expected["gx"], rtol=1e-3, atol=1e-3)
    gradients = encoder_state_from_nemo(expected["grads"])
    parameters = dict(encoder.named_parameters())
    assert parameters.keys() == gradients.keys()
    for name, parameter in parameters.items():
        scale = gradients[name].abs().max()
        error = (parameter.grad - gradients[name]).abs().max()
        assert error <= 1e-3 * scale + 1e-6, f"{name}: {error:.2e} of {scale:.2e}"

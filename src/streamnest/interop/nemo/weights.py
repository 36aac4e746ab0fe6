"""Conversion of FastConformer weights between NeMo and streamnest: names and layouts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_LAYER_NAMES = {
    "norm_feed_forward1": "norm_in",
    "norm_feed_forward2": "norm_ff_out",
    "norm_self_att": "norm_attention",
    "norm_conv": "norm_convolution",
    "norm_out": "norm_out",
    "feed_forward1.linear1": "feed_forward_in.expand",
    "feed_forward1.linear2": "feed_forward_in.contract",
    "feed_forward2.linear1": "feed_forward_out.expand",
    "feed_forward2.linear2": "feed_forward_out.contract",
    "self_attn.linear_out": "attention.out",
    "self_attn.linear_pos": "attention.position",
    "self_attn.pos_bias_u": "attention.content_bias",
    "self_attn.pos_bias_v": "attention.position_bias",
    "conv.pointwise_conv1": "convolution.pointwise_in",
    "conv.pointwise_conv2": "convolution.pointwise_out",
    "conv.depthwise_conv": "convolution.depthwise",
    "conv.batch_norm": "convolution.norm",
}
_NEMO_LAYER_NAMES = {name: nemo_name for nemo_name, name in _LAYER_NAMES.items()}
_PROJECTION = re.compile(r"layers\.(\d+)\.self_attn\.linear_q\.(weight|bias)")


def encoder_state_from_nemo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts the state of NeMo's `ConformerEncoder` (dw_striding) to that of `FastConformer`.

    Query, key and value projections are joined. The output projection of the subsampling is reordered, since NeMo
    flattens channels before bands, and streamnest bands before channels. Gradients are converted in the same way.
    """
    converted: dict[str, Tensor] = {}
    channels = state["pre_encode.conv.0.weight"].shape[0]
    for name, value in state.items():
        if name.startswith("pre_encode."):
            key, value = _subsampling(name, value, channels)
            converted[key] = value
        elif match := _PROJECTION.fullmatch(name):
            parts = [state[name.replace("linear_q", f"linear_{part}")] for part in "qkv"]
            converted[f"layers.{match[1]}.attention.qkv.{match[2]}"] = torch.cat(parts)
        elif ".self_attn.linear_k" not in name and ".self_attn.linear_v" not in name:
            key, value = _layer(name, value)
            converted[key] = value
    return converted


def heads_state_from_nemo(state: Mapping[str, Tensor], num_codebooks: int) -> dict[str, Tensor]:
    """Converts NeMo's `MultiSoftmaxDecoder`, where the codebook index is faster, to the heads of `MaskedPrediction`."""
    weight, bias = (state[f"decoder_layers.0.{name}"] for name in ("weight", "bias"))
    by_codebook = weight.squeeze(-1).unflatten(0, (-1, num_codebooks)).transpose(0, 1).flatten(0, 1)
    return {"weight": by_codebook, "bias": bias.unflatten(0, (-1, num_codebooks)).t().flatten()}


def _subsampling(name: str, value: Tensor, channels: int) -> tuple[str, Tensor]:
    _, module, rest = name.split(".", 2)
    if module == "out":
        if rest == "weight":
            value = value.view(len(value), channels, -1).transpose(1, 2).flatten(1)
        return f"subsampling.out.{rest}", value
    index, parameter = rest.split(".")
    if index == "0":
        return f"subsampling.first.{parameter}", value
    stage, kind = divmod(int(index) - 2, 3)
    if kind == 1 and parameter == "weight":
        value = value.flatten(1)
    return f"subsampling.{'pointwise' if kind else 'depthwise'}.{stage}.{parameter}", value


def _layer(name: str, value: Tensor) -> tuple[str, Tensor]:
    _, layer, rest = name.split(".", 2)
    module = rest if rest in _LAYER_NAMES else rest.rpartition(".")[0]
    if "pointwise_conv" in module and value.ndim == 3:
        value = value.squeeze(-1)
    return f"layers.{layer}.{_LAYER_NAMES[module]}{rest[len(module) :]}", value


def encoder_state_to_nemo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts the state of `FastConformer` to that of NeMo's `ConformerEncoder`; inverts `encoder_state_from_nemo`.

    A frozen batch norm becomes an ordinary one whose counter of batches is 0.
    """
    converted: dict[str, Tensor] = {}
    channels = len(state["subsampling.first.weight"])
    for name, value in state.items():
        if name.startswith("subsampling."):
            converted.update([_nemo_subsampling(name, value, channels)])
        elif ".attention.qkv." in name:
            _, layer, _, _, parameter = name.split(".")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                converted[f"layers.{layer}.self_attn.linear_{part}.{parameter}"] = piece
        else:
            converted.update([_nemo_layer(name, value)])
        if name.endswith("norm.running_var") and name.replace("running_var", "num_batches_tracked") not in state:
            key, _ = _nemo_layer(name, value)
            converted[key.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return {name: value.contiguous() for name, value in converted.items()}


def heads_state_to_nemo(weight: Tensor, bias: Tensor, num_codebooks: int) -> dict[str, Tensor]:
    """Converts the heads, `(codebooks * classes, d)` by codebook, to NeMo's `MultiSoftmaxDecoder`."""
    by_class = weight.unflatten(0, (num_codebooks, -1)).transpose(0, 1).flatten(0, 1)
    return {
        "decoder_layers.0.weight": by_class.unsqueeze(-1).contiguous(),
        "decoder_layers.0.bias": bias.unflatten(0, (num_codebooks, -1)).t().flatten().contiguous(),
    }


def _nemo_subsampling(name: str, value: Tensor, channels: int) -> tuple[str, Tensor]:
    _, module, rest = name.split(".", 2)
    if module == "out":
        if rest == "weight":
            value = value.view(len(value), -1, channels).transpose(1, 2).flatten(1)
        return f"pre_encode.out.{rest}", value
    if module == "first":
        return f"pre_encode.conv.0.{rest}", value
    stage, parameter = rest.split(".")
    pointwise = module == "pointwise"
    if pointwise and parameter == "weight":
        value = value[..., None, None]
    return f"pre_encode.conv.{2 + 3 * int(stage) + pointwise}.{parameter}", value


def _nemo_layer(name: str, value: Tensor) -> tuple[str, Tensor]:
    _, layer, rest = name.split(".", 2)
    module = rest if rest in _NEMO_LAYER_NAMES else rest.rpartition(".")[0]
    if "convolution.pointwise" in module and value.ndim == 2:
        value = value.unsqueeze(-1)
    return f"layers.{layer}.{_NEMO_LAYER_NAMES[module]}{rest[len(module) :]}", value

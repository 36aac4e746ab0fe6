"""NeMo config of a streamnest model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.encoder import EncoderConfig
from streamnest.errors import UserError
from streamnest.interop.nemo.context import nemo_contexts
from streamnest.interop.nemo.targets import OWN
from streamnest.masking import LiveEdgeMasking, Masking, RandomBlockMasking
from streamnest.objectives import MaskedAndNextToken, MaskedPrediction, Objective
from streamnest.pretraining import Pretraining

NEMO_VERSION = "2.5.3"
_MODULES = "nemo.collections.asr.modules."
_MODEL = "nemo.collections.asr.models.ssl_models.EncDecDenoiseMaskedTokenPredModel"


def describe(model: Pretraining, report: TransferReport) -> dict[str, Any]:
    """Builds a config of NeMo's NEST with the sizes and settings of a model.

    Args:
        model: pretraining model.
        report: report to add translated and unsupported settings to.
    """
    quantizer, masking = model.feature_quantizer, random_masking(model.masking)
    sizes = {"num_classes": quantizer.num_classes, "num_books": quantizer.num_codebooks}
    code = {**sizes, "code_dim": quantizer.code_dim, "squeeze_single": False}
    stack, mels = quantizer.stack, model.frontend.num_mels
    return {
        "sample_rate": model.frontend.sample_rate,
        **code,
        "mask_position": "pre_conv",
        "train_ds": None,
        "validation_ds": None,
        "preprocessor": _preprocessor(model, report),
        # NeMo requires one; this one does nothing.
        "spec_augment": {"_target_": f"{_MODULES}SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0},
        "masking": {"_target_": f"{_MODULES}RandomBlockMasking", "feat_in": mels, **_masking(masking, model, report)},
        "quantizer": {
            "_target_": f"{_MODULES}RandomProjectionVectorQuantizer",
            **code,
            "feat_in": mels,
            "dist_fn": "l2",
            "freeze": True,
            "combine_time_steps": stack,
        },
        "encoder": _encoder(model, report),
        "decoder": {
            "_target_": f"{_MODULES}MultiSoftmaxDecoder",
            "feat_in": model.encoder.d_model,
            "num_classes": quantizer.num_classes,
            "num_decoders": quantizer.num_codebooks,
            "squeeze_single": False,
            "use_bias": True,
        },
        "loss": {
            "_target_": "nemo.collections.asr.losses.MultiMLMLoss",
            "combine_time_steps": stack,
            "mask_threshold": getattr(heads_of(model.objective), "mask_threshold", 0.8),
            "num_decoders": quantizer.num_codebooks,
            "squeeze_single": False,
        },
        "target": _MODEL,
        "nemo_version": NEMO_VERSION,
        OWN: _own(model),
    }


def _preprocessor(model: Pretraining, report: TransferReport) -> dict[str, Any]:
    frontend, rate = model.frontend, model.frontend.sample_rate
    if frontend.kind != "nest":
        raise UserError(
            f"NeMo has no front end of frontend.kind={frontend.kind}: only frontend.kind=nest can be exported"
        )
    kinds = {"utterance": "per_feature", "none": "NA"}
    normalize: Any = kinds.get(model.encoder.normalize)
    if normalize is None:
        norm = model.input_norm
        normalize = {"fixed_mean": norm.mean.tolist(), "fixed_std": norm.std.tolist()}
        report.add(
            "differs",
            "encoder.normalize=global",
            "fixed_mean and fixed_std of each band: NeMo then accepts batches of one utterance only. The scale of a "
            "band cannot be moved into the weights, since the subsampling convolves across bands",
        )
    else:
        report.add("translated", "encoder.normalize", f"{model.encoder.normalize} becomes normalize={normalize}")
    return {
        "_target_": f"{_MODULES}AudioToMelSpectrogramPreprocessor",
        "sample_rate": rate,
        "normalize": normalize,
        "window_size": len(frontend.window) / rate,
        "window_stride": frontend.hop / rate,
        "window": "hann",
        "features": frontend.num_mels,
        "n_fft": frontend.n_fft,
        "preemph": frontend.preemphasis,
        "log": True,
        "frame_splicing": 1,
        "dither": frontend.dither,
        # Targets need whole target spans; NeMo crashes otherwise.
        "pad_to": max(16, model.quantizer.stack),
        "pad_value": 0.0,
    }


def _encoder(model: Pretraining, report: TransferReport) -> dict[str, Any]:
    encoder = model.encoder
    known = {field.name for field in fields(EncoderConfig)} - {"_target_"}
    c = EncoderConfig(**{key: value for key, value in model.config["encoder"].items() if key in known})
    shifted, frozen = c.subsampling_padding == "shifted", c.conv_norm == "frozen_batch_norm"
    report.add("kept", "encoder", f"{c.num_layers} layers of width {c.d_model}; same output for a whole utterance")
    if not shifted and encoder.context.right is not None:
        report.add(
            "differs",
            "encoder.subsampling_padding=aligned",
            "causal_downsampling=false: same output for a whole utterance, but NeMo's cache-aware streaming needs "
            "causal_downsampling=true and pads this subsampling at the end of every chunk. Stream with streamnest",
        )
    if frozen:
        report.add(
            "differs", "encoder.conv_norm=frozen_batch_norm", "batch_norm: training with NeMo changes its statistics"
        )
    if c.contexts:
        report.add("translated", "encoder.contexts", "a list of att_context_size with probabilities, without names")
    return {
        "_target_": f"{_MODULES}ConformerEncoder",
        "feat_in": c.num_mels,
        "feat_out": -1,
        "n_layers": c.num_layers,
        "d_model": c.d_model,
        "use_bias": c.bias,
        "subsampling": "dw_striding",
        "subsampling_factor": c.subsampling_factor,
        "subsampling_conv_channels": c.subsampling_channels,
        "causal_downsampling": shifted,
        "ff_expansion_factor": c.ff_expansion,
        "self_attention_model": "rel_pos",
        "n_heads": c.num_heads,
        **nemo_contexts(encoder.default_context, encoder.choices),
        "xscaling": c.scale_input,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": c.conv_kernel_size,
        "conv_norm_type": "batch_norm" if frozen else c.conv_norm,
        "conv_context_size": "causal" if c.conv_padding == "causal" else None,
        "dropout": c.dropout,
        "dropout_pre_encoder": c.dropout_input,
        "dropout_emb": 0.0,
        "dropout_att": c.dropout_attention,
        "stochastic_depth_drop_prob": 0.0,
    }


def _masking(masking: RandomBlockMasking | None, model: Pretraining, report: TransferReport) -> dict[str, Any]:
    if masking is None:
        report.add("left out", "masking", f"NeMo has no {type(model.masking).__name__}: masking is off there")
        return {"mask_prob": 0.0, "block_size": 1, "allow_overlap": True, "mask_value": 0.0}
    if isinstance(model.masking, LiveEdgeMasking):
        report.add("left out", "masking.live_edge_prob", "NeMo masks up to the end of each utterance")
    if masking.left_context_size > 0:
        report.add("left out", "masking.left_context_size", "NeMo masks the whole utterance")
    embedding = masking.mask_embedding
    fixed = None if isinstance(embedding, torch.nn.Parameter) else float(embedding[0])
    report.add("kept", "masking", "mask spans and mask embedding")
    return {
        "mask_prob": masking.mask_prob,
        "block_size": masking.block_size,
        "allow_overlap": masking.allow_overlap,
        "max_mask_ratio": masking.max_mask_ratio,
        "mask_value": fixed,
        "freeze": not embedding.requires_grad,
    }


def random_masking(masking: Masking) -> RandomBlockMasking | None:
    """Returns the random span masking, also of a live-edge masking; None for masking that NeMo does not have."""
    inner = masking.masking if isinstance(masking, LiveEdgeMasking) else masking
    return inner if isinstance(inner, RandomBlockMasking) else None


def heads_of(objective: Objective) -> MaskedPrediction | None:
    """Returns the prediction of masked frames, the only objective of NeMo; None if there is none."""
    inner = objective.masked if isinstance(objective, MaskedAndNextToken) else objective
    return inner if isinstance(inner, MaskedPrediction) else None


def _own(model: Pretraining) -> dict[str, Any]:
    """Returns settings that NeMo does not have and ignores, for an import to read."""
    norm, masked = model.target_norm, heads_of(model.objective)
    quantizer: dict[str, Any] = {"normalize": norm.kind}
    if norm.kind in ("global", "online"):
        quantizer |= {"mean": norm.mean.tolist(), "std": norm.std.tolist()}
    return {"quantizer": quantizer, "unmasked_weight": masked.weights.get("unmasked", 0.0) if masked else 0.0}

"""A model of ours as a NeMo config."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from streamnest.encoder import EncoderConfig
from streamnest.interop.ledger import Ledger
from streamnest.interop.nemo.context import nemo_contexts
from streamnest.interop.nemo.targets import OWN
from streamnest.masking import LiveEdgeMasking, Masking, RandomBlockMasking
from streamnest.objectives import MaskedAndNextToken, MaskedPrediction, Objective
from streamnest.pretraining import Pretraining

NEMO_VERSION = "2.5.3"
_MODULES = "nemo.collections.asr.modules."
_MODEL = "nemo.collections.asr.models.ssl_models.EncDecDenoiseMaskedTokenPredModel"


def describe(model: Pretraining, ledger: Ledger) -> dict[str, Any]:
    """The config of NeMo's NEST with the sizes and choices of a model.

    Args:
        model: of pretraining.
        ledger: is told what is said otherwise, and what cannot be said.
    """
    quantizer, masking = model.quantizer, blocks_of(model.masking)
    sizes = {"num_classes": quantizer.num_classes, "num_codebooks": quantizer.num_codebooks}
    code = {**sizes, "code_dim": quantizer.code_dim, "squeeze_single": False}
    stack, mels = quantizer.stack, model.frontend.num_mels
    return {
        "sample_rate": model.frontend.sample_rate,
        **code,
        "mask_position": "pre_conv",
        "train_ds": None,
        "validation_ds": None,
        "preprocessor": _preprocessor(model, ledger),
        # NeMo builds one for every model; this one does nothing.
        "spec_augment": {"_target_": f"{_MODULES}SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0},
        "masking": {"_target_": f"{_MODULES}RandomBlockMasking", "feat_in": mels, **_masking(masking, model, ledger)},
        "quantizer": {
            "_target_": f"{_MODULES}RandomProjectionVectorQuantizer",
            **code,
            "feat_in": mels,
            "dist_fn": "l2",
            "freeze": True,
            "combine_time_steps": stack,
        },
        "encoder": _encoder(model, ledger),
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


def _preprocessor(model: Pretraining, ledger: Ledger) -> dict[str, Any]:
    frontend, rate = model.frontend, model.frontend.sample_rate
    kinds = {"utterance": "per_feature", "none": "NA"}
    normalize: Any = kinds.get(model.encoder.normalize)
    if normalize is None:
        norm = model.input_norm
        normalize = {"fixed_mean": norm.mean.tolist(), "fixed_std": norm.std.tolist()}
        ledger.add(
            "differs",
            "encoder.normalize=global",
            "fixed_mean and fixed_std of each band, with which NeMo takes one utterance at a time: it refuses larger "
            "batches. A deviation a band cannot be moved into weights, since the stem convolves across bands",
        )
    else:
        ledger.add("translated", "encoder.normalize", f"{model.encoder.normalize} is normalize={normalize}")
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
        # Targets need whole blocks, and NeMo crashes on others.
        "pad_to": max(16, model.quantizer.stack),
        "pad_value": 0.0,
    }


def _encoder(model: Pretraining, ledger: Ledger) -> dict[str, Any]:
    encoder = model.encoder
    known = {field.name for field in fields(EncoderConfig)} - {"_target_"}
    c = EncoderConfig(**{key: value for key, value in model.config["encoder"].items() if key in known})
    shifted, frozen = c.subsampling_padding == "shifted", c.conv_norm == "frozen_batch_norm"
    ledger.add("kept", "encoder", f"{c.num_layers} layers of width {c.d_model}; the same output for a whole utterance")
    if not shifted and encoder.context.right is not None:
        ledger.add(
            "differs",
            "encoder.subsampling_padding=aligned",
            "causal_downsampling=false, which is the same function of a whole utterance; NeMo's cache-aware streaming "
            "wants causal_downsampling=true and pads this stem at the end of every chunk: stream it here",
        )
    if frozen:
        ledger.add("differs", "encoder.conv_norm=frozen_batch_norm", "batch_norm: training there moves its statistics")
    if c.contexts:
        ledger.add("translated", "encoder.contexts", "a list of att_context_size with probabilities; names are lost")
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


def _masking(masking: RandomBlockMasking | None, model: Pretraining, ledger: Ledger) -> dict[str, Any]:
    if masking is None:
        ledger.add("left out", "masking", f"NeMo has no {type(model.masking).__name__}: nothing is masked there")
        return {"mask_prob": 0.0, "block_size": 1, "allow_overlap": True, "mask_value": 0.0}
    if isinstance(model.masking, LiveEdgeMasking):
        ledger.add("left out", "masking.live_edge_prob", "NeMo masks up to the end of each utterance")
    if masking.left_context_size > 0:
        ledger.add("left out", "masking.left_context_size", "NeMo masks all of an utterance")
    embedding = masking.mask_embedding
    fixed = None if isinstance(embedding, torch.nn.Parameter) else float(embedding[0])
    ledger.add("kept", "masking", "blocks and mask embedding")
    return {
        "mask_prob": masking.mask_prob,
        "block_size": masking.block_size,
        "allow_overlap": masking.allow_overlap,
        "max_mask_ratio": masking.max_mask_ratio,
        "mask_value": fixed,
        "freeze": not embedding.requires_grad,
    }


def blocks_of(masking: Masking) -> RandomBlockMasking | None:
    """The masking that NeMo has, where it is one or steers one; else None."""
    inner = masking.masking if isinstance(masking, LiveEdgeMasking) else masking
    return inner if isinstance(inner, RandomBlockMasking) else None


def heads_of(objective: Objective) -> MaskedPrediction | None:
    """The prediction of masked blocks, which is the one that NeMo has; None where there is none."""
    inner = objective.masked if isinstance(objective, MaskedAndNextToken) else objective
    return inner if isinstance(inner, MaskedPrediction) else None


def _own(model: Pretraining) -> dict[str, Any]:
    """What NeMo has no word for and passes on unread, for an import to find."""
    norm, masked = model.target_norm, heads_of(model.objective)
    quantizer: dict[str, Any] = {"normalize": norm.kind}
    if norm.kind in ("global", "online"):
        quantizer |= {"mean": norm.mean.tolist(), "std": norm.std.tolist()}
    return {"quantizer": quantizer, "unmasked_weight": masked.weights.get("unmasked", 0.0) if masked else 0.0}

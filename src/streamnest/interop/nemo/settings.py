"""Translation of a NeMo config to overrides that build the same network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.errors import UserError
from streamnest.interop.nemo.context import contexts
from streamnest.interop.nemo.section import ConfigSection, report_unread

_UNNORMALIZED = (None, False, "NA", "none")
# Settings of training, memory or speed, which do not change the output of a trained encoder.
_ENCODER_WITHOUT_EFFECT = {
    "dropout_emb": "dropout of positional encodings is not supported",
    "stochastic_depth_drop_prob": "stochastic depth is not supported",
    "stochastic_depth_mode": "stochastic depth is not supported",
    "stochastic_depth_start_layer": "stochastic depth is not supported",
    "pos_emb_max_len": "positional encodings are computed for any length",
    "subsampling_conv_chunking_factor": "affects memory only",
    "use_pytorch_sdpa": "affects speed only",
    "use_pytorch_sdpa_backends": "affects speed only",
    "sync_max_audio_length": "affects speed only",
}


@dataclass
class Settings:
    """Settings of a NeMo config under their streamnest keys.

    Attributes:
        groups: choices of config groups.
        values: values by key.
        statistics: mean and standard deviation of each band, if features are normalized by fixed statistics.
        targets: True if the archive has a quantizer and heads that can be imported.
    """

    groups: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    statistics: tuple[list[float], list[float]] | None = None
    targets: bool = False


def read_settings(config: dict[str, Any], report: TransferReport) -> Settings:
    """Translates a config.

    Args:
        config: config of an archive.
        report: report to add the outcomes to.

    Raises:
        UserError: naming the key and value of a setting that is not supported, and the supported values.
    """
    settings = Settings()
    for name in ("preprocessor", "encoder"):
        if not isinstance(config.get(name), dict):
            raise UserError(f"the config has no {name} section: its class is {config.get('target', 'unknown')}")
    _frontend(ConfigSection("preprocessor", config["preprocessor"]), settings, report)
    _encoder(ConfigSection("encoder", config["encoder"]), settings, report)
    return settings


def _frontend(section: ConfigSection, settings: Settings, report: TransferReport) -> None:
    section.require_class("AudioToMelSpectrogramPreprocessor")
    rate = section.whole("sample_rate", 16000)
    window = section.get("n_window_size") or int(section.number("window_size", 0.02) * rate)
    hop = section.get("n_window_stride") or int(section.number("window_stride", 0.01) * rate)
    for key, default, supported in (
        ("window", "hann", ("hann",)),
        ("log", True, (True,)),
        ("log_zero_guard_type", "add", ("add",)),
        ("frame_splicing", 1, (1,)),
        ("exact_pad", False, (False,)),
        ("mel_norm", "slaney", ("slaney",)),
        ("lowfreq", 0, (0,)),
        ("highfreq", None, (None, 0, rate / 2)),
        ("nb_augmentation_prob", 0.0, (0,)),
        ("pad_value", 0, (0,)),
    ):
        section.require(key, default, *supported)
    for key, wanted in (("log_zero_guard_value", 2.0**-24), ("mag_power", 2.0)):
        if not math.isclose(section.number(key, wanted), wanted, rel_tol=1e-3):
            raise section.unsupported(key, section.get(key), f"{wanted:g}")
    settings.values |= {
        "frontend.sample_rate": rate,
        "frontend.num_mels": section.whole("features", 64),
        "frontend.window_ms": 1000.0 * window / rate,
        "frontend.hop_ms": 1000.0 * hop / rate,
        "frontend.n_fft": section.get("n_fft") or 2 ** math.ceil(math.log2(window)),
        "frontend.preemphasis": 0.0 if section.get("preemph", 0.97) is None else section.number("preemph", 0.97),
        "frontend.dither": section.number("dither", 1e-5),
    }
    report.add("kept", "preprocessor", "same log-mel features; its tensors are computed again")
    report.add("translated", "preprocessor.normalize", _normalization(section, settings))
    section.get("pad_to", 16)
    report.add(
        "left out", "preprocessor.pad_to", "features are not padded to a multiple, since padding has no influence"
    )
    for key in ("nb_max_freq", "rng", "use_torchaudio", "stft_exact_pad", "stft_conv"):
        section.get(key)
    report_unread(section, report)


def _normalization(section: ConfigSection, settings: Settings) -> str:
    value = section.get("normalize", "per_feature")
    if isinstance(value, dict) and {"fixed_mean", "fixed_std"} <= set(value):
        mean, std = ([float(x) for x in value[key]] for key in ("fixed_mean", "fixed_std"))
        bands = settings.values["frontend.num_mels"]
        if len(mean) != bands or len(std) != bands:
            raise section.unsupported("normalize", value, f"{bands} means and standard deviations")
        settings.statistics = mean, std
        kind, label = "global", "fixed_mean, fixed_std"
    elif value == "per_feature":
        kind, label = "utterance", value
    elif isinstance(value, (str, bool, type(None))) and value in _UNNORMALIZED:
        kind, label = "none", str(value)
    else:
        raise section.unsupported("normalize", value, "per_feature, NA, or fixed_mean and fixed_std")
    settings.values |= {"encoder.normalize": kind, "quantizer.normalize": kind}
    return f"{label} becomes encoder.normalize={kind}"


def _encoder(section: ConfigSection, settings: Settings, report: TransferReport) -> None:
    section.require_class("ConformerEncoder")
    section.require("subsampling", "striding", "dw_striding")
    section.require("self_attention_model", "rel_pos", "rel_pos")
    section.require("reduction", None, None)
    section.require("global_tokens", 0, 0)
    width, factor = section.whole("d_model"), section.whole("subsampling_factor", 4)
    section.require("feat_out", -1, -1, None, width)
    section.require("feat_in", None, settings.values["frontend.num_mels"])
    if factor < 2 or factor & (factor - 1):
        raise section.unsupported("subsampling_factor", factor, "a power of two, such as 4 or 8")
    channels = section.whole("subsampling_conv_channels", -1)
    dropout = section.number("dropout", 0.1)
    shifted = section.flag("causal_downsampling", False)
    settings.values |= {
        "size.d_model": width,
        "size.num_layers": section.whole("n_layers"),
        "size.num_heads": section.whole("n_heads", 4),
        "size.ff_expansion": section.whole("ff_expansion_factor", 4),
        "size.subsampling_channels": width if channels == -1 else channels,
        "size.bias": section.flag("use_bias", True),
        "size.scale_input": section.flag("xscaling", True),
        "size.dropout": dropout,
        "encoder.dropout_input": section.number("dropout_pre_encoder", 0.1),
        "encoder.dropout_attention": section.number("dropout_att", 0.0),
        "encoder.subsampling_factor": factor,
        "encoder.subsampling_padding": "shifted" if shifted else "aligned",
    }
    scheme = settings.values["encoder.subsampling_padding"]
    reason = f"causal_downsampling={str(shifted).lower()} is subsampling_padding={scheme}: same output"
    report.add("kept", "encoder.pre_encode", reason)
    frame_ms = factor * settings.values["frontend.hop_ms"]
    settings.values |= contexts(section, frame_ms, report)
    _convolution(section, settings, report)
    if not section.flag("untie_biases", True):
        report.add("translated", "encoder.untie_biases", "shared position biases are copied to each layer")
    for key, reason in _ENCODER_WITHOUT_EFFECT.items():
        if key in section and section.get(key):
            report.add("left out", f"encoder.{key}", reason)
    for key in ("att_context_probs", "reduction_position", "reduction_factor", "global_tokens_spacing"):
        section.get(key)
    section.get("global_attn_separate")
    report_unread(section, report)


def _convolution(section: ConfigSection, settings: Settings, report: TransferReport) -> None:
    taps = section.whole("conv_kernel_size", 31)
    past = section.get("conv_context_size")
    symmetric = [(taps - 1) // 2] * 2
    if past not in (None, "causal", [taps - 1, 0], symmetric):
        raise section.unsupported("conv_context_size", past, f"null, 'causal', {[taps - 1, 0]} or {symmetric}")
    causal = past in ("causal", [taps - 1, 0])
    if not causal and taps % 2 == 0:
        raise section.unsupported("conv_kernel_size", taps, "an odd number if conv_context_size is symmetric")
    norm = section.require("conv_norm_type", "batch_norm", "batch_norm", "layer_norm")
    streams = causal and settings.values["encoder.right_context_ms"] is not None
    name = "frozen_batch_norm" if streams and norm == "batch_norm" else norm
    settings.values |= {
        "size.conv_kernel_size": taps,
        "encoder.conv_padding": "causal" if causal else "symmetric",
        "encoder.conv_norm": name,
    }
    settings.groups["encoder"] = "causal" if streams else "bidirectional"
    if name != norm:
        report.add(
            "translated",
            "encoder.conv_norm_type",
            "batch_norm becomes conv_norm=frozen_batch_norm: same output, with statistics that training does not "
            "update, since statistics over time would see the future",
        )
        report.add("left out", "encoder.*.conv.batch_norm.num_batches_tracked", "counters of fixed statistics")

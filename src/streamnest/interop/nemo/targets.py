"""Import of quantizer, masking and heads of a NEST archive; decoders of other tasks are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.interop.nemo.section import ConfigSection, report_unread
from streamnest.interop.nemo.settings import Settings

# Section in which the export stores settings that NeMo does not have.
OWN = "streamnest"
# Values that earlier versions stored in this section; they also stored unmasked_weight as heard_weight.
_FORMER = {"running": "online"}
# Keys that are reported elsewhere, or contain nothing to import.
_UNREPORTED = {
    *("target", "nemo_version", "sample_rate", "preprocessor", "encoder", "num_classes", "num_books", "code_dim"),
    *("squeeze_single", "mask_position", "model_defaults", OWN),
}
_LEFT_OUT = {
    "optim": "training: choose optim=... and trainer=...",
    "train_ds": "data of the original run",
    "validation_ds": "data of the original run",
    "test_ds": "data of the original run",
    "spec_augment": "training: choose augment=..., or task.spec_augment for downstream tasks",
    "decoder": "head of another task: train one with task=ctc or task=rnnt, encoder_from=OUT.ckpt",
    "joint": "part of a transducer: train one with task=rnnt, encoder_from=OUT.ckpt",
    "aux_ctc": "head of a hybrid recognizer: train one with task=ctc, encoder_from=OUT.ckpt",
    "decoding": "part of a recognizer",
    "tokenizer": "part of a recognizer: downstream tasks build their own",
    "labels": "part of a recognizer: downstream tasks build their own",
    "loss": "part of a recognizer",
    "interctc": "part of a recognizer",
}


def read_targets(config: dict[str, Any], settings: Settings, report: TransferReport) -> None:
    """Adds quantizer, masking and objective to the settings: those of the archive, or new ones if it has none.

    Args:
        config: config of an archive.
        settings: settings of its encoder, to be completed.
        report: report to add the outcomes to.

    Raises:
        UserError: for values that are not supported.
    """
    reason = _unusable(config, settings)
    used = {"quantizer", "masking", "loss", "decoder"} if not reason else set()
    if reason:
        _new_targets(settings, reason, report)
    else:
        settings.targets = True
        _quantizer(ConfigSection("quantizer", config["quantizer"]), config, settings, report)
        _masking(ConfigSection("masking", config["masking"]), settings, report)
        _objective(config, settings, report)
    for key, value in config.items():
        if key not in _UNREPORTED | used and value is not None:
            report.add("left out", key, _LEFT_OUT.get(key, "not used"))


def _unusable(config: Mapping[str, Any], settings: Settings) -> str:
    """Returns the reason why targets cannot be imported; empty if they can."""
    missing = [key for key in ("quantizer", "masking", "decoder") if not isinstance(config.get(key), dict)]
    if missing:
        return f"the archive has no {' and no '.join(missing)}"
    if config.get("mask_position", "pre_conv") != "pre_conv":
        return (
            f"mask_position={config['mask_position']} quantizes the output of the subsampling instead of log-mel frames"
        )
    stack, factor = config["quantizer"].get("combine_time_steps", 1), settings.values["encoder.subsampling_factor"]
    if stack != factor:
        return f"quantizer.combine_time_steps={stack} differs from the subsampling factor {factor}"
    return ""


def _new_targets(settings: Settings, reason: str, report: TransferReport) -> None:
    offline = settings.groups["encoder"] == "bidirectional"
    settings.groups |= {"masking": "random" if offline else "causal", "quantizer": "nest"}
    # Targets may depend on the future, and they collapse without normalization.
    settings.values["quantizer.normalize"] = "utterance"
    report.add("new", "quantizer, mask embedding, heads", f"{reason}: initialized at random for further pretraining")


def _quantizer(section: ConfigSection, config: dict[str, Any], settings: Settings, report: TransferReport) -> None:
    section.require("feat_in", settings.values["frontend.num_mels"], settings.values["frontend.num_mels"])
    section.require("time_ahead", False, False)
    distance = section.require("dist_fn", "cosine", "l2", "cosine")
    settings.groups["quantizer"] = "nest"
    settings.values |= {
        "quantizer.num_classes": section.whole("num_classes"),
        "quantizer.num_codebooks": section.whole("num_books"),
        "quantizer.code_dim": section.whole("code_dim"),
    }
    own = ConfigSection(f"{OWN}.quantizer", ConfigSection(OWN, config.get(OWN)).get("quantizer"))
    normalize = own.get("normalize", settings.values["encoder.normalize"])
    settings.values["quantizer.normalize"] = _FORMER.get(normalize, normalize)
    report.add(
        "kept",
        "quantizer",
        f"projection and codebooks in float32; the nearest code by {distance} has the largest dot product",
    )
    for key in ("combine_time_steps", "freeze", "squeeze_single"):
        section.get(key)
    report_unread(section, report)


def _masking(section: ConfigSection, settings: Settings, report: TransferReport) -> None:
    settings.groups["masking"] = "random"
    value = section.get("mask_value")
    settings.values |= {
        "masking.mask_prob": section.number("mask_prob", 0.5),
        "masking.block_size": section.whole("block_size", 48),
        "masking.mask_value": None if value is None else section.number("mask_value"),
        "masking.freeze": section.flag("freeze", True),
        "masking.allow_overlap": section.flag("allow_overlap", False),
        "masking.max_mask_ratio": section.number("max_mask_ratio", 0.8),
    }
    report.add("kept", "masking", "masking=random with its embedding; same distribution of masks")
    section.get("feat_in")
    report_unread(section, report)


def _objective(config: dict[str, Any], settings: Settings, report: TransferReport) -> None:
    loss, decoder = ConfigSection("loss", config.get("loss")), ConfigSection("decoder", config["decoder"])
    own = ConfigSection(OWN, config.get(OWN))
    settings.groups["objective"] = "masked"
    settings.values |= {
        "objective.mask_threshold": loss.number("mask_threshold", 0.8),
        "objective.unmasked_weight": own.number("unmasked_weight", own.number("heard_weight", 0.0)),
    }
    bias = decoder.flag("use_bias", False)
    report.add("kept", "decoder, loss", "heads of objective=masked" + ("" if bias else "; biases are 0"))
    for section in (loss, decoder):
        for key in ("combine_time_steps", "num_decoders", "squeeze_single", "feat_in", "num_classes", "init_mode"):
            section.get(key)
        report_unread(section, report)

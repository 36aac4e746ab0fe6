"""What an archive predicts: its quantizer, masks and heads, or another task's decoder that stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamnest.interop.ledger import Ledger
from streamnest.interop.nemo.section import Section, note_unasked
from streamnest.interop.nemo.settings import Settings

# Where our export notes what NeMo has no word for.
OWN = "streamnest"
# Said elsewhere, or nothing that could be carried over.
_SILENT = {
    *("target", "nemo_version", "sample_rate", "preprocessor", "encoder", "num_classes", "num_codebooks", "code_dim"),
    *("squeeze_single", "mask_position", "model_defaults", OWN),
}
_LEFT_OUT = {
    "optim": "of training: choose optim=... and trainer=... of this run",
    "train_ds": "data of the other run",
    "validation_ds": "data of the other run",
    "test_ds": "data of the other run",
    "spec_augment": "augmentation of training: augment=..., and task.spec_augment for tasks with labels",
    "decoder": "of another task: task=ctc and task=rnnt train a head on this encoder, encoder_from=OUT.ckpt",
    "joint": "of a transducer: task=rnnt trains its own, encoder_from=OUT.ckpt",
    "aux_ctc": "of a hybrid recogniser: task=ctc trains its own, encoder_from=OUT.ckpt",
    "decoding": "of a recogniser",
    "tokenizer": "of a recogniser: tasks with labels make their own",
    "labels": "of a recogniser: tasks with labels make their own",
    "loss": "of a recogniser",
    "interctc": "of a recogniser",
}


def read_targets(config: dict[str, Any], settings: Settings, ledger: Ledger) -> None:
    """Adds quantizer, masking and objective to the settings: those of the archive, or new ones where it has none.

    Args:
        config: of the archive.
        settings: of its encoder.
        ledger: is told what became of the rest.

    Raises:
        UserError: for values that cannot be had here.
    """
    why = _unusable(config, settings)
    used = {"quantizer", "masking", "loss", "decoder"} if not why else set()
    if why:
        _new_targets(settings, why, ledger)
    else:
        settings.targets = True
        _quantizer(Section("quantizer", config["quantizer"]), config, settings, ledger)
        _masking(Section("masking", config["masking"]), settings, ledger)
        _objective(config, settings, ledger)
    for key, value in config.items():
        if key not in _SILENT | used and value is not None:
            ledger.add("left out", key, _LEFT_OUT.get(key, "nothing here has a use for it"))


def _unusable(config: Mapping[str, Any], settings: Settings) -> str:
    """Why there are no targets to carry over; empty where there are."""
    missing = [key for key in ("quantizer", "masking", "decoder") if not isinstance(config.get(key), dict)]
    if missing:
        return f"the archive has no {' and no '.join(missing)}"
    if config.get("mask_position", "pre_conv") != "pre_conv":
        return f"mask_position={config['mask_position']} quantises what the stem gives, here log-mel blocks are"
    stack, factor = config["quantizer"].get("combine_time_steps", 1), settings.values["encoder.subsampling_factor"]
    if stack != factor:
        return f"quantizer.combine_time_steps={stack}, but a target stands for an encoder frame of {factor}"
    return ""


def _new_targets(settings: Settings, why: str, ledger: Ledger) -> None:
    offline = settings.groups["encoder"] == "bidirectional"
    settings.groups |= {"masking": "random" if offline else "causal", "quantizer": "nest"}
    # Targets may see the future, and without normalisation they collapse.
    settings.values["quantizer.normalize"] = "utterance"
    ledger.add("new", "quantizer, mask embedding, heads", f"{why}: drawn at random, for pretraining to go on with")


def _quantizer(section: Section, config: dict[str, Any], settings: Settings, ledger: Ledger) -> None:
    section.require("feat_in", settings.values["frontend.num_mels"], settings.values["frontend.num_mels"])
    section.require("time_ahead", False, False)
    distance = section.require("dist_fn", "cosine", "l2", "cosine")
    settings.groups["quantizer"] = "nest"
    settings.values |= {
        "quantizer.num_classes": section.whole("num_classes"),
        "quantizer.num_codebooks": section.whole("num_codebooks"),
        "quantizer.code_dim": section.whole("code_dim"),
    }
    own = Section(f"{OWN}.quantizer", Section(OWN, config.get(OWN)).get("quantizer"))
    settings.values["quantizer.normalize"] = own.get("normalize", settings.values["encoder.normalize"])
    ledger.add("kept", "quantizer", f"projection and codes, now float32; nearest by {distance} is nearest by product")
    for key in ("combine_time_steps", "freeze", "squeeze_single"):
        section.get(key)
    note_unasked(section, ledger)


def _masking(section: Section, settings: Settings, ledger: Ledger) -> None:
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
    ledger.add("kept", "masking", "masking=random with its embedding; masks of the same distribution")
    section.get("feat_in")
    note_unasked(section, ledger)


def _objective(config: dict[str, Any], settings: Settings, ledger: Ledger) -> None:
    loss, decoder = Section("loss", config.get("loss")), Section("decoder", config["decoder"])
    settings.groups["objective"] = "masked"
    settings.values |= {
        "objective.mask_threshold": loss.number("mask_threshold", 0.8),
        "objective.unmasked_weight": Section(OWN, config.get(OWN)).number("unmasked_weight", 0.0),
    }
    bias = decoder.flag("use_bias", False)
    ledger.add("kept", "decoder, loss", "the heads of objective=masked" + ("" if bias else "; their biases are new: 0"))
    for section in (loss, decoder):
        for key in ("combine_time_steps", "num_decoders", "squeeze_single", "feat_in", "num_classes", "init_mode"):
            section.get(key)
        note_unasked(section, ledger)

"""Hydra overrides of the training stages of a frontier."""

from __future__ import annotations

from collections.abc import Sequence

from streamnest.frontier.options import FrontierOptions, merge, setting_of

# Live-edge masks are for streaming encoders.
_OF_PRESET = {"bidirectional": ("masking=random",)}
# Encoder settings that every run chooses itself, with a pretrained encoder as well.
_OF_EACH_RUN = ("dropout", "activation_checkpointing")


def pretraining_overrides(
    options: FrontierOptions, preset: str, seed: int, variant: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the overrides of a pretraining run; those of a variant come last and are for this preset already."""
    first = (f"encoder={preset}", f"seed={seed}", "logger=csv")
    fixed = (*first, "masking=causal", *_OF_PRESET.get(preset, ()), options.pretrain_length)
    return merge([*fixed, *_given(options, preset, "both", "pretrain"), *variant])


def finetuning_overrides(
    options: FrontierOptions, preset: str, seed: int, hours: float | None, pretraining: Sequence[str] | None
) -> tuple[str, ...]:
    """Returns the overrides of a fine-tuning run.

    Args:
        options: options of the frontier.
        preset: encoder preset.
        seed: seed of the run.
        hours: label budget; None is all labels.
        pretraining: overrides that the encoder was pretrained with; None trains from scratch.
    """
    first = ("task=ctc", f"encoder={preset}", f"seed={seed}", "logger=csv")
    budget = (options.finetune_length, *(() if hours is None else (f"data.max_hours={hours:g}",)))
    groups = ("finetune", "scratch" if pretraining is None else "pretrained")
    overrides = merge([*first, *budget, *_given(options, preset, "both", *groups)])
    return (
        overrides if pretraining is None else _as_pretrained(overrides, pretraining, _given(options, preset, *groups))
    )


def _as_pretrained(overrides: Sequence[str], pretraining: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Adds the encoder settings of pretraining to overrides of fine-tuning, unless its own options set them.

    `encoder=PRESET` takes normalization, context and convolutions from the preset, not from the checkpoint. Sizes come
    with the checkpoint; if fine-tuning sets one, it must be that of the checkpoint.
    """
    set_here = {setting_of(override) for override in own}
    kept = [one for one in pretraining if _in_group("encoder.", one) and setting_of(one) not in set_here]
    sized = any(_sets_size(override) for override in overrides)
    return merge([*overrides, *kept, *(one for one in pretraining if sized and _sets_size(one))])


def _given(options: FrontierOptions, preset: str, *names: str) -> list[str]:
    """Returns the overrides for a preset from the named options."""
    return options.for_preset([override for name in names for override in getattr(options, name)], preset)


def _sets_size(override: str) -> bool:
    return setting_of(override) == "size" or _in_group("size.", override)


def _in_group(group: str, override: str) -> bool:
    setting = setting_of(override)
    return setting.startswith(group) and not setting.removeprefix(group).startswith(_OF_EACH_RUN)

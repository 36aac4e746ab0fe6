"""The overrides of train.py that make the training stages of a frontier."""

from __future__ import annotations

from collections.abc import Sequence

from streamnest.frontier.options import Options, merge, setting_of

# Masks at a live edge are for encoders that have one.
_OF_PRESET = {"bidirectional": ("masking=random",)}
# What each run decides for itself, also on the encoder of a checkpoint.
_OF_EACH_RUN = ("dropout", "activation_checkpointing")


def pretraining_words(options: Options, preset: str, seed: int, variant: Sequence[str] = ()) -> tuple[str, ...]:
    """Of pretraining; those of a variant are the last, and for this preset already."""
    begin = (f"encoder={preset}", f"seed={seed}", "logger=csv")
    steps = f"trainer.max_steps={options.pretrain_steps}"
    words = (*begin, "masking=causal", *_OF_PRESET.get(preset, ()), steps)
    return merge([*words, *_given(options, preset, "both", "pretrain"), *variant])


def recognition_words(
    options: Options, preset: str, seed: int, hours: float | None, pretraining: Sequence[str] | None
) -> tuple[str, ...]:
    """Of a fine-tune.

    Args:
        options: of the frontier.
        preset: of the encoder.
        seed: of the run.
        hours: label budget; None is all.
        pretraining: the words that its encoder was pretrained with; None is from scratch.
    """
    begin = ("task=ctc", f"encoder={preset}", f"seed={seed}", "logger=csv")
    budget = (f"trainer.max_steps={options.finetune_steps}", *(() if hours is None else (f"data.max_hours={hours:g}",)))
    own = ("finetune", "scratch" if pretraining is None else "pretrained")
    words = merge([*begin, *budget, *_given(options, preset, "both", *own)])
    return words if pretraining is None else _as_pretrained(words, pretraining, _given(options, preset, *own))


def _as_pretrained(words: Sequence[str], pretraining: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Words of a fine-tune and what pretraining said of the encoder, unless those of its own say otherwise.

    `encoder=PRESET` takes normalisation, context and convolutions from the preset and not from the checkpoint. Sizes
    come with the checkpoint; a fine-tune that names one has to name that of the checkpoint.
    """
    said = {setting_of(word) for word in own}
    kept = [word for word in pretraining if _is_about("encoder.", word) and setting_of(word) not in said]
    sized = any(_names_size(word) for word in words)
    return merge([*words, *kept, *(word for word in pretraining if sized and _names_size(word))])


def _given(options: Options, preset: str, *names: str) -> list[str]:
    """Words of the options named that are for this preset."""
    return options.for_preset([word for name in names for word in getattr(options, name)], preset)


def _names_size(word: str) -> bool:
    return setting_of(word) == "size" or _is_about("size.", word)


def _is_about(group: str, word: str) -> bool:
    setting = setting_of(word)
    return setting.startswith(group) and not setting.removeprefix(group).startswith(_OF_EACH_RUN)

"""Training settings of `task=ctc`: weights of the loss terms, masks of two views, and supervised layers."""

from __future__ import annotations

from dataclasses import replace

from streamnest.config.tasks import CTCConfig
from streamnest.errors import UserError


def term_weights(settings: CTCConfig) -> dict[str, float]:
    """Returns the weights of the terms of the training loss that are above 0, by the name of the term."""
    labels = 1.0 - settings.label_smoothing
    share = settings.intermediate_weight if settings.intermediate_layers else 0.0
    weights = {
        "loss": labels * (1.0 - share),
        "intermediate": labels * share,
        "smoothing": settings.label_smoothing,
        "consistency": settings.consistency_weight,
        "distillation": settings.teacher_weight if settings.teacher else 0.0,
    }
    return {name: weight for name, weight in weights.items() if weight > 0 or name == "loss"}


def describe_loss(settings: CTCConfig) -> str:
    """Returns the training loss as a formula."""
    layers = ", ".join(map(str, settings.intermediate_layers))
    names = {
        "loss": "CTC",
        "intermediate": f"CTC after layer {layers}",
        "smoothing": "divergence from uniform",
        "consistency": "consistency of two views",
        "distillation": f"divergence from the teacher {settings.teacher}",
    }
    weights = term_weights(settings)
    return " + ".join(names[name] if weight == 1 else f"{weight:g} x {names[name]}" for name, weight in weights.items())


def with_time_masks(settings: CTCConfig) -> CTCConfig:
    """Returns settings with the amount of time masking that two views need.

    Raises:
        UserError: if it is more than all frames.
    """
    masks, scale = settings.spec_augment, settings.consistency_time_scale
    if settings.consistency_weight <= 0:
        return settings
    if masks.time_prob * scale > 1:
        raise UserError(
            f"task.spec_augment.time_prob={masks.time_prob:g} times task.consistency_time_scale={scale:g} is above 1: "
            "lower one of them"
        )
    return replace(settings, spec_augment=replace(masks, time_prob=masks.time_prob * scale))


def intermediate_layers(settings: CTCConfig, num_layers: int, frozen: bool) -> list[int]:
    """Returns the indices of the layers with an intermediate CTC loss, in order.

    Args:
        settings: their `intermediate_layers` count from 1.
        num_layers: layers of the encoder.
        frozen: True if the encoder is not trained.

    Raises:
        UserError: for layers that the encoder does not have, the last layer, and a frozen encoder.
    """
    layers = settings.intermediate_layers
    if "intermediate" not in term_weights(settings):
        return []
    if frozen:
        raise UserError(f"task.intermediate_layers={layers} trains the encoder: leave it out, or set freeze=null")
    if wrong := [layer for layer in layers if not 1 <= layer < num_layers]:
        legal = f"choose from 1 to {num_layers - 1}" if num_layers > 1 else "the encoder has one layer only"
        raise UserError(
            f"task.intermediate_layers={layers}: {wrong[0]} is not below the last of {num_layers} layers: {legal}"
        )
    if len(set(layers)) < len(layers):
        raise UserError(f"task.intermediate_layers={layers} names a layer twice: give each layer once")
    return [layer - 1 for layer in sorted(layers)]

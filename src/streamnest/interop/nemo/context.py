"""Conversion of attention contexts: encoder frames in NeMo (-1 for unlimited), milliseconds here."""

from __future__ import annotations

from typing import Any

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.encoder.context import Context
from streamnest.encoder.context_choices import ContextChoices
from streamnest.errors import UserError
from streamnest.interop.nemo.section import ConfigSection

_STYLES = {"regular": "regular", "chunked_limited": "chunked"}


def contexts(section: ConfigSection, frame_ms: float, report: TransferReport) -> dict[str, Any]:
    """Reads context, style and choices of contexts of an encoder, by their streamnest keys.

    Args:
        section: encoder section of the NeMo config.
        frame_ms: stride of the encoder.
        report: report to add the translation to.

    Raises:
        UserError: for values that are not contexts.
    """
    if section.get("att_context_style") == "chunked_limited_with_rc":
        raise UserError(
            f"{section.name}.att_context_style=chunked_limited_with_rc in the archive is not supported: its look-ahead "
            "adds up over layers, and encoder.style=buffered computes another function (docs/BUFFERED.md)"
        )
    style = _STYLES[section.require("att_context_style", "regular", *_STYLES)]
    sizes = section.get("att_context_size") or [-1, -1]
    pairs = sizes if isinstance(sizes[0], list) else [sizes]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair) for pair in pairs):
        raise section.unsupported("att_context_size", sizes, "a pair of whole numbers, or a list of such pairs")
    limits = [tuple(None if frames < 0 else frames * frame_ms for frames in pair) for pair in pairs]
    left, right = limits[0]
    several: dict[str, dict[str, Any]] = {}
    if len(pairs) > 1:
        weights = section.get("att_context_probs") or [1.0] * len(pairs)
        if len(weights) != len(pairs):
            raise section.unsupported("att_context_probs", weights, f"{len(pairs)} numbers")
        for (past, future), weight in zip(limits, weights, strict=True):
            choice = several.setdefault(
                _name(past, future), {"left_context_ms": past, "right_context_ms": future, "weight": 0.0}
            )
            choice["weight"] += float(weight)
        reason = f"{len(pairs)} contexts are encoder.contexts: {', '.join(several)}; the first is the default"
        report.add("translated", "encoder.att_context_size", reason)
    else:
        reason = f"{pairs[0]} frames of {frame_ms:g} ms, {style}"
        report.add("translated", "encoder.att_context_size", reason)
    return {
        "encoder.left_context_ms": left,
        "encoder.right_context_ms": right,
        "encoder.style": style,
        "encoder.contexts": several,
    }


def nemo_contexts(default: Context, choices: ContextChoices) -> dict[str, Any]:
    """Returns `att_context_size`, `att_context_probs` and `att_context_style` for contexts; the default comes first."""
    weights = {_pair(default): 0.0}
    for context, weight in zip(choices.by_name.values(), choices.weights, strict=True):
        weights[_pair(context)] = weights.get(_pair(context), 0.0) + weight
    first, *others = weights
    pairs = [first, *sorted(others, key=weights.__getitem__)]
    several = len(pairs) > 1
    # NeMo allows an unlimited right context in chunks only among several contexts; alone, both styles are the same.
    chunked = default.style == "chunked" and (several or default.right is not None)
    sizes = [list(pair) for pair in pairs]
    return {
        "att_context_size": sizes if several else sizes[0],
        "att_context_probs": _shares([weights[pair] for pair in pairs]) if several else None,
        "att_context_style": "chunked_limited" if chunked else "regular",
    }


def _pair(context: Context) -> tuple[int, int]:
    left, right = (-1 if frames is None else frames for frames in (context.left, context.right))
    return left, right


def _shares(weights: list[float]) -> list[float]:
    """Normalizes weights, the largest of which is last, to a sum of exactly 1, which NeMo requires."""
    shares = [weight / sum(weights) for weight in weights[:-1]]
    return [*shares, 1.0 - sum(shares)]


def _name(left: float | None, right: float | None) -> str:
    """Returns the name of a context in the style of `configs/encoder/dynamic.yaml`."""
    ahead = "full" if right is None else f"lookahead{right:g}" if right else "causal"
    return ahead if left is None else f"{ahead}_left{left:g}"

"""Titles, units and directions of metrics."""

from __future__ import annotations

_TITLES = {
    "gain": "below unigram (nats)",
    "perplexity": "code perplexity",
    "rank": "effective rank",
    **{name: name.upper() for name in ("cer", "wer", "der", "eer")},
}
_LONG = {
    "cer": "character error rate",
    "wer": "word error rate",
    "der": "diarization error rate",
    "eer": "equal error rate",
    "loss": "validation loss (nats)",
    "gain": "distance to the unigram baseline (nats)",
}
_SHARES = ("accuracy", "cer", "wer", "der", "eer")
_COUNTS = ("perplexity", "codes_used", "rank")
# Higher is better for these metrics; for all others, losses and error rates, lower is.
_RISING = ("gain", "accuracy", "rank", "perplexity", "codes_used")


def rises(metric: str) -> bool:
    """Returns whether higher values of a metric are better."""
    return _name(metric).startswith(_RISING)


def title(metric: str) -> str:
    """Returns the short title of a metric, with its unit: `val/cer` is CER, `val/loss` is loss (nats)."""
    name = _name(metric)
    unit = " (nats)" if name.startswith(("loss", "gain")) and name not in _TITLES else ""
    return _TITLES.get(name, name.replace("_", " ")) + unit


def axis_label(metric: str) -> str:
    """Returns the label of an axis: `val/cer` is `character error rate (%)`."""
    label = _LONG.get(_name(metric), title(metric))
    return f"{label} (%)" if is_share(metric) else label


def is_distance(metric: str) -> bool:
    """Returns whether a metric is a distance to a baseline, which may be 0, so that relative changes mean little."""
    return _name(metric).startswith("gain")


def is_share(metric: str) -> bool:
    """Returns whether a metric is shown in percent."""
    return _name(metric).startswith(_SHARES)


def figure(metric: str, value: float | None) -> str:
    """Formats the value of a metric; empty for None."""
    if value is None:
        return ""
    if is_share(metric):
        return f"{value:.1%}"
    return f"{value:.0f}" if metric.endswith(_COUNTS) else f"{value:.3f}"


def _name(metric: str) -> str:
    return metric.rpartition("/")[2]

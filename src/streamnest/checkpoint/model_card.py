"""Model card of a folder to share: how to use the model, its results, its certificate and its license."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamnest import __version__
from streamnest.config.stored import task_name
from streamnest.curves.metrics import figure, title
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.formatting import markdown_table, milliseconds
from streamnest.streaming.certificate import Certificate

# Metrics of each task by their names on model hubs.
_METRICS = {
    "pretrain": ["accuracy"],
    "ctc": ["cer", "wer"],
    "rnnt": ["cer", "wer"],
    "diarization": ["der"],
    "speaker": ["eer"],
}
_PIPELINES = {"ctc": "automatic-speech-recognition", "rnnt": "automatic-speech-recognition"}
# Metrics of a validation that belong on a card, in this order.
_VALIDATED = ("loss", "gain", "accuracy", "cer", "wer", "der", "eer", "perplexity", "rank")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][\w./+-]*")


@dataclass(frozen=True)
class CardFacts:
    """Facts on a card that a checkpoint does not contain.

    Attributes:
        license: identifier of the license of the weights, such as `cc-by-4.0`.
        languages: language codes, such as `en`.
        datasets: names of the training data.
        results: values by name, such as `{"WER, test-clean": "4.1 %"}`.

    Raises:
        UserError: for an identifier with other characters than letters, digits and `._-/+`.
    """

    license: str | None = None
    languages: Sequence[str] = ()
    datasets: Sequence[str] = ()
    results: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {"license": [self.license or "none"], "language": self.languages, "dataset": self.datasets}
        for name, values in named.items():
            for value in values:
                if not _IDENTIFIER.fullmatch(value):
                    raise UserError(f"{name}={value!r} must be an identifier of letters, digits and ._-/+")


def last_validation(checkpoint: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of the last validation before a checkpoint was written; empty if it has none."""
    try:
        last = {str(name): float(value) for name, value in checkpoint["callbacks"]["ValHistory"]["records"][-1].items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return {}
    known = [name for name in ("step", "hours", *(f"val/{metric}" for metric in _VALIDATED)) if name in last]
    return {name: last[name] for name in known}


def validation_results(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Returns the last validation of a checkpoint as results of a card."""
    last = last_validation(checkpoint)
    when = f"validation at step {last['step']:.0f}" if "step" in last else "validation"
    when += f", {last['hours']:.2f} h of audio" if "hours" in last else ""
    return {f"{title(name)}, {when}": figure(name, last[name]) for name in last if name.startswith("val/")}


def card(
    model: EncoderTask, name: str, certificates: Mapping[str | None, Certificate], facts: CardFacts | None = None
) -> str:
    """Returns the card of a model as Markdown.

    Args:
        model: described model.
        name: name of the model, which `from_pretrained` on the card takes.
        certificates: certificates by context, as `save_pretrained` returns them.
        facts: license, languages, data and results.
    """
    facts = facts or CardFacts()
    encoder, latency = model.encoder, model.latency
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    task = task_name(model.config)
    streams = "It streams." if latency.streams else "It needs whole utterances and does not stream."
    lines = [
        *_fields(task, latency.streams, facts),
        f"# {name}",
        "",
        f"A FastConformer of streamnest {__version__}, task `{task}`: {parameters:.1f}M parameters "
        f"in {len(encoder.layers)} layers, a frame of {encoder.d_model} values per {encoder.frame_ms:g} ms of audio at "
        f"{model.frontend.sample_rate} Hz. {streams}",
        "",
        *_use(name),
        "",
        *_results(facts),
    ]
    for context, certificate in certificates.items():
        lines += ["", *_certificate(context, certificate)]
    return "\n".join([*lines, "", *_license(facts)]) + "\n"


def _fields(task: str, streams: bool, facts: CardFacts) -> list[str]:
    """Returns the fields that a model hub reads; those that are unknown are comments to fill in."""
    known: dict[str, Any] = {
        "library_name": "streamnest",
        "tags": ["speech", "fastconformer", *(["streaming"] if streams else [])],
        "pipeline_tag": _PIPELINES.get(task),
        "metrics": _METRICS.get(task),
        "license": facts.license,
        "language": list(facts.languages),
        "datasets": list(facts.datasets),
    }
    missing = {
        "license": "LICENSE OF THE WEIGHTS, such as cc-by-4.0",
        "language": "[LANGUAGE, ...], such as en",
        "datasets": "[NAME, ...] of the training data",
    }
    # JSON strings and lists are YAML, and quotes keep a language such as `no` from becoming a truth value.
    lines = [f"{name}: {json.dumps(value)}" for name, value in known.items() if value]
    todo = [f"# {name}: {text}" for name, text in missing.items() if not known[name]]
    return ["---", *lines, *(["# Fill in before you publish the folder:", *todo] if todo else []), "---"]


def _use(name: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "import streamnest, torch  # pip install 'streamnest[hub]'",
        "",
        f"model = streamnest.from_pretrained({json.dumps(name)})",
        "audio = torch.zeros(1, 16000)  # samples in [-1, 1]",
        "frames, valid = model(audio, torch.tensor([16000]))  # (B, T', d), (B,)",
        "```",
        "",
        "`streamnest train` accepts the folder, or `hf:ORG/NAME`, as `init_from` or `encoder_from`;",
        "`streamnest verify`, `stream` and `export` accept it as a checkpoint.",
    ]


def _results(facts: CardFacts) -> list[str]:
    if not facts.results:
        return ["## Results", "", "None were stated when the model was saved."]
    rows = [(_cell(name), _cell(value)) for name, value in facts.results.items()]
    return ["## Results", "", markdown_table(("measure", "value"), rows)]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _license(facts: CardFacts) -> list[str]:
    stated = f"The weights are licensed under `{facts.license}`." if facts.license else "The license is not stated."
    trained = f" Trained on {', '.join(facts.datasets)}." if facts.datasets else ""
    return ["## License", "", stated + trained]


def _certificate(context: str | None, certificate: Certificate) -> list[str]:
    latency = certificate.latency
    heading = "Certificate" if context is None else f"Certificate of context `{context}`"
    verdict = certificate.verdict
    verdict = verdict[0].upper() + verdict[1:] if certificate.passed else f"**{verdict.capitalize()}**"
    declared = {
        "look-ahead past the end of a frame": latency.lookahead_ms,
        "- front end": latency.front_end_ms,
        "- subsampling": latency.subsampling_ms,
        "- attention and convolution": latency.context_ms,
        "chunk": latency.chunk_ms,
        "algorithmic latency, mean": latency.latency_mean_ms,
        "algorithmic latency, worst": latency.latency_worst_ms,
    }
    return [
        f"## {heading}",
        "",
        f"{verdict}. Measured when the model was saved; `streamnest verify FOLDER` repeats the checks.",
        "",
        "| computed from the layers | |",
        "| --- | --- |",
        *(f"| {name} | {milliseconds(value)} |" for name, value in declared.items()),
        "",
        "| check | declared | measured | |",
        "| --- | --- | --- | --- |",
        *(
            f"| {check.name} | {check.declared} | {check.measured} | {'pass' if check.passed else '**FAIL**'} |"
            for check in certificate.checks
        ),
    ]

"""`save_pretrained` and `from_pretrained`: models as folders, with a model card that contains the certificate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from streamnest import __version__
from streamnest.checkpoint.loading import load_model
from streamnest.checkpoint.model_folder import write_folder
from streamnest.config.stored import task_name
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import milliseconds
from streamnest.streaming.certificate import Certificate, verify

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@|\?.*")


def save_pretrained(model: EncoderTask, folder: str | Path) -> dict[str | None, Certificate]:
    """Writes a model as a folder: `model.safetensors`, `config.json`, and the model card `README.md`.

    Look-ahead and latency on the card are measured now, as by `streamnest verify`.

    Args:
        model: model of any task; it is not changed.
        folder: folder to write to, created if necessary; its other files are kept.

    Returns:
        The certificate of each context of a dynamic encoder by name; the key is None for an encoder with one context.
    """
    certificates = {name: verify(model) for name in model.encoder.each_context()}
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    shared = {**checkpoint["streamnest"], "config": without_credentials(checkpoint["streamnest"]["config"])}
    write_folder(folder, model.state_dict(), shared, card(model, Path(folder).name, certificates))
    return certificates


def from_pretrained(folder: str | Path, context: str | None = None) -> EncoderTask:
    """Loads the model of a folder written by `save_pretrained`, or of a checkpoint, in evaluation mode.

    Args:
        folder: path on this machine.
        context: name of a context of a dynamic encoder; None is the default one.

    Raises:
        UserError: for anything but a model of streamnest, and for an unknown context.
    """
    return load_model(folder, context)


def without_credentials(value: Any) -> Any:
    """Removes user, password and query, which may contain a signature, from the URLs in plain data."""
    if isinstance(value, dict):
        return {key: without_credentials(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_credentials(one) for one in value]
    return _CREDENTIALS.sub("", value) if isinstance(value, str) and "://" in value else value


def card(model: EncoderTask, name: str, certificates: dict[str | None, Certificate]) -> str:
    """Returns the card of a model as Markdown.

    Args:
        model: described model.
        name: name of the model.
        certificates: certificates by context, as `save_pretrained` returns them.
    """
    encoder, latency = model.encoder, model.latency
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    task = task_name(model.config)
    streams = "It streams." if latency.streams else "It needs whole utterances and does not stream."
    lines = [
        *_fields(task, latency.streams),
        f"# {name}",
        "",
        f"A FastConformer of streamnest {__version__}, task `{task}`: {parameters:.1f}M parameters "
        f"in {len(encoder.layers)} layers, a frame of {encoder.d_model} values per {encoder.frame_ms:g} ms of audio at "
        f"{model.frontend.sample_rate} Hz. {streams}",
    ]
    lines += ["", *_USE]
    for context, certificate in certificates.items():
        lines += ["", *_certificate(context, certificate)]
    return "\n".join(lines) + "\n"


# Metrics of each task by their names on model hubs.
_METRICS = {
    "pretrain": "accuracy",
    "ctc": "cer, wer",
    "rnnt": "cer, wer",
    "diarization": "der",
    "speaker": "eer",
}


def _fields(task: str, streams: bool) -> list[str]:
    """Returns the fields that a model hub reads; those that a checkpoint does not contain are comments to fill in."""
    return [
        "---",
        "library_name: streamnest",
        f"tags: [speech, fastconformer{', streaming' if streams else ''}]",
        *([f"metrics: [{_METRICS[task]}]"] if task in _METRICS else []),
        "# Fill in before you publish the folder:",
        "# license: LICENSE OF THE WEIGHTS, such as cc-by-4.0",
        "# language: [LANGUAGE, ...], such as en",
        "# datasets: [NAME, ...] of the training data",
        "---",
    ]


_USE = [
    "```python",
    "import streamnest, torch",
    "",
    'model = streamnest.from_pretrained("this folder")',
    "audio = torch.zeros(1, 16000)  # samples in [-1, 1]",
    "frames, valid = model(audio, torch.tensor([16000]))  # (B, T', d), (B,)",
    "```",
    "",
    "`streamnest train` accepts the folder as `init_from` or `encoder_from`; `streamnest verify`, `stream` and",
    "`export` accept it as a checkpoint.",
]


def _certificate(context: str | None, certificate: Certificate) -> list[str]:
    latency = certificate.latency
    title = "Certificate" if context is None else f"Certificate of context `{context}`"
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
        f"## {title}",
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

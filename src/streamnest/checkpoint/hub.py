"""`save_pretrained` and `from_pretrained`: models as folders, with a card that holds their certificate."""

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
    """Writes a model as a folder: `model.safetensors`, `config.json`, and `README.md`, its card.

    What the card says of look-ahead and latency is measured now, as `streamnest verify` does.

    Args:
        model: of any task; left as it is.
        folder: is made where there is none; its other files stay.

    Returns:
        The certificate of each context of a dynamic encoder by name, or of the only one, named None.
    """
    certificates = {name: verify(model) for name in model.encoder.each_context()}
    own: dict[str, Any] = {}
    model.on_save_checkpoint(own)
    shared = {**own["streamnest"], "config": without_credentials(own["streamnest"]["config"])}
    write_folder(folder, model.state_dict(), shared, card(model, Path(folder).name, certificates))
    return certificates


def from_pretrained(folder: str | Path, context: str | None = None) -> EncoderTask:
    """The model of such a folder, or of a checkpoint, in evaluation mode.

    Args:
        folder: on this machine.
        context: the name of one of the contexts of a dynamic encoder; None is its default.

    Raises:
        UserError: for what is no model of streamnest, and for an unknown context.
    """
    return load_model(folder, context)


def without_credentials(value: Any) -> Any:
    """Plain data in which addresses have neither a user and password nor a query, which may hold a signature."""
    if isinstance(value, dict):
        return {key: without_credentials(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_credentials(one) for one in value]
    return _CREDENTIALS.sub("", value) if isinstance(value, str) and "://" in value else value


def card(model: EncoderTask, name: str, certificates: dict[str | None, Certificate]) -> str:
    """The card of a model, Markdown.

    Args:
        model: that it is of.
        name: of the model.
        certificates: by context, as `save_pretrained` returns them.
    """
    encoder, latency = model.encoder, model.latency
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    streams = "It streams." if latency.streams else "It hears whole utterances and does not stream."
    lines = [
        "---",
        "library_name: streamnest",
        f"tags: [speech, fastconformer{', streaming' if latency.streams else ''}]",
        "---",
        f"# {name}",
        "",
        f"A FastConformer of streamnest {__version__}, task `{task_name(model.config)}`: {parameters:.1f}M parameters "
        f"in {len(encoder.layers)} layers, {encoder.d_model} values for each {encoder.frame_ms:g} ms of audio at "
        f"{model.frontend.sample_rate} Hz. {streams}",
    ]
    lines += ["", *_USE]
    for context, certificate in certificates.items():
        lines += ["", *_certificate(context, certificate)]
    return "\n".join(lines) + "\n"


_USE = [
    "```python",
    "import streamnest, torch",
    "",
    'model = streamnest.from_pretrained("this folder")',
    "audio = torch.zeros(1, 16000)  # samples in [-1, 1]",
    "frames, valid = model(audio, torch.tensor([16000]))  # (B, T', d), (B,)",
    "```",
    "",
    "`train.py` takes the folder as `init_from` or `encoder_from`; `streamnest verify`, `stream.py` and `export.py` as",
    "a checkpoint.",
]


def _certificate(context: str | None, certificate: Certificate) -> list[str]:
    latency = certificate.latency
    title = "Certificate" if context is None else f"Certificate of context `{context}`"
    verdict = "Every check below passed" if certificate.passed else "**Not certified**: a check below failed"
    declared = {
        "look-ahead past the end of a frame": latency.lookahead_ms,
        "of it front end": latency.front_end_ms,
        "of it subsampling": latency.subsampling_ms,
        "of it attention and convolution": latency.context_ms,
        "chunk": latency.chunk_ms,
        "algorithmic latency, mean": latency.latency_mean_ms,
        "algorithmic latency, worst": latency.latency_worst_ms,
    }
    return [
        f"## {title}",
        "",
        f"{verdict}; measured when this was saved, again with `streamnest verify FOLDER`.",
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

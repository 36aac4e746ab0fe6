"""Folder with the page, an exported model and a worker that runs it in the browser: `streamnest serve --static`."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.downstream.diarization.task import Diarizer
from streamnest.downstream.exported import ExportedDiarizer, ExportedModel, ExportedRecognizer
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.files.atomic_write import whole, write_json, write_whole
from streamnest.serving.certification import measure_lookahead
from streamnest.serving.served_model import ServedModel
from streamnest.streaming.export import export_step
from streamnest.streaming.onnx_session import OnnxSession

# Files of the folder dist of the npm package onnxruntime-web that the worker loads.
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src data:; base-uri 'none'; form-action 'none'"
_SUFFIXES = (".html", ".js", ".css")


def runtime_folder(folder: Path | None) -> Path:
    """Returns the folder dist of the npm package onnxruntime-web.

    Raises:
        UserError: if it is not given or has not the files that the worker loads.
    """
    remedy = "unpack the npm package onnxruntime-web (npm pack onnxruntime-web) and pass its folder dist"
    if folder is None:
        raise UserError(f"--static needs --onnxruntime-web FOLDER: {remedy}")
    if missing := [name for name in RUNTIME if not (folder / name).is_file()]:
        raise UserError(f"--onnxruntime-web {folder} has no {' and no '.join(missing)}: {remedy}")
    return folder


def write_static(model: str | Path, loaded: EncoderTask | ExportedModel, out: Path, runtime: Path) -> None:
    """Writes a folder that any web server can serve; the model runs in the browser.

    Args:
        model: path of the checkpoint or exported graph.
        loaded: its model.
        out: folder to write.
        runtime: folder that `runtime_folder` returns.

    Raises:
        UserError: for models without results that the page can compute.
    """
    exported = _exported(model, loaded, out)
    graph = exported.session.metadata
    if graph["batch"] not in (None, 1):
        raise UserError(f"{model} has batch {graph['batch']}: a page has one stream; export it with --batch 1")
    measured = {graph["context"]: dict[str, float | None]()}
    measure_lookahead(loaded, measured)
    write_json(out / "model.json", {**_described(exported), **measured[graph["context"]], "graph": graph})
    for name in RUNTIME:
        _copy(runtime / name, out / name)
    page = Path(str(files("streamnest.serving") / "page"))
    for file in [*page.iterdir(), *(page / "browser").iterdir()]:  # the second ones replace files of the first
        if file.suffix in _SUFFIXES:
            _copy(file, out / file.name)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    index = (page / "index.html").read_text(encoding="utf-8")
    write_whole(out / "index.html", index.replace("<head>\n", f"<head>\n{policy}\n", 1))


def _exported(
    model: str | Path, loaded: EncoderTask | ExportedModel, out: Path
) -> ExportedRecognizer | ExportedDiarizer:
    """Writes the graph to the folder, and returns the model that runs it."""
    if not isinstance(loaded, CTCRecognizer | Diarizer | ExportedRecognizer | ExportedDiarizer):
        raise UserError(f"{model} is not of task=ctc or task=diarization: a page without a server needs one of them")
    path = out / "model.onnx"
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(loaded, EncoderTask):
        export_step(loaded, path)
    else:
        _copy(Path(model), path)
    recognizes = isinstance(loaded, CTCRecognizer | ExportedRecognizer)
    return (ExportedRecognizer if recognizes else ExportedDiarizer)(OnnxSession(path))


def _described(model: ExportedRecognizer | ExportedDiarizer) -> dict[str, Any]:
    """Returns the fields of `ready`, and the text of each token of a recognizer."""
    served = ServedModel.of(model)
    fields = {**served.described(None), "context": model.session.metadata["context"]}
    if isinstance(model, ExportedRecognizer):
        tokens = range(1, model.tokenizer.size)
        fields["pieces"] = ["", *(model.tokenizer.pieces([token]) for token in tokens)]
    return fields


def _copy(source: Path, target: Path) -> None:
    with whole(target) as part:
        shutil.copyfile(source, part)

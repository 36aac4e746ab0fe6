"""NeMo archives for tests: the fixture and modified copies."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from streamnest.interop.nemo.archive import CONFIG, WEIGHTS, read_archive

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
NEST = ROOT / "tests/fixtures/nest_tiny.nemo"
EXPECTED = ROOT / "tests/fixtures/nest_tiny.expected.pt"

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def pack(path: Path, members: Mapping[str, bytes] | list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:") -> Path:
    """Writes a tar of members."""
    given = members if isinstance(members, list) else [(tarfile.TarInfo(n), content) for n, content in members.items()]
    with tarfile.open(path, mode) as tar:
        for member, content in given:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def contents(change: Change | None = None) -> dict[str, bytes]:
    """Returns config and weights of the fixture, modified by `change`."""
    archive = read_archive(NEST)
    if change:
        change(archive.config, archive.weights)
    file = io.BytesIO()
    torch.save(archive.weights, file)
    return {CONFIG: yaml.safe_dump(archive.config).encode(), WEIGHTS: file.getvalue()}


def changed(path: Path, change: Change) -> Path:
    """Writes a modified copy of the fixture."""
    return pack(path, contents(change))


def recognizer(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Turns the fixture into a bidirectional transducer, in all that an import reads."""
    for key in ("quantizer", "masking", "mask_position", "num_classes", "num_books", "code_dim", "squeeze_single"):
        config.pop(key)
    config |= {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "tokenizer": {"dir": None, "type": "bpe", "model_path": "nemo:0123_tokenizer.model"},
        "decoder": {"_target_": "nemo.collections.asr.modules.RNNTDecoder", "prednet": {"pred_hidden": 8}},
        "joint": {"_target_": "nemo.collections.asr.modules.RNNTJoint"},
    }
    for name in [name for name in weights if not name.startswith(("encoder.", "preprocessor."))]:
        weights.pop(name)
    weights["decoder.prediction.embed.weight"] = torch.zeros(3, 8)
    weights["joint.enc.weight"] = torch.zeros(8, 64)


def cache_aware(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Turns the fixture into a streaming transducer with scaled-down contexts of NeMo's multi-look-ahead recipe."""
    recognizer(config, weights)
    config["preprocessor"] |= {"normalize": "NA", "pad_to": 0}
    config["encoder"] |= {
        "causal_downsampling": True,
        "att_context_size": [[14, 6], [14, 1], [14, 0], [-1, -1]],
        "att_context_probs": [0.25, 0.25, 0.25, 0.25],
        "att_context_style": "chunked_limited",
        "conv_context_size": "causal",
        "conv_norm_type": "layer_norm",
    }
    for name in [name for name in weights if ".batch_norm.running" in name or "num_batches" in name]:
        weights.pop(name)
    # Shifted padding of the bands leaves 11 of 80 bands instead of 10.
    out = weights["encoder.pre_encode.out.weight"]
    weights["encoder.pre_encode.out.weight"] = torch.randn(64, 16 * 11, generator=torch.Generator().manual_seed(0)) / 13
    assert out.shape == (64, 160)

"""Import of a NeMo archive as a streamnest model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from streamnest.build import build_model, plain
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.config.compose import compose_config
from streamnest.config.stored import construct
from streamnest.errors import UserError
from streamnest.files.plain_data import of_file, short
from streamnest.files.tensor_file import stored_bytes
from streamnest.interop.nemo.archive import Archive, read_archive
from streamnest.interop.nemo.description import heads_of
from streamnest.interop.nemo.settings import Settings, read_settings
from streamnest.interop.nemo.targets import OWN, read_targets
from streamnest.interop.nemo.weights import encoder_state_from_nemo, encoder_state_to_nemo, heads_state_from_nemo
from streamnest.normalization import Normalizer
from streamnest.pretraining import Pretraining

# The largest weight of a filter bank is about 0.03. Rounding differs between libraries; other banks differ far more.
_BANK_TOLERANCE = 1e-6
_NORM_TOLERANCE = 1e-4
# Tensors of the encoder that do not influence its output: a table of positions, masks for training.
_IDLE = ("pos_enc.", ".mask")
# Largest number of new elements in quantizer and heads, if an archive has none.
_NEW_TENSORS = 100_000_000
_COUNTERS = "num_batches_tracked"


@torch.no_grad()
def import_nemo(path: str | Path, config_dir: Path) -> tuple[Pretraining, TransferReport, list[str]]:
    """Builds a model from an archive of NEST, or of a recognizer with a FastConformer.

    Args:
        path: archive, which may be untrusted: nothing in it is executed.
        config_dir: folder with `train.yaml` and the config groups.

    Returns:
        The model in evaluation mode, the report of the parts of the archive, and the overrides with which `train.py`
        builds the same architecture.

    Raises:
        UserError: as `read_archive`; and naming settings that are not supported.
    """
    archive = read_archive(path)
    report = TransferReport(archive.path)
    with of_file(archive.path):
        model, overrides = _import(archive, config_dir, report)
    return model, report, overrides


def _import(archive: Archive, config_dir: Path, report: TransferReport) -> tuple[Pretraining, list[str]]:
    settings = read_settings(archive.config, report)
    read_targets(archive.config, settings, report)
    cfg, overrides = _compose(settings, config_dir)
    _check_size(plain(cfg), archive)
    torch.manual_seed(cfg.seed)
    model: Pretraining = build_model(cfg, training=False).eval()
    left = dict(archive.weights)
    _check_frontend(model, left, archive)
    _load_encoder(model, left, archive)
    if settings.targets:
        _load_targets(model, left, archive)
    _set_statistics(model, settings, archive.config)
    report.add("kept", "encoder", f"{len(model.encoder.layers)} layers of width {model.encoder.d_model}")
    _report_rest(left, archive, report)
    return model, overrides


def _check_size(config: Mapping[str, Any], archive: Archive) -> None:
    """Refuses a config of a far larger model than the stored weights, before memory is allocated for it."""
    with torch.device("meta"):
        parts = [construct(group, config[group]) for group in ("encoder", "quantizer", "objective")]
    described = sum(tensor.numel() for part in parts for tensor in part.state_dict().values())
    stored = stored_bytes(archive.weights)
    if described > stored + _NEW_TENSORS:
        raise UserError(
            f"the config describes {described} weights, but only {stored} bytes are stored: they do not fit"
        )


def _compose(settings: Settings, config_dir: Path) -> tuple[DictConfig, list[str]]:
    """Composes the config of the settings; returns it with the overrides that differ from the defaults."""
    overrides = [f"{group}={choice}" for group, choice in settings.groups.items()]
    cfg = compose_config(overrides, config_dir, "imported")
    # Some values of the encoder and the objective depend on others, which are set first.
    for key in sorted(settings.values, key=lambda key: key.startswith(("encoder.", "objective."))):
        value = settings.values[key]
        if _plain(OmegaConf.select(cfg, key)) != value:
            OmegaConf.update(cfg, key, value, force_add=True)
            # Hydra merges a mapping unless it is added with a plus.
            overrides.append(f"{'+' if isinstance(value, Mapping) else ''}{key}={_override_value(value)}")
    return cfg, overrides


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _override_value(value: Any) -> str:
    """Formats a value for the command line of Hydra."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_override_value(one)}" for key, one in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check_frontend(model: Pretraining, left: dict[str, Tensor], archive: Archive) -> None:
    """Compares the window and filter bank of an archive with those of the model.

    Raises:
        UserError: if features would differ.
    """
    expected = {"window": model.frontend.window, "fb": model.frontend.filterbank.t()[None]}
    for name, wanted in expected.items():
        stored = left.pop(f"preprocessor.featurizer.{name}", wanted)
        if stored.shape != wanted.shape or (stored.float() - wanted).abs().max() > _BANK_TOLERANCE:
            raise UserError(
                f"{archive.path}: preprocessor.featurizer.{name} {tuple(stored.shape)} is not the one that the config "
                "describes, and its features are not supported"
            )


def _load_encoder(model: Pretraining, left: dict[str, Tensor], archive: Archive) -> None:
    before = model.encoder.state_dict()
    wanted = {f"encoder.{name}": value for name, value in encoder_state_to_nemo(before).items()}
    # The module for masking after the subsampling adds a prefix.
    for name in [name for name in left if name.startswith("encoder.pre_encode.pre_encode.")]:
        left[name.replace("pre_encode.", "", 1)] = left.pop(name)
    taken = _take(left, wanted, archive, optional=_COUNTERS)
    if unknown := [name for name in left if name.startswith("encoder.") and not any(part in name for part in _IDLE)]:
        example = short(unknown[0], "")
        raise UserError(f"{archive.path}: {len(unknown)} tensors of the encoder are not supported, such as {example}")
    state = encoder_state_from_nemo({name.removeprefix("encoder."): value for name, value in taken.items()})
    model.encoder.load_state_dict(before | {name: value for name, value in state.items() if name in before})


def _load_targets(model: Pretraining, left: dict[str, Tensor], archive: Archive) -> None:
    quantizer, num_codebooks, heads = model.feature_quantizer, model.quantizer.num_codebooks, heads_of(model.objective)
    mask, width = model.masking.mask_embedding, model.encoder.d_model
    wanted = {
        "quantizer.proj.weight": quantizer.projection,
        "quantizer.codebooks": quantizer.codebooks,
        "mask_processor.mask_embedding": mask,
        "decoder.decoder_layers.0.weight": torch.empty(num_codebooks * quantizer.num_classes, width, 1),
        "decoder.decoder_layers.0.bias": torch.zeros(num_codebooks * quantizer.num_classes),
    }
    bias = "decoder.decoder_layers.0.bias"
    if not archive.config["decoder"].get("use_bias", False):
        left.setdefault(bias, wanted[bias])
    taken = _take(left, wanted, archive)
    quantizer.projection.copy_(taken["quantizer.proj.weight"])
    codes = taken["quantizer.codebooks"]
    if (codes.double().norm(dim=-1) - 1).abs().max() > _NORM_TOLERANCE:
        raise UserError(
            f"{archive.path}: quantizer.codebooks are not unit-norm: dot-product search would select different codes"
        )
    quantizer.codebooks.copy_(codes)
    mask.copy_(taken["mask_processor.mask_embedding"])
    state = {name.removeprefix("decoder."): value for name, value in taken.items() if name.startswith("decoder.")}
    if heads:
        heads.heads.load_state_dict(heads_state_from_nemo(state, num_codebooks))


def _take(
    left: dict[str, Tensor], wanted: Mapping[str, Tensor], archive: Archive, optional: str = "-"
) -> dict[str, Tensor]:
    """Removes tensors of given names and shapes from those that are left.

    Raises:
        UserError: naming tensors that are missing or whose shape contradicts the config.
    """
    wrong = [
        f"{name}: {tuple(left[name].shape) if name in left else 'missing'}, by its config {tuple(value.shape)}"
        for name, value in wanted.items()
        if (name not in left and optional not in name) or (name in left and left[name].shape != value.shape)
    ]
    if wrong:
        listed = "\n".join(f"  {line}" for line in wrong[:5])
        raise UserError(f"{archive.path}: {len(wrong)} tensors do not fit its config:\n{listed}")
    return {name: left.pop(name) for name in wanted if name in left}


def _set_statistics(model: Pretraining, settings: Settings, config: Mapping[str, Any]) -> None:
    if settings.statistics:
        for norm in model.normalizers:
            norm.set_statistics(*_statistics(settings.statistics, norm))
    own = (config.get(OWN) or {}).get("quantizer") or {}
    if "mean" in own:
        model.target_norm.set_statistics(*_statistics((own["mean"], own["std"]), model.target_norm))


def _statistics(values: tuple[Any, Any], norm: Normalizer) -> tuple[Tensor, Tensor]:
    """Validates mean and standard deviation of each band."""
    mean, std = (torch.tensor(value, dtype=torch.float32) for value in values)
    valid = mean.shape == std.shape == norm.mean.shape and bool((mean.isfinite() & std.isfinite()).all())
    if not valid or float(std.min()) <= 0:
        raise UserError(f"statistics must be {len(norm.mean)} finite means and as many standard deviations above 0")
    return mean, std


def _report_rest(left: Iterable[str], archive: Archive, report: TransferReport) -> None:
    """Reports tensors and files that were not used."""
    groups = Counter(
        re.sub(r"\.\d+\.", ".*.", name) if name.startswith("encoder.") else _top_level(name) for name in left
    )
    for name, count in groups.items():
        if not report.outcomes(name):
            report.add("left out", name, f"{count} tensors that are not part of this encoder")
    for name in archive.others:
        report.add("left out", name, "file that was not read")


def _top_level(name: str) -> str:
    """Shortens decoder.prediction.embed.weight to decoder.*."""
    return name.split(".", maxsplit=1)[0] + ".*"

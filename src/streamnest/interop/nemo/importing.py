"""A NeMo archive as a model of ours."""

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
from streamnest.config.compose import compose_config
from streamnest.config.stored import construct
from streamnest.errors import UserError
from streamnest.files.plain_data import of_file, short
from streamnest.files.tensor_file import stored_bytes
from streamnest.interop.ledger import Ledger
from streamnest.interop.nemo.archive import Archive, read_archive
from streamnest.interop.nemo.description import heads_of
from streamnest.interop.nemo.settings import Settings, read_settings
from streamnest.interop.nemo.targets import OWN, read_targets
from streamnest.interop.nemo.weights import encoder_state_from_nemo, encoder_state_to_nemo, heads_state_from_nemo
from streamnest.normalization import Normalizer
from streamnest.pretraining import Pretraining

# Of a filter bank whose largest weight is about 0.03: libraries round otherwise, another bank differs by far more.
_BANK_TOLERANCE = 1e-6
_NORM_TOLERANCE = 1e-4
# Of the encoder, but nothing that it computes its output with: a table of positions, masks for training.
_IDLE = ("pos_enc.", ".mask")
# Numbers in quantizer and heads that are new if an archive has none, at most.
_NEW_TENSORS = 100_000_000
_COUNTERS = "num_batches_tracked"


@torch.no_grad()
def import_nemo(path: str | Path, config_dir: Path) -> tuple[Pretraining, Ledger, list[str]]:
    """Builds a model from an archive of NEST, or of a recogniser with a FastConformer.

    Args:
        path: of the archive, which may be a stranger's: nothing in it is executed.
        config_dir: holds `train.yaml` and the groups.

    Returns:
        The model in evaluation mode, what became of each part of the archive, and the overrides with which `train.py`
        builds the same architecture.

    Raises:
        UserError: as `read_archive`; and naming what in it cannot be had here.
    """
    archive = read_archive(path)
    ledger = Ledger(archive.path)
    with of_file(archive.path):
        model, words = _import(archive, config_dir, ledger)
    return model, ledger, words


def _import(archive: Archive, config_dir: Path, ledger: Ledger) -> tuple[Pretraining, list[str]]:
    settings = read_settings(archive.config, ledger)
    read_targets(archive.config, settings, ledger)
    cfg, words = _compose(settings, config_dir)
    _check_size(plain(cfg), archive)
    torch.manual_seed(cfg.seed)
    model: Pretraining = build_model(cfg, training=False).eval()
    left = dict(archive.weights)
    _check_frontend(model, left, archive)
    _load_encoder(model, left, archive)
    if settings.targets:
        _load_targets(model, left, archive)
    _set_statistics(model, settings, archive.config)
    ledger.add("kept", "encoder", f"{len(model.encoder.layers)} layers of width {model.encoder.d_model}")
    _tell_rest(left, archive, ledger)
    return model, words


def _check_size(config: Mapping[str, Any], archive: Archive) -> None:
    """Refuses a config that describes far more than the weights that are there, before memory is taken for it."""
    with torch.device("meta"):
        parts = [construct(group, config[group]) for group in ("encoder", "quantizer", "objective")]
    described = sum(tensor.numel() for part in parts for tensor in part.state_dict().values())
    held = stored_bytes(archive.weights)
    if described > held + _NEW_TENSORS:
        raise UserError(f"the config describes {described} numbers, the weights have {held} bytes: they do not fit")


def _compose(settings: Settings, config_dir: Path) -> tuple[DictConfig, list[str]]:
    """The config of the settings, and the fewest overrides that make it."""
    words = [f"{group}={choice}" for group, choice in settings.groups.items()]
    cfg = compose_config(words, config_dir, "imported")
    # Some values follow others, so that these come first.
    for key in sorted(settings.values, key=lambda key: key.startswith(("encoder.", "objective."))):
        value = settings.values[key]
        if _plain(OmegaConf.select(cfg, key)) != value:
            OmegaConf.update(cfg, key, value, force_add=True)
            # To a mapping Hydra adds.
            words.append(f"{'+' if isinstance(value, Mapping) else ''}{key}={_word(value)}")
    return cfg, words


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _word(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_word(one)}" for key, one in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check_frontend(model: Pretraining, left: dict[str, Tensor], archive: Archive) -> None:
    """Holds the window and filter bank of an archive against ours.

    Raises:
        UserError: when features would differ.
    """
    ours = {"window": model.frontend.window, "fb": model.frontend.filterbank.t()[None]}
    for name, wanted in ours.items():
        found = left.pop(f"preprocessor.featurizer.{name}", wanted)
        if found.shape != wanted.shape or (found.float() - wanted).abs().max() > _BANK_TOLERANCE:
            raise UserError(
                f"{archive.path}: preprocessor.featurizer.{name} {tuple(found.shape)} is not the one that the config "
                "describes: its features cannot be computed here"
            )


def _load_encoder(model: Pretraining, left: dict[str, Tensor], archive: Archive) -> None:
    ours = model.encoder.state_dict()
    wanted = {f"encoder.{name}": value for name, value in encoder_state_to_nemo(ours).items()}
    # Masking after the stem wraps it once more.
    for name in [name for name in left if name.startswith("encoder.pre_encode.pre_encode.")]:
        left[name.replace("pre_encode.", "", 1)] = left.pop(name)
    found = _take(left, wanted, archive, optional=_COUNTERS)
    if strange := [name for name in left if name.startswith("encoder.") and not any(part in name for part in _IDLE)]:
        such = short(strange[0], "")
        raise UserError(f"{archive.path}: {len(strange)} tensors of the encoder have no place in ours, such as {such}")
    state = encoder_state_from_nemo({name.removeprefix("encoder."): value for name, value in found.items()})
    model.encoder.load_state_dict(ours | {name: value for name, value in state.items() if name in ours})


def _load_targets(model: Pretraining, left: dict[str, Tensor], archive: Archive) -> None:
    quantizer, books, heads = model.quantizer, model.quantizer.num_codebooks, heads_of(model.objective)
    mask, width = model.masking.mask_embedding, model.encoder.d_model
    wanted = {
        "quantizer.proj.weight": quantizer.projection,
        "quantizer.codebooks": quantizer.codebooks,
        "mask_processor.mask_embedding": mask,
        "decoder.decoder_layers.0.weight": torch.empty(books * quantizer.num_classes, width, 1),
        "decoder.decoder_layers.0.bias": torch.zeros(books * quantizer.num_classes),
    }
    bias = "decoder.decoder_layers.0.bias"
    if not archive.config["decoder"].get("use_bias", False):
        left.setdefault(bias, wanted[bias])
    found = _take(left, wanted, archive)
    quantizer.projection.copy_(found["quantizer.proj.weight"])
    codes = found["quantizer.codebooks"]
    if (codes.double().norm(dim=-1) - 1).abs().max() > _NORM_TOLERANCE:
        raise UserError(f"{archive.path}: quantizer.codebooks are not of length 1: the nearest by product is another")
    quantizer.codebooks.copy_(codes)
    mask.copy_(found["mask_processor.mask_embedding"])
    state = {name.removeprefix("decoder."): value for name, value in found.items() if name.startswith("decoder.")}
    if heads:
        heads.heads.load_state_dict(heads_state_from_nemo(state, books))


def _take(
    left: dict[str, Tensor], wanted: Mapping[str, Tensor], archive: Archive, optional: str = "-"
) -> dict[str, Tensor]:
    """Takes tensors of given names and shapes out of those that are left.

    Raises:
        UserError: naming those that are missing or of another shape than the config says.
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
    """Mean and deviation of each band."""
    mean, std = (torch.tensor(value, dtype=torch.float32) for value in values)
    good = mean.shape == std.shape == norm.mean.shape and bool((mean.isfinite() & std.isfinite()).all())
    if not good or float(std.min()) <= 0:
        raise UserError(f"statistics of bands must be {len(norm.mean)} finite means and as many deviations above 0")
    return mean, std


def _tell_rest(left: Iterable[str], archive: Archive, ledger: Ledger) -> None:
    """Tells of tensors and members that nothing took."""
    groups = Counter(re.sub(r"\.\d+\.", ".*.", name) if name.startswith("encoder.") else _head(name) for name in left)
    for name, count in groups.items():
        if not ledger.outcomes(name):
            ledger.add("left out", name, f"{count} tensors that this encoder has no place for")
    for name in archive.others:
        ledger.add("left out", name, "a file of the archive that was not read")


def _head(name: str) -> str:
    """decoder.prediction.embed.weight: of decoder."""
    return name.split(".", maxsplit=1)[0] + ".*"

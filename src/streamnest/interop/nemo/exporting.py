"""A checkpoint of ours as an archive that NeMo opens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from streamnest.checkpoint.loading import load_model
from streamnest.config.stored import task_name
from streamnest.errors import UserError
from streamnest.interop.ledger import Ledger
from streamnest.interop.nemo.archive import write_archive
from streamnest.interop.nemo.description import blocks_of, describe, heads_of
from streamnest.interop.nemo.weights import encoder_state_to_nemo, heads_state_to_nemo
from streamnest.objectives import MaskedAndNextToken
from streamnest.pretraining import Pretraining


@torch.no_grad()
def export_nemo(path: str | Path, output: str | Path) -> tuple[Pretraining, Ledger]:
    """Writes a checkpoint of pretraining as an archive of NeMo's NEST.

    What the encoder gives for an utterance is the same there, or nothing is written.

    Args:
        path: of the checkpoint, or a folder of `save_pretrained`.
        output: the archive to write.

    Returns:
        The model, and what became of its parts.

    Raises:
        UserError: as `load_model`; and naming what NeMo's encoder cannot compute.
    """
    model = load_model(path)
    if not isinstance(model, Pretraining):
        name = task_name(model.config)
        raise UserError(f"{path} is of task={name}: NeMo's NEST takes those of task=pretrain only")
    ledger = Ledger(Path(path))
    _refuse(model)
    config = describe(model, ledger)
    write_archive(output, config, _weights(model))
    _tell_rest(model, ledger)
    return model, ledger


def _refuse(model: Pretraining) -> None:
    """Refuses what NeMo's encoder would compute otherwise."""
    reasons = []
    if model.encoder.normalize == "online":
        reasons.append("encoder.normalize=online: NeMo normalises by the utterance, by fixed numbers, or not at all")
    if model.encoder.default_context.style == "delayed":
        reasons.append("encoder.style=delayed: NeMo reads no output late; style=chunked has the same look-ahead")
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise UserError(f"NeMo's encoder cannot compute what this one does:\n{listed}")


def _weights(model: Pretraining) -> dict[str, Tensor]:
    frontend, quantizer = model.frontend, model.quantizer
    masking, masked = blocks_of(model.masking), heads_of(model.objective)
    rows, width = quantizer.num_codebooks * quantizer.num_classes, model.encoder.d_model
    heads = masked.heads.state_dict() if masked else {"weight": torch.zeros(rows, width), "bias": torch.zeros(rows)}
    decoder = heads_state_to_nemo(heads["weight"], heads["bias"], quantizer.num_codebooks)
    embedding = masking.mask_embedding if masking else torch.zeros(frontend.num_mels)
    return {
        "preprocessor.featurizer.window": frontend.window.clone(),
        "preprocessor.featurizer.fb": frontend.filterbank.t()[None].contiguous(),
        **{f"encoder.{name}": x.clone() for name, x in encoder_state_to_nemo(model.encoder.state_dict()).items()},
        "quantizer.proj.weight": quantizer.projection.clone(),
        "quantizer.codebooks": quantizer.codebooks.double(),
        "mask_processor.mask_embedding": embedding.detach().clone(),
        **{f"decoder.{name}": value for name, value in decoder.items()},
    }


def _tell_rest(model: Pretraining, ledger: Ledger) -> None:
    if _same_normalisation(model):
        ledger.add("kept", "quantizer", "projection and codes: the same targets")
    else:
        ledger.add(
            "differs",
            f"quantizer.normalize={model.target_norm.kind}",
            f"NeMo quantises what its encoder hears, {model.encoder.normalize} features: the targets there are others "
            "than the heads have learned. Importing the archive here gives the same as before",
        )
    if heads_of(model.objective) is None:
        ledger.add("new", "decoder", "zeros: NeMo has no heads for the next blocks, which were left out")
    else:
        ledger.add("kept", "objective.heads", "as MultiSoftmaxDecoder")
    if isinstance(model.objective, MaskedAndNextToken):
        ledger.add("left out", "objective.next_token", "NeMo has no heads for the next blocks")
    if "unmasked" in getattr(heads_of(model.objective), "weights", {}):
        ledger.add("left out", "objective.unmasked_weight", "NeMo predicts hidden blocks only")
    ledger.add("left out", "optim, trainer, data, augment", "of training: NeMo has its own")
    ledger.add("left out", "train_counts, seconds_seen", "counts of the run")


def _same_normalisation(model: Pretraining) -> bool:
    ours, theirs = model.input_norm, model.target_norm
    equal = torch.equal(ours.mean, theirs.mean) and torch.equal(ours.std, theirs.std)
    return ours.kind == theirs.kind and (ours.kind != "global" or equal)

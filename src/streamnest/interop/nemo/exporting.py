"""Export of a pretraining checkpoint as a NeMo archive."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from streamnest.checkpoint.loading import load_model
from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.config.stored import task_name
from streamnest.errors import UserError
from streamnest.interop.nemo.archive import write_archive
from streamnest.interop.nemo.description import describe, heads_of, random_masking
from streamnest.interop.nemo.weights import encoder_state_to_nemo, heads_state_to_nemo
from streamnest.objectives import MaskedAndNextToken
from streamnest.pretraining import Pretraining
from streamnest.targets import TeacherQuantizer


@torch.no_grad()
def export_nemo(path: str | Path, output: str | Path) -> tuple[Pretraining, TransferReport]:
    """Writes a pretraining checkpoint as an archive of NeMo's NEST.

    The encoder computes the same output for a whole utterance in NeMo; otherwise the export is refused.

    Args:
        path: checkpoint, or folder from `save_pretrained`.
        output: archive to write.

    Returns:
        The model and the report of its parts.

    Raises:
        UserError: as `load_model`; and naming settings that NeMo's encoder does not support.
    """
    model = load_model(path)
    if not isinstance(model, Pretraining):
        name = task_name(model.config)
        raise UserError(f"{path} is a checkpoint of task={name}: only task=pretrain can be exported as NEST")
    report = TransferReport(Path(path))
    _refuse(model)
    config = describe(model, report)
    write_archive(output, config, _weights(model))
    _report_rest(model, report)
    return model, report


def _refuse(model: Pretraining) -> None:
    """Refuses settings with which NeMo's encoder would compute another output."""
    reasons = []
    if model.encoder.normalize == "online":
        reasons.append("encoder.normalize=online: NeMo supports statistics of the utterance, fixed statistics, or none")
    if model.encoder.default_context.style == "delayed":
        reasons.append("encoder.style=delayed: not supported by NeMo; style=chunked has the same look-ahead")
    if model.encoder.layers[0].offline_norms is not None:
        reasons.append("encoder.norms_per_mode=true: NeMo has one set of norms for all contexts")
    if model.encoder.default_context.style == "buffered":
        reasons.append("encoder.style=buffered: NeMo's right context adds up over layers (docs/BUFFERED.md)")
    if isinstance(model.quantizer, TeacherQuantizer):
        reasons.append("quantizer=teacher: NeMo's NEST has no codes of a teacher, only a random-projection quantizer")
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise UserError(f"NeMo's encoder does not support these settings:\n{listed}")


def _weights(model: Pretraining) -> dict[str, Tensor]:
    frontend, quantizer = model.frontend, model.feature_quantizer
    masking, masked = random_masking(model.masking), heads_of(model.objective)
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


def _report_rest(model: Pretraining, report: TransferReport) -> None:
    if _same_normalization(model):
        report.add("kept", "quantizer", "projection and codebooks: same targets")
    else:
        report.add(
            "differs",
            f"quantizer.normalize={model.target_norm.kind}",
            f"NeMo quantizes the input features of its encoder (normalize={model.encoder.normalize}), so that the "
            "targets are not those that the heads were trained with. Importing the archive restores them",
        )
    if heads_of(model.objective) is None:
        report.add("new", "decoder", "zeros: NeMo has no heads for next-token prediction")
    else:
        report.add("kept", "objective.heads", "as MultiSoftmaxDecoder")
    if isinstance(model.objective, MaskedAndNextToken):
        report.add("left out", "objective.next_token", "NeMo has no heads for next-token prediction")
    if "unmasked" in getattr(heads_of(model.objective), "weights", {}):
        report.add("left out", "objective.unmasked_weight", "NeMo predicts masked frames only")
    report.add("left out", "optim, trainer, data, augment", "settings of training: NeMo has its own")
    report.add("left out", "train_counts, seconds_seen", "counters of the run")


def _same_normalization(model: Pretraining) -> bool:
    inputs, targets = model.input_norm, model.target_norm
    equal = torch.equal(inputs.mean, targets.mean) and torch.equal(inputs.std, targets.std)
    return inputs.kind == targets.kind and (inputs.kind != "global" or equal)

"""Checks that the parts of a pretraining module fit together."""

from __future__ import annotations

from streamnest.config.tasks import DualModeConfig
from streamnest.encoder import FastConformer
from streamnest.encoder.dual_mode import check_dual_mode
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import receptive_field_end
from streamnest.masking import ChunkMasking, Masking
from streamnest.objectives import Objective
from streamnest.objectives.dual_mode import dual_weights
from streamnest.quantizer import RandomProjectionQuantizer
from streamnest.targets import TeacherQuantizer


def check_sizes(
    frontend: LogMel, encoder: FastConformer, quantizer: RandomProjectionQuantizer | TeacherQuantizer
) -> None:
    """Rejects a quantizer for other features or another frame rate."""
    if isinstance(quantizer, RandomProjectionQuantizer) and quantizer.feat_in != frontend.num_mels:
        raise UserError(
            f"quantizer.feat_in={quantizer.feat_in} but frontend.num_mels={frontend.num_mels}: make them equal"
        )
    if quantizer.stack != encoder.subsampling.factor:
        raise UserError(
            f"quantizer.stack={quantizer.stack} but encoder.subsampling_factor={encoder.subsampling.factor}: "
            "a code belongs to one encoder frame, so make them equal"
        )


def check_masking(masking: Masking, encoder: FastConformer) -> None:
    """Rejects chunks that are too short to be masked, in any context."""
    if isinstance(masking, ChunkMasking):
        masking.longest_tail(encoder.chunk_features)
        for _ in encoder.each_context():
            masking.longest_tail(encoder.chunk_features)


def check_objective(objective: Objective, encoder: FastConformer, frontend: LogMel, causal_features: bool) -> None:
    """Rejects an objective that the encoder's receptive field leaves nothing to predict; see `receptive_field_end`."""
    if not objective.predicts_unseen:
        return
    if receptive_field_end(encoder, frontend, 1, causal_features) is None:
        raise UserError(
            "the objective predicts audio beyond the receptive field, and this encoder sees the whole utterance: "
            "choose a streaming one such as encoder=causal, or objective=masked"
        )
    for name in encoder.each_context():
        if len(objective.weights) == 1 and receptive_field_end(encoder, frontend, 1, causal_features) is None:
            raise UserError(
                f"encoder.contexts.{name} sees the whole utterance, which leaves nothing to predict: remove it "
                f"with '~encoder.contexts.{name}', or choose objective=masked_next_token"
            )


def checked_dual_weights(settings: DualModeConfig, encoder: FastConformer, objective: Objective) -> dict[str, float]:
    """Returns the weights of the parts that dual mode adds to the loss; empty if it is off.

    Raises:
        UserError: if the objective or the encoder does not support dual mode, or a delay is set.
    """
    if not settings.active:
        return {}
    if "masked" not in objective.weights:
        raise UserError(
            "task.dual_mode compares predictions of masked frames: choose objective=masked or masked_next_token"
        )
    if settings.delay_ms:
        raise UserError(
            f"task.dual_mode.delay_ms={settings.delay_ms:g} is for task=ctc and rnnt: each output of pretraining "
            "predicts the code of its own frame, so set it to 0"
        )
    check_dual_mode(encoder, settings.offline_weight, settings.delay_ms)
    return dual_weights(objective.weights, settings.offline_weight, settings.distillation_weight)

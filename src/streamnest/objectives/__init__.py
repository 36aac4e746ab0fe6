"""What the encoder is taught: heads and losses. Formulas and when to use which: docs/OBJECTIVES.md."""

from streamnest.objectives.base import Objective, ObjectiveConfig, PredictionContext, PredictionResult
from streamnest.objectives.masked import MaskedConfig, MaskedPrediction
from streamnest.objectives.mixed import MaskedAndNextToken, MaskedAndNextTokenConfig
from streamnest.objectives.next_token import NextTokenConfig, NextTokenPrediction

__all__ = [
    "MaskedAndNextToken",
    "MaskedAndNextTokenConfig",
    "MaskedConfig",
    "MaskedPrediction",
    "NextTokenConfig",
    "NextTokenPrediction",
    "Objective",
    "ObjectiveConfig",
    "PredictionContext",
    "PredictionResult",
]
